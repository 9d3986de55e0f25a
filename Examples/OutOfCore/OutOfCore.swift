import Glibc
import HMM
import HMMLive

/// More data than a device has memory, without copying any of it by hand.
///
/// Ordinary Swift code fills an array. A device that has memory for a quarter of it squares every number: pages go to
/// its memory as it works on them, and those that it has not used for longest make room and go home. Then ordinary
/// code reads the array; what is still on the device comes back when it is touched.
@main
struct OutOfCore {
    static let arrayBytes = 256 << 20
    static let deviceBytes = arrayBytes / 4

    static func main() {
        do { try run() } catch {
            print("out-of-core: \(error)")
            exit(1)
        }
    }

    static func run() throws(HMMError) {
        let space = try LiveSpace.start()
        let numbers = try SharedBuffer<UInt64>(count: arrayBytes / MemoryLayout<UInt64>.stride)
        let device = try SoftwareDevice.attach(
            to: space, index: 1,
            memory: SoftwareDeviceMemory(on: space.machine, .private, sizeBytes: deviceBytes))
        print("array \(arrayBytes >> 20) MiB, device memory \(deviceBytes >> 20) MiB")

        // Ordinary code.
        let elements = numbers.elements
        for index in elements.indices { elements[index] = UInt64(index) }

        try square(numbers, on: device)
        let moved = space.machine.statistics
        let toDevice = moved.pagesToDevice.count
        let evicted = moved.pagesToSystem.count
        print("pages to the device            \(toDevice)")
        print("evicted to make room           \(evicted)")
        print("still on the device            \(device.memory?.usedFrames ?? 0)")

        // Ordinary code again: it does not know where its pages are.
        var wrong = 0
        for index in elements.indices where elements[index] != UInt64(index) &* UInt64(index) { wrong += 1 }
        space.deliverInvalidations()
        print("home again when they were read \(moved.pagesToSystem.count - evicted)")
        print("still on the device            \(device.memory?.usedFrames ?? 0)")
        print(wrong == 0 ? "every number is right" : "\(wrong) numbers are wrong")

        device.detach()
        if wrong > 0 { exit(1) }
    }

    /// What the device does: 2 MiB at a time into its memory, then each page through its own page table.
    static func square(_ numbers: SharedBuffer<UInt64>, on device: SoftwareDevice) throws(HMMError) {
        var first = numbers.pages.lowerBound
        while first < numbers.pages.upperBound {
            let chunk = first..<min(first.advanced(by: 512), numbers.pages.upperBound)
            _ = try device.prefetch(chunk)
            try device.run(over: numbers, in: chunk) { elements, _ in
                for index in elements.indices { elements[index] &*= elements[index] }
            }
            first = chunk.upperBound
        }
    }
}
