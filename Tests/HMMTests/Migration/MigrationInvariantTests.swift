import Synchronization
import Testing

@testable import HMM

@Suite("Migration: invariants")
struct MigrationInvariantTests {
    @Test("INV-MG-4: after commit a page migrates exactly if it moved, and runs name what moved")
    func whatMigratesHasMoved() throws {
        let f = try MigrationFixture(devicePages: 5)
        try f.map(0..<8)
        try f.base.write(0..<6, 1)
        var runs = 0
        try f.withMigration(0..<8, f.toFirst) { m in
            m.copyToDevice(f.first.memory, evicting: false)
            m.commit()
            m.forEachMovedRun { run in
                runs += run.pages.pageCount
                for page in run.pages {
                    let index = f.pages(0..<8).lowerBound.distance(to: page)
                    let isThere = m.hasMoved(index) && m.destination(at: index) != nil
                    #expect(isThere)
                }
            }
            for index in 0..<8 {
                let (isMigrating, hasMoved) = (m[index].isMigrating, m.hasMoved(index))
                #expect(isMigrating == hasMoved)
            }
        }
        #expect(runs == 5)
        #expect(f.layout(0..<8) == "11111s..")
        f.finish()
    }

    @Test("INV-MG-5: nothing gains a right by moving")
    func rightsDoNotGrow() throws {
        let f = try MigrationFixture()
        try f.map(0..<4)
        try f.base.write(0..<4, 1)
        let child = try f.space.fork()
        try f.base.write(0..<2, 2)
        #expect(f.isWritable(0) && !f.isWritable(2))
        try f.send(0..<4)
        #expect(f.isWritable(0) && !f.isWritable(2))
        try f.fetch(0..<4)
        #expect(f.isWritable(0) && !f.isWritable(2))
        child.exit()
        f.finish()
    }

    @Test("INV-MG-11: one walk that faults and collects gives what a range fault and then a migration give",
        arguments: [KernelProfile.linux6_12, .next])
    func unifiedWalkAgrees(profile: KernelProfile) throws {
        var layouts: [String] = []
        for isUnified in [true, false] {
            let f = try MigrationFixture(.private, profile)
            try f.map(0..<700)
            try f.base.write(0..<5, 1)
            try f.base.expect(5..<8, nil)
            try f.base.write(600..<604, 1)
            try f.space.advise(f.pages(2..<4), .pageout)
            if isUnified {
                try f.send(0..<700, fault: [.fault, .write])
            } else {
                try f.space.advise(f.pages(0..<700), .populateWrite)
                try f.send(0..<700)
            }
            layouts.append(f.layout(0..<700) + String((0..<700).map { f.isWritable($0) ? "w" : "r" }))
            f.checkInvariants()
            try f.base.expect(0..<5, 1)
            try f.base.expect(5..<600, nil)
            f.finish()
        }
        #expect(layouts[0] == layouts[1])
    }

    @Test("INV-MG-13: every invalidation ends, and carries the owner")
    func invalidationsPair() throws {
        let f = try MigrationFixture()
        try f.map(0..<8)
        try f.base.write(0..<4, 1)
        let client = RecordingClient()
        let interval = try f.space.notifiers.insert(client, over: f.pages(0..<8))
        try f.send(0..<8)
        // One for the walk, one from the first hole to the end.
        #expect(client.heard.map(\.event) == [.migrate, .migrate])
        #expect(client.heard.map(\.pages) == [f.pages(0..<8), f.pages(4..<8)])
        #expect(client.heard.allSatisfy { $0.owner == f.first.owner })
        // Would wait for ever if one were open.
        _ = interval.readBegin()
        interval.remove()
        f.finish()
    }

    /// 2222 of another device, shared after a fork, in one request to write.
    @Test("a device's fault on pages of another device takes one fault for all of them", arguments: [
        KernelProfile.linux6_12, .next,
    ])
    func faultsOnForeignPages(profile: KernelProfile) throws {
        let f = try MigrationFixture(.private, profile)
        try f.map(0..<128)
        try f.base.write(0..<128, 1)
        try f.send(0..<64, to: f.second)
        let child = try f.space.fork()
        let client = RecordingClient()
        let interval = try f.space.notifiers.insert(client, over: f.pages(0..<128))
        var range = HMMRange(interval, f.pages(0..<128))
        range.defaultRequest = [.fault, .write]
        let rounds = try f.space.deviceFault(
            &range, commit: { (range: borrowing HMMRange) throws(HMMError) in !range.mustRetry() })
        #expect(rounds <= 3 && range.faultCount <= 2)
        #expect((0..<128).allSatisfy { range[$0].isWritable })
        interval.remove()
        child.exit()
        f.finish()
    }
}
