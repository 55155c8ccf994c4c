import Foundation
import Testing

@testable import Weights

@Suite struct ComponentTests {
    @Test(arguments: ["transformer", "text_encoder", "vae"])
    func everyTensorHasTheBytesOfItsFile(_ name: String) async throws {
        let daemon = try await Daemon()
        let component = try await daemon.connection().load(daemon.model, component: name, options: asStored)
        expectEqual(component, try Checkpoint(folder: "\(daemon.model)/\(name)"))
        #expect(component.map(\.name) == component.map(\.name).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) })
        for tensor in component {
            #expect(component[tensor.name]?.place.offset == tensor.place.offset)
        }
        #expect(component["no.such.tensor"] == nil)
        let report = try JSONSerialization.jsonObject(with: Data(component.report.utf8)) as! [String: Any]
        #expect(report["name"] as? String == name)
        #expect(report["tensor_count"] as? Int == component.count)
        #expect(component.segments.count == (report["segments"] as! [Any]).count)
    }

    @Test func elementsAreReadWithTheirType() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let transformer = try await connection.load(daemon.model, component: "transformer", options: asStored)
        let files = try Checkpoint(folder: "\(daemon.model)/transformer")
        let tensor = try #require(transformer.first { $0.dtype == .f32 && $0.isAligned && $0.byteCount > 8 })
        let expected = files.entries[tensor.name]!.bytes.withUnsafeBytes { bytes in
            (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
        }
        #expect(try tensor.elements(as: Float.self) == expected)
        #expect(try tensor.withUnsafeElements(as: Float.self) { Array($0) } == expected)
        #expect(throws: Tensor.ViewError.self) { try tensor.elements(as: UInt16.self) }
        #expect(Float(BFloat16(bitPattern: 0x3fc0)) == 1.5)
    }

    @Test func aTensorOutlivesComponentConnectionAndDaemon() async throws {
        let daemon = try await Daemon()
        var tensors: [Tensor] = []
        let files = try Checkpoint(folder: "\(daemon.model)/vae")
        weak var component: Component?
        do {
            let connection = try await daemon.connection()
            let loaded = try await connection.load(daemon.model, component: "vae", options: asStored)
            tensors = Array(loaded)
            component = loaded
        }
        #expect(component == nil, "nothing keeps the component but its owner")
        daemon.kill()
        try FileManager.default.removeItem(atPath: daemon.model)
        expectEqual(tensors, files)
    }

    @Test func theLeaseEndsWithTheComponentAndTheMappingWithTheLastTensor() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        var tensor: Tensor?
        do {
            let component = try await connection.load(daemon.model, component: "vae", options: asStored)
            tensor = component[0]
            try await until { try await daemon.leases(connection) == 1 }
        }
        try await until { try await daemon.leases(connection) == 0 }
        #expect(mappings(of: daemon.model) > 0, "a tensor keeps the pages")
        #expect(tensor!.withUnsafeBytes { $0.count } > 0)
        tensor = nil
        #expect(mappings(of: daemon.model) == 0, "and nothing keeps them after it")
    }

    @Test func quantisedLayersHaveTheirTensors() async throws {
        let daemon = try await Daemon()
        var options = LoadOptions()
        options.quantise = Quantisation(.affine, bits: 4, groupSize: 32)
        let encoder = try await daemon.connection().load(daemon.model, component: "text_encoder", options: options)
        let layers = encoder.quantisedLayers
        #expect(layers.count == 21)
        for layer in layers {
            #expect(layer.mode == .affine && layer.bits == 4 && layer.groupSize == 32, "\(layer.name)")
            #expect(layer.weight.dtype == .u32 && layer.weight.shape[1] * 8 == layer.shape[1], "\(layer.name)")
            #expect(layer.biases?.shape == layer.scales.shape && layer.globalScale == nil, "\(layer.name)")
            #expect(encoder.segments[layer.weight.place.segment].isDerived, "\(layer.name)")
        }
    }

    @Test func aHolderIsToldOfAChangedFile() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let component = try await connection.load(daemon.model, component: "vae", options: asStored)
        let streams = [component.notices, component.notices]
        let file = FileHandle(forUpdatingAtPath: component.segments[0].path)!
        let at = UInt64(component[0].place.offset)
        try file.seek(toOffset: at)
        let byte = try file.read(upToCount: 1)![0]
        try file.seek(toOffset: at)
        try file.write(contentsOf: Data([~byte]))
        try file.close()
        let again = try await connection.load(daemon.model, component: "vae", options: asStored)
        for stream in streams {
            let notice = await stream.first { _ in true }
            #expect(notice?.kind == .fileChanged && notice?.message.contains("vae") == true, "\(String(describing: notice))")
        }
        withExtendedLifetime((component, again)) {}
    }

    @Test func noticesEndWithTheLeaseAndOutliveTheDaemon() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let one = try await connection.load(daemon.model, component: "vae", options: asStored)
        let two = try await connection.load(daemon.model, component: "vae", options: asStored)
        let streams = (one.notices, two.notices)
        one.release()
        for await notice in streams.0 { Issue.record("\(notice)") }
        daemon.kill()
        try await daemon.start()
        var following = streams.1.makeAsyncIterator()
        let notice = await following.next()
        #expect(notice?.kind == .leasedAgain, "\(String(describing: notice))")
        two.release()
        #expect(await following.next() == nil)
    }

    @Test func theNextDaemonIsFound() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let files = try Checkpoint(folder: "\(daemon.model)/vae")
        let first = try await connection.load(daemon.model, component: "vae", options: asStored)
        daemon.kill()
        await #expect(throws: WeightsError.self) {
            try await connection.load(daemon.model, component: "vae", options: asStored)
        }
        expectEqual(first, files)
        try await daemon.start()
        expectEqual(try await connection.load(daemon.model, component: "vae", options: asStored), files)
    }
}

/// Mappings of this process of files below a folder.
func mappings(of folder: String) -> Int {
    // Not by Foundation, to which a file of length 0 has nothing to read.
    let maps = fopen("/proc/self/maps", "r")!
    defer { fclose(maps) }
    var count = 0
    var line = [CChar](repeating: 0, count: 8192)
    while fgets(&line, Int32(line.count), maps) != nil {
        count += strstr(line, folder) == nil ? 0 : 1
    }
    return count
}

/// Waits until a condition holds.
func until(_ condition: () async throws -> Bool) async throws {
    let clock = ContinuousClock()
    let end = clock.now + .seconds(60)
    while try await !condition() {
        #expect(clock.now < end, "not within a minute")
        guard clock.now < end else { return }
        try await Task.sleep(for: .milliseconds(5))
    }
}

extension Daemon {
    /// The leases that are held, as the daemon counts them.
    func leases(_ connection: Weights) async throws -> Int {
        let output = "status-\(UUID().uuidString)"
        try run(["status", "--json"], output: output).end()
        let data = try Data(contentsOf: home.appendingPathComponent(output))
        return (try JSONSerialization.jsonObject(with: data) as! [String: Any])["leases"] as! Int
    }
}
