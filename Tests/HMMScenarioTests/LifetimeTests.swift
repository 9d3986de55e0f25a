import HMM
import Testing

@testable import HMMScenario

/// Aim: a machine goes with the last who uses it; it is some GiB of the host's address space.
/// Method: plays scenarios of every family, and looks at the machine through a weak reference.
@Suite struct LifetimeTests {
    private func configuration() -> MachineConfiguration {
        var configuration = MachineConfiguration()
        configuration.hostHugePages = false
        return configuration
    }

    @Test("a machine goes when its scenario was played", arguments: ScenarioGenerator.familyNames)
    func player(_ family: String) throws {
        for seed in 1...4 as ClosedRange<UInt64> {
            weak var machine: Machine?
            do {
                let scenario = ScenarioGenerator.scenario(seed: seed, family: family)
                var options = Player.Options()
                options.configuration = configuration()
                let player = try Player(scenario, options)
                machine = player.machine
                #expect(player.play().violations == [])
            }
            #expect(machine == nil, "\(family)-\(seed)")
        }
    }

    @Test("a machine goes that a race was played on")
    func race() throws {
        weak var machine: Machine?
        do {
            let text = """
                == race
                map a 4 rw
                cpu write a 1
                race
                thread one
                dev0 read a
                dev0 migrate a
                thread two
                cpu write a 2
                fork child
                end

                """
            let player = try Player(try Parser.parse(text)[0])
            machine = player.machine
            _ = player.play()
        }
        #expect(machine == nil)
    }
}
