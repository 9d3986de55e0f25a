import CLivePlay
import Glibc
import HMMScenario

/// A process as the player sees it.
struct LivePeer {
    /// The player's end of the connection.
    let socket: LineSocket
    /// 0 until the process is there.
    private(set) var pid: pid_t = 0
    /// Readable once the process has ended; negative before it is there.
    private(set) var watch: Int32 = -1
    /// It takes requests.
    private(set) var isRunning = false

    init(socket: LineSocket) { self.socket = socket }

    mutating func start(_ pid: pid_t) {
        self.pid = pid
        watch = clive_play_watch(pid)
        isRunning = true
    }

    mutating func end() { isRunning = false }

    func kill() {
        if pid > 0 { _ = Glibc.kill(pid, SIGKILL) }
    }

    func close() {
        socket.close()
        if watch >= 0 { Glibc.close(watch) }
    }

    /// What waiting for a line came to.
    enum Arrival {
        case reply(LiveReply)
        /// The process is gone, or does not answer in time, or what it says makes no sense; in words.
        case lost(String)
    }

    /// Waits for the next line of one of `peers`; answers its index among them.
    static func next(of peers: [LivePeer], milliseconds: Int32) -> (index: Int, arrival: Arrival) {
        for (index, peer) in peers.enumerated() {
            if let line = peer.socket.takeLine() { return (index, Arrival(line)) }
        }
        while true {
            var polled = peers.map { pollfd(fd: $0.socket.descriptor, events: Int16(POLLIN), revents: 0) }
            // One that could not be watched is given a number that poll passes over.
            polled += peers.map { pollfd(fd: $0.watch, events: Int16(POLLIN), revents: 0) }
            let count = poll(&polled, nfds_t(polled.count), milliseconds)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return (0, .lost("the process does not answer")) }
            // What was said before the end is heard before the end.
            if let index = peers.indices.first(where: { polled[$0].revents & Int16(POLLIN) != 0 }) {
                guard peers[index].socket.fill() else { return (index, .lost("the process has gone")) }
                if let line = peers[index].socket.takeLine() { return (index, Arrival(line)) }
                continue
            }
            guard let index = peers.indices.first(where: { polled[peers.count + $0].revents != 0 }) else {
                return (0, .lost("the process has gone"))
            }
            return (index, .lost(peers[index].wordsOfEnd))
        }
    }

    /// The status of the first process can be had: it is a child of this one. Others are told to their parents.
    private var wordsOfEnd: String {
        var status: Int32 = 0
        guard waitpid(pid, &status, WNOHANG) == pid, status & 0x7f != 0 else { return "the process has ended" }
        return "the process was ended by signal \(status & 0x7f)"
    }
}

extension LivePeer.Arrival {
    fileprivate init(_ line: String) {
        if let reply = LiveReply(text: line) { self = .reply(reply) } else { self = .lost("not an answer: \(line)") }
    }
}
