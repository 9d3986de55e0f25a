import HMM
import HMMExplorer

extension Exhibit {
    static let evictsItsOwnPass = Exhibit(
        "evicts-its-own-pass",
        source: "open-gpu-kernel-modules #1223, open: the eviction of a root chunk while the pass needs one",
        story: """
            A pass of the GPU's fault handler brings two pages to a device that has room for one. To make room for the \
            second it evicts the first, finds at its end that not all is there, and begins again. No second thread is \
            needed, and upstream has no fix. Mended, by us: what has no place stays in system memory and is mapped \
            there; each access is made before anything can take its page away.
            """,
        kind: .livelock, isExhaustive: true
    ) { scene, version in
        let (space, cpu) = try scene.makeSpace(pages: 2)
        let memory = SoftwareDeviceMemory(on: scene.machine, .private, sizeBytes: Geometry.pageSizeBytes)
        let device = try SoftwareDevice.attach(
            to: space, index: 1, memory: memory, placement: version == .mended ? .onFault : .never)
        scene.thread("gpu") {
            if version == .asItWas { while try !servePass(of: device) {} }
            for index in 0..<2 { try device.store(10, at: Place.base.advanced(by: index).address) }
        }
        scene.join()
        for index in 0..<2 {
            let word = try cpu.load(Place.base.advanced(by: index).address)
            scene.check(word == 10, "page \(index) holds \(word)")
        }
        device.detach()
        space.exit()
    }

    /// Brings both pages in, one after the other; true if both are there at the end.
    private static func servePass(of device: SoftwareDevice) throws(HMMError) -> Bool {
        for page in Place.pages(2) { _ = try device.prefetch(page..<page.advanced(by: 1), faulting: .write) }
        return Place.pages(2).allSatisfy { device.table.lookup($0)?.location == .ownDevice }
    }
}
