import Foundation
import Testing

@testable import Weights

/// A program that runs, with its output in a file. Foundation's `Process` waits by a run loop, which tasks have none of.
struct Spawned {
    let pid: pid_t

    init(_ program: String, _ arguments: [String], environment: [String: String], output: String) throws {
        var actions = Self.noActions()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for descriptor in [STDOUT_FILENO, STDERR_FILENO] {
            posix_spawn_file_actions_addopen(&actions, descriptor, output, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        }
        var argv = ([program] + arguments).map { strdup($0) } + [nil]
        var envp = environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { (argv + envp).forEach { free($0) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, program, &actions, nil, &argv, &envp)
        guard code == 0 else { throw POSIXError(POSIXErrorCode(rawValue: code)!) }
        self.pid = pid
    }

    /// Sends a signal if there is one, and waits for the end.
    @discardableResult func end(_ signal: Int32? = nil) -> Int32 {
        if let signal { kill(pid, signal) }
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        return status
    }

    #if os(macOS)
        private static func noActions() -> posix_spawn_file_actions_t? { nil }
    #else
        private static func noActions() -> posix_spawn_file_actions_t { posix_spawn_file_actions_t() }
    #endif
}

/// The real daemon in a folder of its own, with a copy of the model that `WEIGHTS_TEST_MODEL` names.
final class Daemon {
    let home: URL
    let model: String
    private var process: Spawned?

    static func variable(_ name: String) -> String {
        guard let value = ProcessInfo.processInfo.environment[name] else {
            fatalError("\(name) is not set: run these tests with .ci/swift")
        }
        return value
    }

    init() async throws {
        // A socket's path must be short.
        home = URL(fileURLWithPath: "/tmp/wd-\(UUID().uuidString.prefix(8))")
        try FileManager.default.createDirectory(
            at: home, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        model = home.appendingPathComponent("model").path
        try FileManager.default.copyItem(atPath: Self.variable("WEIGHTS_TEST_MODEL"), toPath: model)
        try await start()
    }

    deinit {
        // SIGTERM would not reach it: it inherits the signals that threads of Dispatch block.
        process?.end(SIGKILL)
        try? FileManager.default.removeItem(at: home)
    }

    var socket: String { home.appendingPathComponent("s").path }

    /// Starts it, and waits until it listens.
    func start() async throws {
        process = try run(["serve"], output: "log")
        _ = try await connection()
    }

    /// SIGKILL.
    func kill() {
        process?.end(SIGKILL)
        process = nil
    }

    /// Starts its program.
    func run(_ arguments: [String], output: String) throws -> Spawned {
        let environment = ["HOME": home.path, "WEIGHTSD_CONFIG": "/dev/null", "HF_HUB_OFFLINE": "1"]
        return try Spawned(
            Self.variable("WEIGHTSD_BIN"), ["--socket", socket] + arguments, environment: environment,
            output: home.appendingPathComponent(output).path)
    }

    /// A connection, once the daemon listens.
    func connection() async throws -> Weights {
        let clock = ContinuousClock()
        let end = clock.now + .seconds(60)
        while true {
            do {
                return try await Weights.connect(socket: socket, deadline: .seconds(60))
            } catch WeightsError.noDaemon(let details) {
                guard clock.now < end else { throw WeightsError.noDaemon(details) }
                try await Task.sleep(for: .milliseconds(10))
            }
        }
    }
}

/// For weights as the files have them.
var asStored: LoadOptions {
    var options = LoadOptions()
    options.layout = .source
    options.dtype = .asStored
    return options
}

/// What safetensors files hold, read here by their format's description.
struct Checkpoint {
    struct Entry {
        let dtype: String
        let shape: [Int]
        let bytes: Data
    }

    let entries: [String: Entry]

    init(folder: String) throws {
        var entries: [String: Entry] = [:]
        for file in try FileManager.default.contentsOfDirectory(atPath: folder) where file.hasSuffix(".safetensors") {
            let data = try Data(contentsOf: URL(fileURLWithPath: folder).appendingPathComponent(file))
            let length = data.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
            let header = try JSONSerialization.jsonObject(with: data[8..<8 + length]) as! [String: Any]
            for (name, value) in header where name != "__metadata__" {
                let tensor = value as! [String: Any]
                let range = tensor["data_offsets"] as! [Int]
                entries[name] = Entry(
                    dtype: tensor["dtype"] as! String, shape: tensor["shape"] as! [Int],
                    bytes: data[8 + length + range[0]..<8 + length + range[1]])
            }
        }
        self.entries = entries
    }
}

/// Every tensor of the component has name, dtype, shape and bytes of the files.
func expectEqual(_ component: some Sequence<Tensor>, _ checkpoint: Checkpoint) {
    var count = 0
    for tensor in component {
        count += 1
        guard let entry = checkpoint.entries[tensor.name] else {
            Issue.record("\(tensor.name) is not in the files")
            continue
        }
        #expect(tensor.dtypeName == entry.dtype && tensor.shape == entry.shape, "\(tensor.name)")
        let isSame = tensor.withUnsafeBytes { lent in
            entry.bytes.withUnsafeBytes { $0.count == lent.count && memcmp($0.baseAddress!, lent.baseAddress!, lent.count) == 0 }
        }
        #expect(isSame, "\(tensor.name) has other bytes than its file")
    }
    #expect(count == checkpoint.entries.count && count > 0)
}
