import CLive
import Glibc
import HMM
import HMMLive
import Synchronization
import Testing

private let canDoDirectIO = canRunLive && LiveSpace.features.kernel_faults && LiveSpace.features.move
    && DirectFile(bytes: 4096) != nil

/// Direct I/O from several threads into and out of pages that one device moves to and fro while another takes them for
/// itself: the disk writes to pages by their physical addresses, so one that was moved away under it would lose bytes.
///
/// Of each page the I/O has all sectors but the last, which belongs to the devices: they count in it.
@Suite("Direct I/O beside devices", .enabled(if: canDoDirectIO))
struct DirectIOTests {
    private static let threads = 3
    private static let pagesOfThread = 24

    /// What the threads have in common.
    private struct Scene: Sendable {
        let live: LiveFixture
        let other: SoftwareDevice
        let file: DirectFile
        let stop = Counter()

        static let wordsOfIO = LiveFixture.perPage - DirectFile.sectorBytes / 8

        func page(_ index: Int) -> UnsafeMutablePointer<UInt64> {
            live.buffer.elements.baseAddress! + index * LiveFixture.perPage
        }

        func value(_ round: UInt64, _ page: Int, _ word: Int) -> UInt64 {
            round << 32 | UInt64(page) << 16 | UInt64(word)
        }

        func fill(_ pages: Range<Int>, _ round: UInt64) {
            for index in pages {
                let words = page(index)
                for word in 0..<Self.wordsOfIO { words[word] = value(round, index, word) }
            }
        }

        func require(_ pages: Range<Int>, _ round: UInt64, _ what: StaticString) {
            for index in pages {
                let words = page(index)
                for word in 0..<Self.wordsOfIO where words[word] != value(round, index, word) {
                    let found = String(words[word], radix: 16)
                    fatalError("\(what): page \(index) word \(word) of round \(round) is \(found)")
                }
            }
        }

        func transfer(_ pages: Range<Int>, isWrite: Bool, isLater: Bool) {
            let vectors = pages.map { iovec(iov_base: page($0), iov_len: Self.wordsOfIO * 8) }
            let offset = pages.lowerBound * 4096
            let isDone = isLater
                ? file.transferLater(vectors, at: offset, isWrite: isWrite) {
                    // Pages that the disk has are the ones that a device wants.
                    let first = live.pages.lowerBound
                    let range = first.advanced(by: pages.lowerBound)..<first.advanced(by: pages.upperBound)
                    _ = try? live.device.prefetch(range)
                }
                : file.transfer(vectors, at: offset, isWrite: isWrite)
            if !isDone { fatalError("an I/O failed: errno \(errno)") }
        }

        /// Writes the pages to the disk, spoils them, and reads them back.
        func play(_ pages: Range<Int>, isLater: Bool, seconds: Double) -> UInt64 {
            let end = SyncClock.now() + UInt64(seconds * 1e9)
            var round: UInt64 = 1
            while SyncClock.now() < end {
                fill(pages, round)
                transfer(pages, isWrite: true, isLater: isLater)
                require(pages, round, "after the write")
                fill(pages, round + 1)
                transfer(pages, isWrite: false, isLater: isLater)
                require(pages, round, "after the read")
                round += 2
            }
            return round
        }
    }

    @Test("every byte arrives, on the disk, in memory and at the devices")
    func everyByte() async {
        await #expect(processExitsWith: .success) {
            let pages = DirectIOTests.threads * DirectIOTests.pagesOfThread
            let live = try LiveFixture(pages: pages, usedBySystemCalls: true)
            let other = try SoftwareDevice.attach(to: live.space, index: 907)
            let scene = Scene(live: live, other: other, file: DirectFile(bytes: pages * 4096)!)
            let rounds = Atomic<UInt64>(0)
            let workers = (0..<DirectIOTests.threads).map { thread in
                let first = thread * DirectIOTests.pagesOfThread
                return Worker {
                    let range = first..<first + DirectIOTests.pagesOfThread
                    let played = scene.play(range, isLater: thread == 0, seconds: 2)
                    rounds.add(played, ordering: .relaxed)
                }
            }
            let mover = Worker {
                while scene.stop.count == 0 { _ = try? live.device.prefetch(live.pages) }
            }
            // Counts what the devices have added to each page.
            var sums = [UInt64](repeating: 0, count: pages)
            let end = SyncClock.now() + 2_000_000_000
            var refused = 0
            while SyncClock.now() < end {
                for page in 0..<pages {
                    let address = live.address(page * LiveFixture.perPage + Scene.wordsOfIO)
                    do throws(HMMError) {
                        _ = try (page % 2 == 0 ? other : live.device).atomicAdd(1, at: address)
                        sums[page] += 1
                    } catch { refused += 1 }
                }
            }
            for worker in workers { worker.join() }
            scene.stop.add()
            mover.join()
            for page in 0..<pages {
                precondition(scene.page(page)[Scene.wordsOfIO] == sums[page], "a device's addition was lost")
            }
            precondition(sums.allSatisfy { $0 > 0 } && rounds.load(ordering: .relaxed) > 6)
            var counts = clive_counts()
            clive_read_counts(&counts)
            print("\(rounds.load(ordering: .relaxed)) rounds, \(counts.moved) moved, \(counts.copied) copied, "
                + "\(sums.reduce(0, +)) additions, \(refused) refused")
            precondition(counts.moved > 0)
            exit(0)
        }
    }
}
