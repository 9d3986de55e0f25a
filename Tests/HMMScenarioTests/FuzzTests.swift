import HMM
import HMMScenario
import Testing

/// Random and recorded scenarios beside the shadow that says what every page must hold.
@Suite("Scenarios beside their shadow")
struct FuzzTests {
    @Test(arguments: ScenarioGenerator.familyNames, [KernelProfile.linux6_12, .next])
    func randomScenariosAreClean(family: String, profile: KernelProfile) {
        let isHuge = ["huge", "hugecow", "collapse", "hugetlb"].contains(family)
        for seed in UInt64(1)...(isHuge ? 2 : 10) {
            let scenario = ScenarioGenerator.scenario(seed: seed, family: family)
            let failure = ShadowRun.firstFailure(scenario, ShadowRun.configuration(profile))
            #expect(failure == nil, "seed \(seed): \(failure.map(\.description) ?? "")")
        }
    }

    /// Something runs out in the middle: nothing is lost, and mirrors forget what they could not store.
    @Test(arguments: [KernelProfile.linux6_12, .next])
    func shortagesLoseNothing(profile: KernelProfile) {
        for seed in UInt64(95)...135 {
            let failure = ShadowRun.firstFailure(
                ScenarioGenerator.scenario(seed: seed), ShadowRun.configuration(profile),
                ShadowRun.shortage(ofSeed: seed))
            #expect(failure == nil, "seed \(seed): \(failure.map(\.description) ?? "")")
        }
    }

    @Test func aSeedMakesOneScenario() {
        for seed in UInt64(1)...50 {
            let scenario = ScenarioGenerator.scenario(seed: seed)
            #expect(scenario.text == ScenarioGenerator.scenario(seed: seed).text)
            let family = scenario.name.split(separator: "-")[0]
            #expect(scenario.text == ScenarioGenerator.scenario(seed: seed, family: String(family)).text)
        }
    }

    /// What the kernel of 6.12 was asked, the next one answers without losing anything.
    @Test(arguments: ScenarioGenerator.familyNames)
    func recordedScenariosAreCleanUnderTheNextKernel(family: String) throws {
        for recording in try Recording.family(family, in: FuzzFixtures.recordings) {
            let failure = ShadowRun.firstFailure(recording.scenario, ShadowRun.configuration(.next))
            #expect(failure == nil, "\(recording.scenario.name): \(failure.map(\.description) ?? "")")
        }
    }

    /// The recordings of the real kernel agree with the shadow: it expects nothing that Linux does not do.
    @Test(arguments: ["fork", "shmem", "remap", "hugecow"])
    func theShadowAgreesWithTheRecordedKernel(family: String) throws {
        for recording in try Recording.family(family, in: FuzzFixtures.recordings) {
            let failure = ShadowRun.firstFailure(recording.scenario, ShadowRun.configuration(.linux6_12))
            #expect(failure == nil, "\(recording.scenario.name): \(failure.map(\.description) ?? "")")
        }
    }

    @Test func aFailureIsShrunk() throws {
        let scenario = ScenarioGenerator.scenario(seed: 3, family: "fork")
        let small = Shrinker.shrink(scenario) { candidate in
            candidate.statements.contains { $0.verb.actor == .cpu && $0.verb.word == "write" }
        }
        #expect(small.statements.count == 2)
        #expect(small.regions.count == 1 && small.processes == ["main"])
    }
}

enum FuzzFixtures {
    /// Conformance/linux-6.12, beside Tests.
    static let recordings =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Conformance/linux-6.12"
}
