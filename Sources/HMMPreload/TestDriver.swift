import CLive
import CPreload
import Glibc
import HMM
import HMMLive

/// The kernel's test driver in a program that knows nothing of this library: four devices on the memory of the process.
///
/// It is made when the first device is opened, and stays. A child of fork has it too, with the mirrors of its parent
/// disowned.
///
/// Kernel: lib/test_hmm.c (6.12): devices 0 and 1 have private memory, 2 and 3 coherent memory.
final class TestDriver: Sendable {
    let space: LiveSpace
    let devices: [DmirrorDevice]

    /// The driver of this process, or why there is none.
    static let shared: Result<TestDriver, HMMError> = {
        do throws(HMMError) {
            return .success(try TestDriver())
        } catch {
            cpreload_complain(TestDriver.explanation(error))
            return .failure(error)
        }
    }()

    /// The driver, where a mirror of it is in use already.
    static var running: TestDriver {
        guard case .success(let driver) = shared else { preconditionFailure("a mirror without a driver") }
        return driver
    }

    private init() throws(HMMError) {
        cpreload_starting()
        var configuration = LiveSpace.Configuration()
        // A program hands any of its memory to system calls.
        configuration.defaultFaults = .handlerThread
        configuration.faultAroundPages = Self.faultAroundPages
        space = try LiveSpace.start(configuration)
        var devices: [DmirrorDevice] = []
        for index in 0..<Int(CPRELOAD_DEVICES) {
            devices.append(
                try DmirrorDevice(
                    machine: space.machine, name: "hmm_dmirror\(index)", kind: index < 2 ? .private : .coherent,
                    index: index))
        }
        self.devices = devices
        cpreload_started()
        guard !clive_answers_kernel_faults() else { return }
        cpreload_fetch_for_calls()
        cpreload_complain(
            "userfaultfd is allowed for faults of programs only: memory that a device has comes home before read, "
                + "write and the like, and is EFAULT for other system calls; `hmm doctor` says what to set")
    }

    /// As the test driver does, one page, unless `hmm exec` was told otherwise.
    private static var faultAroundPages: Int {
        guard let text = getenv("HMM_EXEC_FAULT_AROUND"), let pages = Int(String(cString: text)) else { return 1 }
        return pages
    }

    private static func explanation(_ error: HMMError) -> String {
        "no device on the memory of this process: \(error.description); `hmm doctor` says what is missing"
    }
}

/// An open file of a device, as long as it is in the table of descriptors.
final class OpenMirror: Sendable {
    let mirror: DmirrorMirror
    init(_ mirror: DmirrorMirror) { self.mirror = mirror }

    static func at(_ handle: UnsafeMutableRawPointer) -> OpenMirror {
        Unmanaged<OpenMirror>.fromOpaque(handle).takeUnretainedValue()
    }
}

@_cdecl("hmm_preload_open")
func openDevice(_ device: UInt32, _ handle: UnsafeMutablePointer<UnsafeMutableRawPointer?>) -> Int32 {
    errno(of: { () throws(HMMError) in
        let driver = try TestDriver.shared.get()
        let mirror = try driver.devices[Int(device)].open(driver.space)
        handle.pointee = Unmanaged.passRetained(OpenMirror(mirror)).toOpaque()
    })
}

@_cdecl("hmm_preload_close")
func closeMirror(_ handle: UnsafeMutableRawPointer) {
    TestDriver.running.space.deliverInvalidations()
    Unmanaged<OpenMirror>.fromOpaque(handle).takeRetainedValue().mirror.close()
}

@_cdecl("hmm_preload_disown")
func disownMirror(_ handle: UnsafeMutableRawPointer) {
    Unmanaged<OpenMirror>.fromOpaque(handle).takeRetainedValue().mirror.abandon()
}

/// 0, or the error's number.
func errno(of body: () throws(HMMError) -> Void) -> Int32 {
    do throws(HMMError) {
        try body()
        return 0
    } catch {
        return error.code.rawValue
    }
}
