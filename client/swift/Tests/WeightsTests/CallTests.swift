import Foundation
import Testing

@testable import Weights

@Suite struct CallTests {
    @Test func errorsSayWhatAndWhatToDo() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        do {
            _ = try await connection.load(daemon.model, component: "decoder")
            Issue.record("there is no decoder")
        } catch WeightsError.refused(let reason, let details) {
            #expect(reason == "COMPONENT_NOT_FOUND")
            #expect(details.resource == "decoder" && details.hint != nil && !details.isRetryable)
            #expect(details.detailJSON?.contains("ERROR_REASON_COMPONENT_NOT_FOUND") == true)
        }
        do {
            _ = try await Weights.connect(socket: "/nowhere/at/all")
            Issue.record("nobody is there")
        } catch WeightsError.noDaemon(let details) {
            #expect(details.message.contains("/nowhere/at/all"))
        }
        do {
            _ = try await connection.load("", component: "vae")
            Issue.record("nothing was asked for")
        } catch let error as WeightsError {
            guard case .argument = error else { throw error }
            #expect(error.localizedDescription.contains("`spec`") && error.hint != nil)
        }
    }

    @Test func progressIsTold() async throws {
        let daemon = try await Daemon()
        let told = Told()
        let component = try await daemon.connection().load(daemon.model, component: "transformer") { told.add($0) }
        #expect(component.count > 0)
        let steps = told.all
        #expect(!steps.isEmpty && steps.allSatisfy { $0.phase != .other && $0.sharers > 0 }, "\(steps)")
    }

    @Test func aCancelledTaskLoadsNothing() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let model = daemon.model
        let task = Task {
            // Cancelled before, or while the load waits for its first step.
            try await connection.load(model, component: "transformer") { _ in withUnsafeCurrentTask { $0?.cancel() } }
        }
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        // And the connection goes on.
        #expect(try await connection.load(model, component: "vae", options: asStored).count == 244)
    }

    @Test func manyTasksLoadAtOnce() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let model = daemon.model
        let files = try ["vae", "transformer", "text_encoder"].map { ($0, try Checkpoint(folder: "\(model)/\($0)")) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<60 {
                let (name, expected) = files[index % 3]
                group.addTask {
                    expectEqual(try await connection.load(model, component: name, options: asStored), expected)
                }
            }
            try await group.waitForAll()
        }
        #expect(mappings(of: model) == 0, "nothing stays mapped")
    }

    @Test func resolvingAndAuditingLoadNothing() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let resolved = try json(try await connection.resolve(daemon.model))
        #expect(resolved["family"] as? String == "z-image")
        let audited = try json(try await connection.audit(daemon.model, component: "vae"))
        let reports = audited["reports"] as! [[String: Any]]
        #expect(reports.count == 1 && reports[0]["clean"] as? Bool == true)
        var options = ModelOptions()
        options.base = daemon.model
        await #expect(throws: WeightsError.self) { try await connection.resolve(daemon.model, options: options) }
    }

    @Test func optionsReachTheDaemon() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        var options = asStored
        options.hold = false
        options.openByPath = true
        options.keepAlive = .seconds(3600)
        options.clientName = "swift"
        options.model.workingDirectory = daemon.home.path
        let component = try await connection.load("./model", component: "vae", options: options)
        expectEqual(component, try Checkpoint(folder: "\(daemon.model)/vae"))
        #expect(try await daemon.leases(connection) == 0)
        for await notice in component.notices { Issue.record("\(notice)") }
        #expect(Duration.milliseconds(1500).milliseconds == 1500 && Duration.nanoseconds(1).milliseconds == 1)
    }

    private func json(_ text: String) throws -> [String: Any] {
        try JSONSerialization.jsonObject(with: Data(text.utf8)) as! [String: Any]
    }
}

/// Steps from another thread.
final class Told: @unchecked Sendable {
    private let lock = NSLock()
    private var steps: [LoadProgress] = []

    func add(_ step: LoadProgress) { lock.withLock { steps.append(step) } }

    var all: [LoadProgress] { lock.withLock { steps } }
}
