/// Explores as `explore` does, and throws what goes wrong: for a test, which then fails with the schedule in columns.
///
///     @Test func theMirrorIsNeverStale() throws {
///         try explored { scene in … }
///     }
///
/// - Parameters:
///   - token: runs only the schedule that the token of an earlier failure names. Throws a `ReplayTokenError` if it
///     belongs to another program.
///   - file: with `function`, names the program for tokens, unless `options.program` does.
/// - Throws: the `ExplorationFailure`.
@discardableResult
public func explored(
    _ options: ExplorationOptions = ExplorationOptions(), replaying token: String? = nil, file: String = #fileID,
    function: String = #function, _ program: @escaping (Scene) throws -> Void
) throws -> Exploration {
    var options = options
    if options.program.isEmpty { options.program = "\(file) \(function)" }
    if let token { try options.replay(ReplayToken(token)) }
    let exploration = explore(options, program)
    if let failure = exploration.failure { throw failure }
    return exploration
}
