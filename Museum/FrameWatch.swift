import HMM
import HMMExplorer

/// A frame that somebody looked up without a reference: tells whether it still is what was meant.
///
/// Taken when the frame is looked up. Asking is a step that the freeing of the frame does not commute with.
struct FrameWatch: Sendable {
    let frame: FrameNumber
    private let frames: FrameTable
    private let generation: UInt32

    init(_ frame: FrameNumber, in frames: FrameTable) {
        self.frame = frame
        self.frames = frames
        generation = frames.generation(of: frame)
    }

    /// Whether the frame was freed since; it may be somebody else's by now.
    var wasFreed: Bool {
        schedulingPoint(.load, on: UInt(bitPattern: frames.record(frame)))
        return frames.generation(of: frame) != generation
    }
}

extension FrameTable {
    /// A reference to what was looked up; false if that was freed. For operations that go on without one in history,
    /// where the model would trap.
    func hold(_ watch: FrameWatch) -> Bool {
        guard tryGet(watch.frame) else { return false }
        if watch.wasFreed {
            put(watch.frame)
            return false
        }
        return true
    }
}

extension Scene {
    /// The program is about to use the frame: a finding if it was freed since it was looked up. Answers whether it may.
    func mayUse(_ watch: FrameWatch, _ what: @autoclosure () -> String) -> Bool {
        guard watch.wasFreed else { return true }
        fail("\(what()): \(watch.frame) was freed since it was looked up", kind: .useAfterFree)
        return false
    }
}
