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
        .dirtyBitOfPrivateEntry,
        .oldFolioOnLRU,
        .exclusiveRemovedWithoutReference,
        .exclusiveWithoutMapcount,
        .exclusiveTrylock,
        .ownExclusiveEvent,
        .retryKeepsFolioLocked,
        .ownRestoreVoidsTheRound,
        .privatePageStoredAsIs,
        .mapAfterMigrateUnchecked,
        .atomicMapUnderFolioLock,
        .closeWithoutEvicting,
    ]
}
