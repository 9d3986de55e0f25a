import CLive
import Glibc
import HMM
import HMMLive
import Synchronization

// What a CPU actor does besides accesses: system calls on shared memory, changes of mappings, children.

extension LiveStressRun {
    func change(_ actor: Int, _ region: LiveRegion, _ random: inout LiveRandom) {
        switch random.below(12) {
        case ..<5: pass(actor, &random)
        case 5: fork(actor, &random)
        case 6: discard(&random)
        case 7: protect(named("protected"), &random)
        case 8: replace(named("replaced"))
        case 9: move(named("moved"))
        default:
            let advice = random.below(2) == 0 ? Self.populateRead : Self.populateWrite
            region.using(forWriting: true) {
                let error = space.advise(region.part(&random), advice)
                if error != 0 { fail("MADV_POPULATE of \(region.name): error \(error)") }
            }
        }
    }

    /// MREMAP_MAYMOVE | MREMAP_FIXED.
    private static let moveToPlace: Int32 = 3
    private static let (populateRead, populateWrite): (Int32, Int32) = (22, 23)

    private func named(_ name: String) -> LiveRegion { regions.first { $0.name == name }! }

    // MARK: System calls

    /// Writes a page to a pipe and reads it into another one, while devices take both away.
    private func pass(_ actor: Int, _ random: inout LiveRandom) {
        let (source, target) = (2 * actor, 2 * actor + 1)
        let pattern = random.next()
        for word in 0..<512 {
            buffers.word(source, word).pointee.store(pattern &+ UInt64(word), ordering: .relaxed)
        }
        take(source, target, &random)
        let pipe = pipes[actor]
        let bytes = 4096
        guard calling(source, { Glibc.write(pipe.write, buffers.word(source, 0), bytes) }) == bytes else {
            return fail("write() of a shared page: errno \(errno)")
        }
        take(source, target, &random)
        guard calling(target, { Glibc.read(pipe.read, buffers.word(target, 0), bytes) }) == bytes else {
            return fail("read() into a shared page: errno \(errno)")
        }
        take(source, target, &random)
        for word in 0..<512 {
            for page in [source, target] {
                let value = buffers.word(page, word).pointee.load(ordering: .relaxed)
                guard value == pattern &+ UInt64(word) else {
                    return fail("word \(word) of page \(page) is \(value) after a pipe, not \(pattern &+ UInt64(word))")
                }
            }
        }
        systemCalls.wrappingAdd(1, ordering: .relaxed)
    }

    /// A system call with a page of the buffers. Where the faults in it are not answered, a device that has the page
    /// makes it a bad address: the page is touched then, and the call made again.
    private func calling(_ page: Int, _ call: () -> Int) -> Int {
        for _ in 0..<100_000 {
            let result = call()
            guard result < 0, errno == EFAULT, !clive_answers_kernel_faults() else { return result }
            // Nobody else writes it.
            let word = buffers.word(page, 0)
            word.pointee.store(word.pointee.load(ordering: .relaxed), ordering: .relaxed)
        }
        return -1
    }

    private func take(_ source: Int, _ target: Int, _ random: inout LiveRandom) {
        let choice = random.below(4)
        guard choice < 3 else { return }
        let pages = buffers.page(source)..<buffers.page(choice == 1 ? target : target + 1)
        do throws(HMMError) {
            _ = try devices[choice & 1].prefetch(pages)
        } catch {
            if error.code == .inconsistent { fail("a device missed an invalidation: \(error)") }
        }
    }

    // MARK: Mappings

    private func discard(_ random: inout LiveRandom) {
        let error = space.advise(named("discarded").part(&random), MADV_DONTNEED)
        if error != 0 { fail("MADV_DONTNEED: error \(error)") }
    }

    /// Nobody writes for a while: ordinary code does not try, devices do and must be refused.
    private func protect(_ region: LiveRegion, _ random: inout LiveRandom) {
        region.rights.writing {
            let part = region.part(&random)
            var error = space.protect(part, PROT_READ)
            if error != 0 { fail("mprotect: error \(error)") }
            let index = random.below(part.pageCount)
            let address = part.lowerBound.advanced(by: index).address
            let probe = VirtualAddress(address.raw + 4088)
            for device in devices where (try? device.store(1 << 40, at: probe)) != nil {
                fail("a device has written to memory that is read-only")
            }
            error = space.protect(part, PROT_READ | PROT_WRITE)
            if error != 0 { fail("mprotect back: error \(error)") }
        }
    }

