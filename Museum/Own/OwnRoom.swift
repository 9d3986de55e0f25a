extension Museum {
    /// Bugs of this project's own core that the explorer has found.
    static let own: [Exhibit] = [
        .newFolioFoundUnlocked,
        .unusedPageGivenBackUnderALook,
        .slotUncachedInTwoSteps,
        .exclusiveBatchStoredUnchecked,
        .dropLeftToEachOther,
        .cleanedUnderReclaim,
        .cleanAfterTheCopy,
        .sharedPageDroppedAsClean,
    ]
}
