import Glibc
import HMM

/// Reads and writes that go past the page cache: the disk has the pages of the process itself while they last.
final class DirectFile: @unchecked Sendable {
    // SAFETY: immutable; the kernel orders what several threads do with it.
    private let descriptor: Int32

    /// The unit of such transfers, and of their addresses.
    static let sectorBytes = 512

    #if arch(arm64)
        private static let directFlag: Int32 = 0x10000
    #else
        private static let directFlag: Int32 = 0x4000
    #endif

    /// A file without a name on the first file system that can; nil: none can.
    init?(bytes: Int) {
        for folder in ["/var/tmp", "/tmp", "."] {
            let path = "\(folder)/hmm-direct-\(getpid())"
            let file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | Self.directFlag, 0o600)
            guard file >= 0 else { continue }
            unlink(path)
            if ftruncate(file, off_t(bytes)) == 0, Self.works(file) {
                descriptor = file
                return
            }
            close(file)
        }
        return nil
    }

    deinit { close(descriptor) }

    private static func works(_ file: Int32) -> Bool {
        var sector: UnsafeMutableRawPointer?
        guard posix_memalign(&sector, 4096, sectorBytes) == 0, let sector else { return false }
        defer { free(sector) }
        memset(sector, 0, sectorBytes)
        return pwrite(file, sector, sectorBytes, 0) == sectorBytes && pread(file, sector, sectorBytes, 0) == sectorBytes
    }

    /// False: it failed, or was cut short.
    func transfer(_ vectors: [iovec], at offset: Int, isWrite: Bool) -> Bool {
        let bytes = vectors.reduce(0) { $0 + $1.iov_len }
        let count = Int32(vectors.count)
        let done = isWrite
            ? pwritev(descriptor, vectors, count, off_t(offset)) : preadv(descriptor, vectors, count, off_t(offset))
        return done == bytes
    }

    // MARK: Asynchronous

    /// syscall(2) with as many arguments as any has.
    @_silgen_name("syscall")
    private static func call(_ number: Int, _ a: Int, _ b: Int, _ c: Int, _ d: Int, _ e: Int) -> Int

    #if arch(arm64)
        private static let (setup, destroy, submit, events) = (0, 1, 2, 4)
    #else
        private static let (setup, destroy, submit, events) = (206, 207, 209, 208)
    #endif

    /// A request of the kernel's asynchronous I/O, struct iocb.
    private struct Request {
        var data: UInt64 = 0
        var key: UInt32 = 0
        var flags: UInt32 = 0
        var operation: UInt16
        var priority: Int16 = 0
        var descriptor: UInt32
        var vectors: UInt64
        var count: UInt64
        var offset: Int64
        var reserved: UInt64 = 0
        var moreFlags: UInt32 = 0
        var eventDescriptor: UInt32 = 0
    }

    private struct Event {
        var data: UInt64 = 0
        var request: UInt64 = 0
        var result: Int64 = 0
        var second: Int64 = 0
    }

    /// Hands the pages over, one request a page, calls `meanwhile`, and waits for all. The answer is as for `transfer`.
    func transferLater(_ vectors: [iovec], at offset: Int, isWrite: Bool, _ meanwhile: () -> Void) -> Bool {
        var context = 0
        let setUp = withUnsafeMutablePointer(to: &context) {
            Self.call(Self.setup, vectors.count, Int(bitPattern: $0), 0, 0, 0)
        }
        guard setUp == 0 else { return false }
        defer { _ = Self.call(Self.destroy, context, 0, 0, 0, 0) }
        return vectors.withUnsafeBufferPointer { vectors in
            var at = offset
            var requests: [Request] = []
            for index in vectors.indices {
                requests.append(
                    Request(
                        operation: isWrite ? 8 : 7, descriptor: UInt32(descriptor),
                        vectors: UInt64(UInt(bitPattern: vectors.baseAddress! + index)), count: 1, offset: Int64(at)))
                at += vectors[index].iov_len
            }
            return Self.run(&requests, in: context, each: Int64(vectors[0].iov_len), meanwhile)
        }
    }

    private static func run(
        _ requests: inout [Request], in context: Int, each bytes: Int64, _ meanwhile: () -> Void
    ) -> Bool {
        let count = requests.count
        return requests.withUnsafeMutableBufferPointer { requests in
            let list = (0..<count).map { UInt(bitPattern: requests.baseAddress! + $0) }
            var submitted = 0
            while submitted < count {
                let now = list[submitted...].withUnsafeBufferPointer {
                    call(submit, context, count - submitted, Int(bitPattern: $0.baseAddress!), 0, 0)
                }
                guard now > 0 else { break }
                submitted += now
            }
            meanwhile()
            var done = [Event](repeating: Event(), count: count)
            let finished = done.withUnsafeMutableBufferPointer {
                call(events, context, submitted, submitted, Int(bitPattern: $0.baseAddress!), 0)
            }
            return finished == count && done.allSatisfy { $0.result == bytes }
        }
    }
}
