extension Museum {
    /// Drivers, and handlers of userfaultfd.
    static let drivers: [Exhibit] = [
        // drm_gpusvm, xe
        .devicesEvictEachOther, .pagesWithoutBound, .structPageWithoutNotifierLock, .dirtyUnderNotifierLock,
        .collectorQueuedAfterFlush, .foreignPagemapOutlivesModule,
        // AMD KFD
        .rangeFaultReentersDriver, .reservationAgainstMmapLock, .lastUserInNotifier, .bufferDroppedTwice,
        .faultOlderThanUnmap,
        // nouveau, UVM
        .failedCopyPublished, .tablesFreedUnderFaultWorker, .sharedMappingRetried, .exclusiveReentersDriver,
        .evictsItsOwnPass,
        // handlers of userfaultfd
        .moveMissesSwapCache, .staleSourceAfterRemove, .waitsForNoEvent, .negativeProgress, .writeBeforeProtection,
        .unmapWaitsForLeavingPage,
    ]
}
