/// Which kernel the machine answers as: the few decisions in which Linux 6.12, as recorded, differs from what is right.
///
/// The core does what is right; each switch is looked at in one place, which says what 6.12 does and why. The table of
/// all switches is in Documentation/kernel-profiles.md.
public struct KernelProfile: Sendable, Hashable {
    public var name: String

    /// A folio split replaces subpages whose bytes are all zero by the shared zero page.
    public var splitMapsZeroPages: Bool
    /// Migration to a device splits every huge folio it meets, whatever is selected; folios that are large but mapped
    /// by PTEs never move.
    public var migrationSplitsHugeFolios: Bool
    /// Migration to a device also collects pages of files, only to find that they cannot go: visible by the
    /// invalidations of other mappings of the page.
    public var migrationCollectsFilePages: Bool
    /// A device-exclusive entry remembers whether it may be restored writable, and mprotect takes that away for good.
    public var exclusiveRemembersWrite: Bool
    /// Exclusive access converts the whole folio by its reverse map, tails are refused, and the map count drops.
    public var exclusiveConvertsFolio: Bool
    /// Fork fails when a device-exclusive page is locked, instead of waiting.
    public var forkFailsOnLockedExclusive: Bool
    /// A range fault runs from the first page that needs one to the end of the walked piece, also over pages that need
    /// nothing.
    public var rangeFaultRunsToEndOfPiece: Bool
    /// The reference driver has the oddities of 6.12's test driver that programs can see (`DmirrorWarts`).
    public var testDriverHasWarts: Bool

    /// What a real Linux 6.12 answers.
    public static let linux6_12 = KernelProfile(
        name: "6.12", splitMapsZeroPages: true, migrationSplitsHugeFolios: true,
        migrationCollectsFilePages: true, exclusiveRemembersWrite: true,
        exclusiveConvertsFolio: true, forkFailsOnLockedExclusive: true, rangeFaultRunsToEndOfPiece: true,
        testDriverHasWarts: true)

    /// What is right, by the later patches and this project's own rules.
    public static let next = KernelProfile(
        name: "next", splitMapsZeroPages: false, migrationSplitsHugeFolios: false,
        migrationCollectsFilePages: false, exclusiveRemembersWrite: false,
        exclusiveConvertsFolio: false, forkFailsOnLockedExclusive: false, rangeFaultRunsToEndOfPiece: false,
        testDriverHasWarts: false)
}