    /// Unmaps the region and maps fresh memory in its place.
    private func replace(_ region: LiveRegion) {
        region.place.writing {
            let pages = region.pages
            let error = space.unmap(pages)
            if error != 0 { return fail("munmap: error \(error)") }
            var isMapped = false
            space.mapOver(pages) {
                let flags = MAP_PRIVATE | MAP_ANONYMOUS | Int32(MAP_FIXED_NOREPLACE)
                let start = mmap(region.pointer, region.pageCount << 12, PROT_READ | PROT_WRITE, flags, -1, 0)
                isMapped = start == region.pointer
                return isMapped
            }
            if !isMapped { return fail("somebody took the place of the replaced region") }
            do throws(HMMError) {
                try space.adopt(pages)
            } catch {
                return fail("adopting fresh memory: \(error)")
            }
            for i in 0..<region.pageCount {
                let value = region.word(i, LiveLedger.counterWord).pointee.load(ordering: .relaxed)
                if value != 0 { fail("fresh memory is not zero") }
            }
        }
    }

    /// Moves the region to a place that the kernel chooses.
    private func move(_ region: LiveRegion) {
        region.place.writing {
            let bytes = region.pageCount << 12
            let flags = MAP_PRIVATE | MAP_ANONYMOUS
            guard let place = mmap(nil, bytes, PROT_NONE, flags, -1, 0), place != MAP_FAILED else {
                return fail("no place to move to")
            }
            let target = PageNumber(UInt64(UInt(bitPattern: place)) >> 12)
            switch space.remap(
                region.pages, newPageCount: region.pageCount, flags: Self.moveToPlace, to: target)
            {
            case .moved(let page): region.moved(to: page)
            case .failed(let error): fail("mremap: errno \(error)")
            }
        }
    }

    // MARK: Children

    /// Above every number that an actor writes.
    private static let childsOwn: UInt64 = 1 << 60
    private static let samples = 64

    /// A child sees every page as it was at some moment of the fork, and what it writes is its own.
    private func fork(_ actor: Int, _ random: inout LiveRandom) {
        forkLock.withLock { _ in
            let count = Self.samples
            let bytes = 2 * count * 8
            guard let shared = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                shared != MAP_FAILED
            else { return fail("no memory to share with a child") }
            defer { munmap(shared, bytes) }
            let answers = shared.assumingMemoryBound(to: UInt64.self)
            var words: [LiveRegion.Word] = []
            var places: [(region: LiveRegion, page: Int, writer: Int)] = []
            for _ in 0..<count {
                let region = regions[random.below(Self.countedRegions)]
                let (page, writer) = (random.below(region.pageCount), random.below(Self.actors))
                places.append((region, page, writer))
                words.append(region.word(page, LiveLedger.word(of: writer)))
            }
            let lows = places.map { ledger.low($0.region.firstPage + $0.page, $0.writer) }
            let child = words.withUnsafeBufferPointer { words in
                let child = space.fork()
                if child == 0 { Self.childLooks(words, answers) }
                return child
            }
            let highs = places.map { ledger.high($0.region.firstPage + $0.page, $0.writer) }
            guard child > 0 else { return fail("fork: errno \(errno)") }
            let status = Self.wait(for: child)
            guard status == 0 else { return fail("a child ended with status \(status)") }
            for (i, place) in places.enumerated() {
                let value = answers[i]
                // The same word may have been drawn twice: the child has then written to it.
                let isOwn = value == Self.childsOwn
                if !isOwn, value > highs[i] || value < lows[i] {
                    let range = "\(lows[i])...\(highs[i])"
                    fail("a child read \(value) in \(place.region.name)[\(place.page)], not within \(range)")
                }
                if answers[count + i] != Self.childsOwn { fail("a child lost what it wrote to \(place.region.name)") }
            }
            children.wrappingAdd(1, ordering: .relaxed)
        }
    }

    /// In the child, where only one thread has survived: no allocation, no lock.
    private static func childLooks(
        _ words: UnsafeBufferPointer<LiveRegion.Word>, _ answers: UnsafeMutablePointer<UInt64>
    ) -> Never {
        alarm(30)
        for i in 0..<samples {
            answers[i] = words[i].pointee.load(ordering: .relaxed)
            words[i].pointee.store(childsOwn, ordering: .relaxed)
        }
        for i in 0..<samples { answers[samples + i] = words[i].pointee.load(ordering: .relaxed) }
        _exit(0)
    }

    /// The status of a child that has ended.
    private static func wait(for child: pid_t) -> Int32 {
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        return status
    }
}
