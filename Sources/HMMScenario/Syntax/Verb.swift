import HMM

/// A kind of statement. The tables `Verb.ofProcesses`, `Verb.ofCPUs` and `Verb.ofDevices` are the whole language: a new
/// statement is one more entry there, and parsing, checks of names and ranges, printing and help follow from it.
package struct Verb: Sendable {
    /// Who acts, which is also how a statement begins: `VERB …`, `cpu VERB …` or `DEVICE VERB …`.
    package enum Actor: Sendable {
        case process, cpu, device
    }

    /// What stands behind the verb, in order.
    package enum Parameter: Sendable {
        /// A name that the statement introduces.
        case newRegion, newProcess, newDevice
        case range, pages, protection, mapOptions, advice, seed, deviceKind, size
        /// A whole region, which gets a fresh address.
        case movedRegion
    }

    package var actor: Actor
    package var word: String
    package var parameters: [Parameter]
    /// One line for the help text.
    package var meaning: String
    /// Runs the statement.
    var play: @Sendable (Call) throws(HMMError) -> StatementResult
    /// The process cannot do anything afterwards.
    package var endsProcess = false
    /// The statement changes the machine itself and may not stand in a race.
    package var isOutsideRaces = false
}

extension Verb {
    package static let all = ofProcesses + ofCPUs + ofDevices

    static func named(_ word: String, of actor: Actor) -> Verb? {
        all.first { $0.actor == actor && $0.word == word }
    }

    static func words(of actor: Actor) -> [String] {
        all.filter { $0.actor == actor }.map(\.word)
    }

    /// The statement's form, as messages and the help text show it.
    package var usage: String {
        let actorWord: [String] =
            switch actor {
            case .process: []
            case .cpu: ["cpu"]
            case .device: ["DEVICE"]
            }
        return (actorWord + [word] + parameters.map(\.usage)).joined(separator: " ")
    }
}

extension Verb.Parameter {
    var usage: String {
        switch self {
        case .newRegion, .movedRegion: "REGION"
        case .newProcess, .newDevice: "NAME"
        case .range: "RANGE"
        case .pages: "PAGES"
        case .protection: "PROT"
        case .mapOptions: "[KIND]…"
        case .advice: "ADVICE"
        case .seed: "SEED"
        case .deviceKind: "MEMORY"
        case .size: "SIZE"
        }
    }

    /// What may stand there, in words.
    package var expectation: String {
        switch self {
        case .newRegion: "a name for the region"
        case .movedRegion: "a region"
        case .newProcess: "a name for the child"
        case .newDevice: "a name for the device"
        case .range: "a region, a page such as a[3], or pages such as a[0..<8]"
        case .pages: "a number of pages from 1 to \(Limits.regionPages)"
        case .protection: alternatives(Protection.words.map(\.word))
        case .mapOptions: alternatives(MapOptions.words.map(\.word))
        case .advice: alternatives(Advice.allCases.map(\.rawValue))
        case .seed: "a seed from \(Limits.seeds.lowerBound) to \(Limits.seeds.upperBound)"
        case .deviceKind: alternatives(DeviceKindName.allCases.map(\.rawValue))
        case .size: "a number of bytes with K, M, G or T behind it, such as 64M"
        }
    }
}

/// A sentence's list: `a, b or c`.
func alternatives(_ words: [String]) -> String {
    guard let last = words.last, words.count > 1 else { return words.first ?? "" }
    return words.dropLast().joined(separator: ", ") + " or " + last
}
