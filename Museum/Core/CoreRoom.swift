extension Museum {
    /// Notifiers, migration, exclusive access and the reference driver.
    static let core: [Exhibit] = [
        .privateFaultWithoutReference,
        .faultsCountEachOther,
        .loserSpinsOnHoldersProcessor,
        .removeReadsOutsideLock,
        .collapseWithoutNotifier,
        .sequenceSampledLate,
        .dirtyBitLost,
        .oldFolioOnLRU,
        .exclusiveRemovedWithoutReference,
        .exclusiveWithoutMapcount,
        .exclusiveTrylock,
        .ownExclusiveEvent,
        .privatePageStoredAsIs,
        .mapAfterMigrateUnchecked,
        .atomicMapUnderFolioLock,
        .closeWithoutEvicting,
    ]

    /// Patches as they were mailed.
    static let mails: [Exhibit] = [
        .exclusiveWithoutNotifier
    ]
}
