extension Museum {
    /// Patches and proposals as they were mailed.
    static let mails: [Exhibit] = [
        .deadlineMakesContentionAnError,
        .exclusiveWithoutNotifier,
        .splitWithoutReference,
        .splitWaitsWithLocksHeld,
        .busyFolioFailsTheFault,
        .rollbackCompletesMigration,
    ]
}
