import Glibc

/// Address space reserved from the host, backed on first touch. The arenas of the model live here: frames, their
/// records, tables and swap slots.
///
/// Bytes that were never touched read as zero.
package struct HostMemory: ~Copyable, @unchecked Sendable {
    // Immutable after init; what the memory holds is guarded by its users.
    package let base: UnsafeMutableRawPointer
    package let lengthBytes: Int

    /// Reserves `lengthBytes`, aligned to 2 MiB so that the host may use huge pages.
    package init(lengthBytes: Int) throws(HMMError) {
        let alignment = 2 << 20
        let rounded = (lengthBytes + alignment - 1) & ~(alignment - 1)
        let whole = mmap(
            nil, rounded + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let whole, whole != MAP_FAILED else {
            throw HMMError(.outOfMemory, "the host gives no address space for an arena")
        }
        let start = Int(bitPattern: whole)
        let aligned = (start + alignment - 1) & ~(alignment - 1)
        if aligned > start { munmap(whole, aligned - start) }
        let tail = start + alignment - aligned
        base = UnsafeMutableRawPointer(bitPattern: aligned)!
        if tail > 0 { munmap(base + rounded, tail) }
        self.lengthBytes = rounded
    }

    deinit { munmap(base, lengthBytes) }

    /// Lets the host back the range with huge pages: fewer host faults for memory that is used densely.
    package func preferHugePages(offset: Int, lengthBytes: Int) {
        madvise(base + offset, lengthBytes, MADV_HUGEPAGE)
    }

    /// Gives the range back to the host; it reads as zero afterwards.
    package func discard(offset: Int, lengthBytes: Int) { Self.discard(base + offset, lengthBytes: lengthBytes) }

    /// The same for a part that is known by its address.
    static func discard(_ start: UnsafeMutableRawPointer, lengthBytes: Int) {
        madvise(start, lengthBytes, MADV_DONTNEED)
    }

    /// The memory as an array of `T`, whose all-zero bit pattern must be a valid value.
    package func elements<T: ~Copyable>(of type: T.Type) -> UnsafeMutablePointer<T> {
        base.bindMemory(to: T.self, capacity: lengthBytes / MemoryLayout<T>.stride)
    }
}

/// Copies the bytes of `count` pages. Neither side may be written meanwhile.
///
/// Page by page also where they are neighbours: for a page memcpy has a loop that every processor is fast at, for more
/// it has strategies that some are slow at (measured: 30 % slower for 2 MiB in one call).
@inline(__always)
package func copyPages(from source: UnsafeRawPointer, to destination: UnsafeMutableRawPointer, count: Int = 1) {
    for page in 0..<count {
        memcpy(destination + page << 12, source + page << 12, Geometry.pageSizeBytes)
    }
}

/// Clears `count` pages. Nobody else may know them yet.
@inline(__always)
package func clearPages(_ destination: UnsafeMutableRawPointer, count: Int = 1) {
    memset(destination, 0, count * Geometry.pageSizeBytes)
}
