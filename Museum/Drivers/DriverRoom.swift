extension Museum {
    /// Drivers, and handlers of userfaultfd.
    static let drivers: [Exhibit] = []
}
