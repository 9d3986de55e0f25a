extension Museum {
    /// Notifiers, migration, exclusive access and the reference driver.
    static let core: [Exhibit] = [
        .removeReadsOutsideLock,
        .sequenceSampledLate,
        .exclusiveRemovedWithoutReference,
        .exclusiveTrylock,
        .ownExclusiveEvent,
        .atomicMapUnderFolioLock,
    ]

    /// Patches as they were mailed.
    static let mails: [Exhibit] = []
}
