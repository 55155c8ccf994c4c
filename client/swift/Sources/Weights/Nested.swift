/// A tree as `mlx.utils.tree_unflatten` builds it from dotted names.
///
/// A node whose keys are all numbers is a list in the order of the numbers; numbers that are left out become empty maps. Every
/// other node is a map. Lists whose gaps would take much more room than there are leaves (as of the one name `4000000000`)
/// stay maps. Only ASCII digits count as numbers.
public indirect enum Nested<Leaf> {
    case leaf(Leaf)
    case list([Nested])
    case map([String: Nested])

    /// The child of that name, or of that number.
    public subscript(key: String) -> Nested? {
        switch self {
        case .leaf: nil
        case .list(let list): number(key).flatMap { list.indices.contains($0) ? list[$0] : nil }
        case .map(let map): map[key]
        }
    }

    /// The leaf, if this is one.
    public var value: Leaf? {
        if case .leaf(let leaf) = self { leaf } else { nil }
    }

    /// The same tree with other leaves.
    public func mapLeaves<Other>(_ transform: (Leaf) throws -> Other) rethrows -> Nested<Other> {
        switch self {
        case .leaf(let leaf): .leaf(try transform(leaf))
        case .list(let list): .list(try list.map { try $0.mapLeaves(transform) })
        case .map(let map): .map(try map.mapValues { try $0.mapLeaves(transform) })
        }
    }

    /// Builds the tree of all names.
    public init(unflattening flat: [(String, Leaf)]) throws {
        let items = flat.map { Item(name: $0.0, rest: $0.0[...], value: $0.1) }
        // One budget for the whole tree. With one for each node, the name `9999.9999.9999` would get three.
        var gaps = 10_000 + 4 * items.count
        self =
            if items.count == 1, items[0].rest.isEmpty {
                .leaf(items[0].value)
            } else {
                try Self.children(items, 0, &gaps)
            }
    }

    /// A leaf that is not in its place yet.
    private struct Item {
        let name: String
        /// The rest of the name below the node; empty for the node itself.
        var rest: Substring
        let value: Leaf
    }

    private static func node(_ items: [Item], _ depth: Int, _ gaps: inout Int) throws -> Nested {
        guard let own = items.first(where: { $0.rest.isEmpty }) else { return try children(items, depth, &gaps) }
        guard items.count == 1 else { throw UnflattenError.leafAndParent(name: own.name) }
        return .leaf(own.value)
    }

    private static func children(_ items: [Item], _ depth: Int, _ gaps: inout Int) throws -> Nested {
        guard depth < nestedDepthMax else { throw UnflattenError.tooDeep(name: items.first?.name ?? "") }
        var groups: [String: [Item]] = [:]
        for var item in items {
            // By bytes: an accent behind a dot would make another character of it.
            let dot = item.rest.utf8.firstIndex(of: UInt8(ascii: "."))
            let key = String(item.rest[..<(dot ?? item.rest.endIndex)])
            item.rest = dot.map { item.rest[item.rest.utf8.index(after: $0)...] } ?? ""
            groups[key, default: []].append(item)
        }
        guard let numbers = listed(groups, &gaps) else {
            // In the order of the names, so that the budget is spent as everywhere.
            var map: [String: Nested] = [:]
            for (key, items) in groups.sorted(by: { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }) {
                map[key] = try node(items, depth + 1, &gaps)
            }
            return .map(map)
        }
        var list: [Nested] = []
        for (index, key) in numbers {
            while list.count < index { list.append(.map([:])) }
            list.append(try node(groups[key]!, depth + 1, &gaps))
        }
        return .list(list)
    }

    /// The keys in the order of their numbers, if all are different numbers (`1` and `01` are not) and the budget covers the
    /// gaps between them.
    private static func listed(_ groups: [String: [Item]], _ gaps: inout Int) -> [(Int, String)]? {
        var numbers: [Int: String] = [:]
        for key in groups.keys {
            guard let number = number(key), numbers.updateValue(key, forKey: number) == nil else { return nil }
        }
        let (needed, overflow) = (numbers.keys.max() ?? -1).subtractingReportingOverflow(numbers.count - 1)
        guard !overflow, needed <= gaps else { return nil }
        gaps -= needed
        return numbers.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 }
    }
}

extension Nested: Sendable where Leaf: Sendable {}
extension Nested: Equatable where Leaf: Equatable {}

/// Names deeper than this are refused, so that no name can exhaust the stack.
private let nestedDepthMax = 256

/// Names that describe no tree.
public enum UnflattenError: Error, Sendable, Equatable {
    /// A name is also the beginning of others, or comes twice.
    case leafAndParent(name: String)
    /// A name has too many parts.
    case tooDeep(name: String)
}

private func number(_ key: String) -> Int? {
    // `Int` would take a sign.
    key.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ? Int(key) : nil
}
