/// Recordings that real processes answer otherwise than a kernel that has the devices itself, each for a fact about
/// user space. `Documentation/live-differences.md` tells more of each.
package enum LiveDifferences {
    /// The families that are compared.
    package static let families = ["access", "protect", "migrate", "multi", "exclusive", "cow", "remap"]

    /// Why a scenario differs, by its name, which begins with the family's.
    package static let reasons: [String: String] = [:]
}
