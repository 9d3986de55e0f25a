import Glibc
import HMM
import HMMLive

/// A page of memory that goes to a device and comes back by a page fault: live memory, tried out.
enum DoctorTrial {
    /// What went wrong, or nil. In a process of its own, because a fault that nobody answers ends it.
    static func runApart(_ facts: MachineFacts) -> String? {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { return description(of: errno) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
        posix_spawn_file_actions_addclose(&actions, ends[0])
        let words = ["hmm", "doctor", "--trial"]
        var arguments = words.map { word in strdup(word) } + [nil]
        defer { arguments.forEach { free($0) } }
        var child = pid_t()
        let error = posix_spawn(&child, "/proc/self/exe", &actions, nil, &arguments, environ)
        close(ends[1])
        defer { close(ends[0]) }
        guard error == 0 else { return description(of: error) }
        var text = ""
        var bytes = [UInt8](repeating: 0, count: 512)
        while true {
            let count = read(ends[0], &bytes, bytes.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            text += String(decoding: bytes[..<count], as: UTF8.self)
        }
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        if status & 0x7f != 0 { return "the trial was ended by signal \(status & 0x7f)." }
        return status == 0 ? nil : text
    }

    /// In that process.
    static func run() -> String? {
        do throws(HMMError) {
            let space = try LiveSpace.start()
            let device = try SoftwareDevice.attach(
                to: space, index: 1, memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: 1 << 20))
            defer { device.detach() }
            for faults in [LiveSpace.FaultPath.onThread, .handlerThread] {
                if let failure = try move(to: device, of: space, faults) { return failure }
            }
            return nil
        } catch {
            return "\(error)"
        }
    }

    private static func move(
        to device: SoftwareDevice, of space: LiveSpace, _ faults: LiveSpace.FaultPath
    ) throws(HMMError) -> String? {
        let (count, bytes) = (4, 4 << 12)
        guard let start = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            start != MAP_FAILED
        else { return "there is no memory." }
        let first = PageNumber(containing: VirtualAddress(UInt64(UInt(bitPattern: start))))
        let pages = first..<first.advanced(by: count)
        let words = start.assumingMemoryBound(to: UInt64.self)
        for index in 0..<count { words[index << 9] = UInt64(index + 7) }
        try space.adopt(pages, faults: faults)
        defer { _ = space.unmap(pages) }
        let moved = try device.prefetch(pages).moved
        guard moved == count else { return "\(moved) pages of \(count) went to a device." }
        try device.store(99, at: pages.lowerBound.address)
        for index in 0..<count where words[index << 9] != (index == 0 ? 99 : UInt64(index + 7)) {
            return "a page came back from a device with other bytes."
        }
        return nil
    }

    private static func description(of error: Int32) -> String { String(cString: strerror(error)) }
}
