extension Museum {
    /// Notifiers, migration, exclusive access and the reference driver.
    static let core: [Exhibit] = [
        .privateFaultWithoutReference,
        .faultsCountEachOther,
        .loserSpinsOnHoldersProcessor,
        .removeReadsOutsideLock,
        .sequenceSampledLate,
        .exclusiveRemovedWithoutReference,
        .exclusiveTrylock,
        .ownExclusiveEvent,
        .privatePageStoredAsIs,
        .mapAfterMigrateUnchecked,
        .atomicMapUnderFolioLock,
        .closeWithoutEvicting,
    ]

    /// Patches as they were mailed.
    static let mails: [Exhibit] = []
}
