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
        case .protection: Protection.words.map(\.word).joined(separator: "|")
        case .mapOptions: MapOptions.words.map { "[\($0.word)]" }.joined(separator: " ")
        case .advice: AdviceName.allCases.map(\.rawValue).joined(separator: "|")
        case .seed: "SEED"
        case .deviceKind: DeviceKindName.allCases.map(\.rawValue).joined(separator: "|")
        case .size: "SIZE"
        }
    }
}

/// A sentence's list: `a, b or c`.
func alternatives(_ words: [String]) -> String {
    guard let last = words.last, words.count > 1 else { return words.first ?? "" }
    return words.dropLast().joined(separator: ", ") + " or " + last
}
