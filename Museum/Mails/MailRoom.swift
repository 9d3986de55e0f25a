extension Museum {
    /// Patches and proposals as they were mailed.
    static let mails: [Exhibit] = [
        .frameOfStartForWholeLeaf,
        .deadlineMakesContentionAnError,
        .exclusiveWithoutNotifier,
        .splitWithoutReference,
        .splitWaitsWithLocksHeld,
        .busyFolioFailsTheFault,
        .rollbackCompletesMigration,
    ]
}
