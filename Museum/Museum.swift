/// Bugs that were real, in the order of the subsystems they lived in. Never linked into the library.
public enum Museum {
    public static let exhibits: [Exhibit] = core + drivers + hugetlb + mails + own
}
