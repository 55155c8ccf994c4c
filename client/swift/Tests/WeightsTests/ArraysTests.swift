#if canImport(MLX)
import Foundation
import MLX
import Testing
import Weights

@testable import WeightsMLX

/// WeightsMLX over the stand-in for MLX. What Metal does with the pages, nobody has seen here.
@Suite struct ArraysTests {
    @Test func arraysLieInTheSharedPagesAndKeepThem() async throws {
        let daemon = try await Daemon()
        var arrays: Arrays?
        var places: [String: (UnsafeRawPointer, Data)] = [:]
        do {
            let component = try await daemon.connection().load(daemon.model, component: "transformer", options: asStored)
            arrays = try component.arrays()
            for tensor in component {
                tensor.withUnsafeBytes { places[tensor.name] = ($0.baseAddress!, Data($0)) }
            }
        }
        daemon.kill()
        let made = try #require(arrays)
        #expect(made.flattened.count == places.count && made.parameters.flat.count == places.count)
        #expect(made.copied.values.allSatisfy { $0 == .misaligned }, "\(made.copied)")
        #expect(made.copied.count < places.count)
        for (name, array) in made.flattened {
            let (first, bytes) = places[name]!
            array.asData(access: .noCopy).data.withUnsafeBytes { found in
                #expect((found.baseAddress == first) == (made.copied[name] == nil), "\(name)")
                #expect(Data(found) == bytes, "\(name)")
            }
        }
        #expect(mappings(of: daemon.model) > 0)
        arrays = nil
        #expect(mappings(of: daemon.model) > 0, "one reference is nobody's")
        made.letGo()
        withExtendedLifetime(made) {}
    }

    @Test func pagesAreLetGoWithTheLastArray() async throws {
        let daemon = try await Daemon()
        var array: MLXArray?
        do {
            let arrays = try await daemon.connection().load(daemon.model, component: "vae", options: asStored).arrays()
            array = arrays.flattened.first { arrays.copied[$0.key] == nil }?.value
            arrays.letGo()
        }
        #expect(array != nil && mappings(of: daemon.model) > 0)
        array = nil
        #expect(mappings(of: daemon.model) == 0)
    }

    @Test func windowsAreThoseOfRust() {
        let page = 1 << 14
        let gap = 100 * page
        #expect(
            windows([100..<200, 200..<page + 1, gap..<gap + 8], page: page, longest: .max)
                == [Window(bytes: 0..<2 * page, tensors: [0, 1]), Window(bytes: gap..<gap + page, tensors: [2])])
        let limited = windows([0..<8, 8..<3 * page, 3 * page..<3 * page + 4], page: page, longest: 2 * page)
        #expect(limited.flatMap(\.tensors) == [0, 2])
        let large = joinedBytesMax + page
        #expect(windows([0..<large, large..<large + 8], page: page, longest: .max).count == 2)
        #expect(windows([4..<4], page: page, longest: .max).isEmpty)
    }
}
#endif
