extension Museum {
    /// Notifiers, migration, exclusive access and the reference driver.
    static let core: [Exhibit] = [
        .sequenceSampledLate
    ]

    /// Patches as they were mailed.
    static let mails: [Exhibit] = []
}
