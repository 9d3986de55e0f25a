import Testing

/// Fails the test once for each finding, in the form `FILE:LINE: what is wrong`.
func report(_ findings: [String], sourceLocation: SourceLocation = #_sourceLocation) {
    for finding in findings { Issue.record("\(finding)", sourceLocation: sourceLocation) }
}
