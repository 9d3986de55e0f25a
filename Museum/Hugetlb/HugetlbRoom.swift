extension Museum {
    /// High-granularity mappings of hugetlb.
    static let hugetlb: [Exhibit] = [.pagesAddedToBytes, .countAtTable, .referenceForEachPiece]
}
