import Foundation
import Testing

@testable import Weights

/// `WEIGHTS_TEST_TREES` is a list of names with the tree that Python's `mlx.utils.tree_unflatten` makes of them, each leaf its
/// own name: `trees.py` writes it.
@Suite struct NestedTests {
    private struct Case: Decodable {
        let names: [String]
        let tree: Tree
        /// A component of the model that has these names.
        let component: String?
    }

    private static func cases() throws -> [Case] {
        let data = try Data(contentsOf: URL(fileURLWithPath: Daemon.variable("WEIGHTS_TEST_TREES")))
        return try JSONDecoder().decode([Case].self, from: data)
    }

    @Test func treesAreThoseOfPython() throws {
        let cases = try Self.cases()
        #expect(cases.count > 10)
        for one in cases {
            let nested = try Nested(unflattening: one.names.map { ($0, $0) })
            #expect(Tree(nested) == one.tree, "\(one.names.prefix(5))")
        }
    }

    @Test func parametersOfComponentsAreThoseOfPython() async throws {
        let daemon = try await Daemon()
        let connection = try await daemon.connection()
        let cases = try Self.cases().filter { $0.component != nil }
        #expect(cases.count == 3)
        for one in cases {
            let component = try await connection.load(daemon.model, component: one.component!, options: asStored)
            #expect(Tree(try component.nested().mapLeaves(\.name)) == one.tree, "\(one.component!)")
            #expect(component.flattened.map(\.0) == component.map(\.name))
        }
    }

    @Test func aNameThatIsAlsoTheBeginningOfOthersIsRefused() {
        for (names, lost) in [(["a", "a.b"], "a"), (["x.a", "x.a.b.c", "x.b"], "x.a"), (["a", "a."], "a")] {
            #expect(throws: UnflattenError.leafAndParent(name: lost)) {
                try Nested(unflattening: names.map { ($0, $0) })
            }
        }
    }

    @Test func hostileNamesTakeNoRoom() throws {
        for name in ["4000000000", "18446744073709551615", "99999999999999999999999"] {
            #expect(try Nested(unflattening: [(name, 1)]) == .map([name: .leaf(1)]))
        }
        #expect(try Nested(unflattening: [("9999.9999.9999", 1)])["9999"]?["9999"]?["9999"]?.value == 1)
        let deep = String(repeating: "a.", count: 100_000)
        #expect(throws: UnflattenError.tooDeep(name: deep)) { try Nested(unflattening: [(deep, 1)]) }
        let accented = try Nested(unflattening: [("a.\u{301}b", 1)])
        #expect(accented["a"]?["\u{301}b"]?.value == 1)
    }
}

/// A tree whose leaves are names, as JSON has it.
private indirect enum Tree: Decodable, Equatable {
    case leaf(String)
    case list([Tree])
    case map([String: Tree])

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let leaf = try? container.decode(String.self) {
            self = .leaf(leaf)
        } else if let list = try? container.decode([Tree].self) {
            self = .list(list)
        } else {
            self = .map(try container.decode([String: Tree].self))
        }
    }

    init(_ nested: Nested<String>) {
        switch nested {
        case .leaf(let leaf): self = .leaf(leaf)
        case .list(let list): self = .list(list.map(Tree.init))
        case .map(let map): self = .map(map.mapValues(Tree.init))
        }
    }
}
