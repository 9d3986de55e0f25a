/// As much of Markdown as the checks need: links, headings and words in backquotes, outside of code blocks.
enum Markdown {
    struct Place {
        let target: String
        let line: Int
    }

    /// The targets of `[text](target)`.
    static func links(of document: TextFile) -> [Place] {
        var links: [Place] = []
        for (line, text) in prose(of: document) {
            var rest = withoutCode(text)[...]
            while let open = rest.firstRange(of: "](") {
                rest = rest[open.upperBound...]
                guard let close = rest.firstIndex(of: ")") else { break }
                let target = rest[..<close].split(separator: " ").first ?? ""
                if !target.isEmpty, !target.hasPrefix("mailto:") {
                    links.append(Place(target: String(target), line: line))
                }
                rest = rest[close...]
            }
        }
        return links
    }

    /// What stands in backquotes.
    static func codeWords(of document: TextFile) -> [Place] {
        prose(of: document).flatMap { line, text in
            let parts = text.split(separator: "`", omittingEmptySubsequences: false)
            return parts.indices.filter { $0 % 2 == 1 && $0 + 1 < parts.count }
                .map { Place(target: String(parts[$0]), line: line) }
        }
    }

    /// The code blocks of a language.
    static func codeBlocks(of document: TextFile, language: String) -> [Place] {
        var blocks: [Place] = []
        var start: Int?
        for (index, line) in document.lines.enumerated() {
            if let first = start, line == "```" {
                blocks.append(Place(target: document.lines[first..<index].joined(separator: "\n"), line: first + 1))
                start = nil
            } else if line == "```" + language {
                start = index + 1
            }
        }
        return blocks
    }

    /// The names by which headings can be linked, as the usual readers make them.
    static func anchors(of document: TextFile) -> Set<String> {
        var anchors: Set<String> = []
        for (_, text) in prose(of: document) where text.hasPrefix("#") {
            let title = text.drop { $0 == "#" || $0 == " " }.lowercased()
            let base = String(
                title.compactMap { letter -> Character? in
                    if letter == " " { return "-" }
                    return letter.isLetter || letter.isNumber || letter == "-" || letter == "_" ? letter : nil
                })
            var anchor = base
            var count = 0
            while !anchors.insert(anchor).inserted {
                count += 1
                anchor = "\(base)-\(count)"
            }
        }
        return anchors
    }

    private static func prose(of document: TextFile) -> [(line: Int, text: Substring)] {
        var lines: [(Int, Substring)] = []
        var isCode = false
        for (index, line) in document.lines.enumerated() {
            if line.drop(while: { $0 == " " }).hasPrefix("```") {
                isCode.toggle()
            } else if !isCode {
                lines.append((index + 1, line))
            }
        }
        return lines
    }

    private static func withoutCode(_ text: Substring) -> String {
        let parts = text.split(separator: "`", omittingEmptySubsequences: false)
        return parts.indices.filter { $0 % 2 == 0 }.map { String(parts[$0]) }.joined(separator: "_")
    }
}
