// What other processes do, to a process that shares pages or a device with them and has a machine of its own.
//
// In one machine the reverse map and the frames of the device lead to all address spaces. Processes of the system that
// play one scenario each have their own machine, and are told.

extension DmirrorDevice {
    /// All pages in the device's memory go home, as at the last close of a mirror (W5).
    package func bringAllHome() { _ = machine.evictAll(of: memory) }

    /// Pages went to this device in another process; here they are shared, and go too.
    package func follow(_ pages: PageRange, in space: any MigratingAddressSpace) throws(HMMError) {
        try move(pages, in: space, .toDevice(memory, owner: nil)) { $0.copyToDevice(memory, evicting: false) }
    }

    /// Pages came home from this device in another process.
    package func followHome(_ pages: PageRange, in space: any MigratingAddressSpace) throws(HMMError) {
        try move(pages, in: space, .toSystem(from: memory, owner: nil)) { $0.copyToSystem() }
    }

    /// Unlike a request, whatever the rights of the mapping are: the reverse map does not ask for them.
    private func move(
        _ pages: PageRange, in space: any MigratingAddressSpace, _ request: MigrationRequest,
        copy: (borrowing Migration) -> Void
    ) throws(HMMError) {
        space.deliverInvalidations()
        space.lockMappingsForReading()
        defer { space.unlockMappingsForReading() }
        var first = pages.lowerBound
        while first < pages.upperBound {
            guard let mapping = space.mapping(endingAfter: first), mapping.pages.contains(first) else { return }
            let part = first..<min(pages.upperBound, mapping.pages.upperBound)
            try space.withMigration(part, request) { (migration: borrowing Migration) throws(HMMError) in
                first = migration.pages.upperBound
                copy(migration)
                migration.commit()
            }
        }
    }
}
