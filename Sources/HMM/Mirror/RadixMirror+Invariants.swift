import Synchronization

extension RadixMirror {
    /// INV-MT-1, 2, 3, 7, 8, 11 and the sums, recounted from the words. The mirror must be at rest.
    public func checkInvariants() -> [String] {
        var check = Recount(mirror: self)
        check.visit(tree.root, parent: DirectoryPool.none, basePage: PageNumber(0), level: geometry.rootLevel)
        check.compareSums()
        return check.found + pool.checkFreeList()
    }

    private struct Recount {
        let mirror: RadixMirror
        var found: [String] = []
        var directories = 0
        var pages = 0
        var hugeEntries = 0
        var listed = 0

        init(mirror: RadixMirror) { self.mirror = mirror }

        mutating func visit(_ directory: UInt32, parent: UInt32, basePage: PageNumber, level: Int) {
            directories += 1
            let pool = mirror.pool
            let name = "directory \(directory) (level \(level), page \(basePage))"
            if pool.place(directory).pointee != DirectoryPlace(basePage: basePage, level: level, parent: parent) {
                found.append("INV-MT-7: \(name) believes to be elsewhere")
            }
            if pool.lock(directory).pointee.isLocked { found.append("\(name) is locked at rest") }
            var valid: UInt32 = 0
            for index in 0..<MirrorGeometry.entriesPerDirectory {
                let entry = MirrorEntry(word: pool.entries(directory)[index].load(ordering: .acquiring))
                guard entry.word != 0 else { continue }
                valid += 1
                let page = basePage.advanced(by: index * MirrorGeometry.span(level))
                if entry.isDirectory {
                    guard level > 0, !entry.isValid else {
                        found.append("INV-MT-7: \(name) links a directory at \(page)")
                        continue
                    }
                    visit(entry.directoryIndex, parent: directory, basePage: page, level: level - 1)
                } else {
                    checkLeaf(entry, at: page, level: level)
                }
            }
            checkCount(directory, valid: valid, name)
        }

        private mutating func checkCount(_ directory: UInt32, valid: UInt32, _ name: String) {
            let count = mirror.pool.count(directory).pointee.load(ordering: .acquiring)
            let isListed = mirror.tree.empties.isListed(directory)
            if isListed { listed += 1 }
            if mirror.pool.validEntries(directory).pointee != valid {
                found.append("INV-MT-1: \(name) has \(valid) entries and remembers another number")
            }
            if count != valid + (isListed ? 1 : 0) {
                found.append("INV-MT-1: \(name) has \(valid) entries, listed \(isListed), count \(count)")
            }
            if valid == 0 && !isListed && directory != mirror.tree.root {
                found.append("INV-MT-2: \(name) is empty, linked and not listed")
            }
        }

        private mutating func checkLeaf(_ entry: MirrorEntry, at page: PageNumber, level: Int) {
            pages += MirrorGeometry.span(level)
            if level > 0 { hugeEntries += 1 }
            guard entry.isValid, entry.isDeviceAddress != (entry.word & MirrorEntry.validPFNBit != 0) else {
                found.append("INV-MT-ENTRY: the entry of \(page) is not valid and not zero: \(entry.word)")
                return
            }
            let frame = UInt64(entry.frame(deviceAddressOffset: mirror.configuration.deviceAddressOffset).raw)
            let isAligned = frame & UInt64(MirrorGeometry.span(level) - 1) == 0
            if entry.level != level || !isAligned || level > MirrorGeometry.highestLeafLevel {
                found.append("INV-MT-8: the leaf of \(page) stands at level \(level): \(entry)")
            }
            if entry.isDirty && !entry.isWritable { found.append("\(page) is dirty without write: \(entry)") }
            if entry.isAtomic && (level > 0 || !entry.isWritable) {
                found.append("\(page) is atomic with the wrong size or rights: \(entry)")
            }
        }

        mutating func compareSums() {
            let statistics = mirror.statistics
            if statistics.directories != directories {
                found.append("\(directories) directories, \(statistics.directories) counted")
            }
            if statistics.mappedPages != pages {
                found.append("\(pages) pages mapped, \(statistics.mappedPages) counted")
            }
            if statistics.hugeEntries != hugeEntries {
                found.append("\(hugeEntries) huge entries, \(statistics.hugeEntries) counted")
            }
            let ring = mirror.tree.empties.listedCount
            if ring != listed || ring > mirror.tree.empties.budget {
                found.append("INV-MT-2: \(listed) listed directories are linked, the ring has \(ring)")
            }
            let occupancy = mirror.pool.occupancy
            let spares = mirror.spare.load(ordering: .relaxed) == DirectoryPool.none ? 0 : 1
            if occupancy.used != directories + spares + occupancy.free + occupancy.limbo {
                found.append(
                    "INV-MT-11: \(occupancy) directories do not add up with \(directories) linked, \(spares) spare")
            }
            if mirror.gate.isOccupied { found.append("a call is inside the gate at rest") }
        }
    }
}
