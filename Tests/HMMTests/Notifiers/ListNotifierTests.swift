import Testing

@testable import HMM

/// Aim: list notifiers hear of starts and ends in pairs, of the release once, and answer for their pages' age.
@Suite("List notifiers")
struct ListNotifierTests {
    let notifiers = MMUNotifiers()

    @Test("start and end come in the order of registration, for every invalidation of the address space")
    func pairs() throws {
        let client = RecordingListClient()
        let registration = try notifiers.register(client)
        let outer = Invalidation.begin(notifiers, InvalidationRange(.unmap, span(0, 10)))
        let inner = Invalidation.begin(notifiers, InvalidationRange(.clear, span(90, 91)))
        inner.end()
        outer.end()
        #expect(client.notes == ["start", "start", "end", "end"])
        notifiers.unregister(registration)
        Invalidation.begin(notifiers, InvalidationRange(.clear, span(90, 91))).end()
        #expect(client.notes == ["start", "start", "end", "end", "released"])
        #expect(notifiers.checkInvariants().isEmpty)
    }

    @Test("one that unregisters between start and end is not told of the end")
    func unregisterBetween() throws {
        let client = RecordingListClient()
        let registration = try notifiers.register(client)
        let invalidation = Invalidation.begin(notifiers, InvalidationRange(.unmap, span(0, 10)))
        notifiers.unregister(registration)
        invalidation.end()
        #expect(client.notes == ["start", "released"])
    }

    @Test("released is called exactly once, by the release or by the unregistration")
    func releasedOnce() throws {
        let client = RecordingListClient()
        let registration = try notifiers.register(client)
        notifiers.release()
        notifiers.unregister(registration)
        #expect(client.notes == ["released"])
        #expect(notifiers.subscriptionCount == 0)
    }

    @Test("the answers of young queries are combined, and everybody is asked")
    func young() throws {
        #expect(!notifiers.clearYoung(span(0, 1)))
        let (old, young, last) = (RecordingListClient(), RecordingListClient(young: true), RecordingListClient())
        let registrations = try [old, young, last].map { try notifiers.register($0) }
        #expect(notifiers.clearAndFlushYoung(span(0, 1)))
        #expect(notifiers.clearYoung(span(0, 1)))
        #expect(notifiers.isYoung(PageNumber(0)))
        #expect(last.notes == ["flush young", "clear young"])
        notifiers.unregister(registrations[1])
        #expect(!notifiers.clearAndFlushYoung(span(0, 1)) && !notifiers.isYoung(PageNumber(0)))
        notifiers.unregister(registrations[0])
        notifiers.unregister(registrations[2])
    }

    @Test("only a client that said so may refuse")
    func refusalOfPaired() async {
        await #expect(processExitsWith: .failure) {
            let notifiers = MMUNotifiers()
            let client = RecordingListClient(refuses: true)
            _ = try notifiers.register(client)
            let range = InvalidationRange(.unmap, span(0, 1), isBlockable: false)
            Invalidation.tryBegin(notifiers, range)?.end()
        }
    }
}
