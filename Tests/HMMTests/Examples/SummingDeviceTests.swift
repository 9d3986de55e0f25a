import HMM
import Testing

@Suite("The driver of the README")
struct SummingDeviceTests {
    @Test("a device sees what the CPU wrote, also after the mapping changed under it")
    func deviceFollowsTheProcess() throws {
        let machine = try Machine()
        let process = try machine.makeAddressSpace()
        let cpu = process.makeCPU()
        let pages = PageNumber(0x10000)..<PageNumber(0x10008)
        try process.map(pages, protection: .readWrite, kind: .anonymous())
        for page in pages { try cpu.store(5, at: page.address) }

        let device = try SummingDevice(process, watching: pages)
        #expect(try device.sum(pages) == 40)
        // Discards the pages: the mirror is told, and the next access of the device finds zeros.
        try process.advise(pages, .dontneed)
        #expect(try device.sum(pages) == 0)
        try cpu.store(7, at: pages.lowerBound.address)
        #expect(try device.sum(pages) == 7)
        device.detach()
        process.exit()
        #expect(machine.checkInvariants().isEmpty)
    }
}
