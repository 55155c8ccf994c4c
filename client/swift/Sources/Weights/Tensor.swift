import CWeightsd

/// One tensor of a component, in pages that all processes share. It keeps its mapping: the bytes stay valid while any tensor
/// of the component lives, also after the component, its lease and the daemon are gone.
///
/// The bytes are those of a file. If somebody truncates it, reading beyond its end ends this process, as with every mapping.
public struct Tensor: @unchecked Sendable {
    // Sendable: what the pointer leads to never changes, and lives as long as the mapping.
    private let c: UnsafePointer<weightsd_tensor>
    let mapping: Handle

    init(_ c: UnsafePointer<weightsd_tensor>, _ mapping: Handle) {
        self.c = c
        self.mapping = mapping
    }

    /// Name in the layout that was asked for.
    public var name: String { String(cString: c.pointee.name) }
    /// Name in the checkpoint.
    public var sourceName: String { String(cString: c.pointee.source_name) }
    public var dtype: DType { DType(rawValue: c.pointee.dtype.rawValue) ?? .other }
    /// The dtype's name in safetensors, such as "BF16".
    public var dtypeName: String { String(cString: c.pointee.dtype_name) }
    /// Dimensions, row-major; empty for a scalar.
    public var shape: [Int] { UnsafeBufferPointer(start: c.pointee.shape, count: c.pointee.rank).map { Int($0) } }
    public var byteCount: Int { c.pointee.length }
    /// Number of its segment, and where its bytes begin there.
    public var place: (segment: Int, offset: Int) { (c.pointee.segment, Int(c.pointee.offset)) }
    /// Whether its first byte is aligned for its dtype. safetensors files may place tensors anywhere.
    public var isAligned: Bool { c.pointee.is_aligned }

    /// Its bytes: little endian, row-major, without gaps. The pointer must not leave the closure.
    public func withUnsafeBytes<T>(_ body: (UnsafeRawBufferPointer) throws -> T) rethrows -> T {
        try withExtendedLifetime(mapping) {
            try body(UnsafeRawBufferPointer(start: c.pointee.data, count: c.pointee.length))
        }
    }

    /// Why elements cannot be read as a type.
    public enum ViewError: Error, Sendable, Equatable {
        /// They are something else.
        case wrongDType(tensor: String, dtype: String, asked: String)
        /// The first one is not aligned for the type: read them with `elements(as:)`, which copies.
        case misaligned(tensor: String)
    }

    /// Its elements in place. The pointer must not leave the closure.
    public func withUnsafeElements<E: TensorElement, T>(
        as type: E.Type, _ body: (UnsafeBufferPointer<E>) throws -> T
    ) throws -> T {
        try check(type)
        return try withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress, !bytes.isEmpty else { return try body(UnsafeBufferPointer(start: nil, count: 0)) }
            guard UInt(bitPattern: base) % UInt(MemoryLayout<E>.alignment) == 0 else {
                throw ViewError.misaligned(tensor: name)
            }
            return try body(bytes.bindMemory(to: E.self))
        }
    }

    /// A copy of its elements, wherever they begin.
    public func elements<E: TensorElement>(as type: E.Type) throws -> [E] {
        try check(type)
        let count = byteCount / MemoryLayout<E>.size
        return withUnsafeBytes { bytes in
            [E](unsafeUninitializedCapacity: count) { room, initialized in
                UnsafeMutableRawBufferPointer(room).copyMemory(from: bytes)
                initialized = count
            }
        }
    }

    private func check<E: TensorElement>(_ type: E.Type) throws {
        guard type.dtypes.contains(dtype) else {
            throw ViewError.wrongDType(tensor: name, dtype: dtypeName, asked: "\(type)")
        }
    }
}

extension Tensor: CustomStringConvertible {
    public var description: String { "\(name) \(dtypeName) \(shape)" }
}

/// A layer that is quantised in a format of MLX, with all of its tensors.
public struct QuantisedLayer: Sendable {
    /// The common beginning of its tensors' names, without the dot.
    public let name: String
    /// `nil` is a mode that this library does not know.
    public let mode: QuantisationMode?
    public let bits: Int
    /// Weights that share a scale.
    public let groupSize: Int
    /// Dimensions of the weight before it was quantised.
    public let shape: [Int]
    /// The packed codes.
    public let weight: Tensor
    /// One number for each group.
    public let scales: Tensor
    /// A second number for each group; only in affine quantisation.
    public let biases: Tensor?
    /// A factor on the scales.
    public let globalScale: Tensor?

    init(_ c: weightsd_layer, _ mapping: Handle) {
        name = String(cString: c.name)
        mode = QuantisationMode(rawValue: c.mode.rawValue)
        bits = Int(c.bits)
        groupSize = Int(c.group_size)
        shape = UnsafeBufferPointer(start: c.shape, count: c.rank).map { Int($0) }
        weight = Tensor(c.weight, mapping)
        scales = Tensor(c.scales, mapping)
        biases = c.biases.map { Tensor($0, mapping) }
        globalScale = c.global_scale.map { Tensor($0, mapping) }
    }
}

/// A segment's file, mapped whole. It keeps the mapping.
public struct MappedSegment: @unchecked Sendable {
    // Sendable: the pages are read only, and live as long as the mapping.
    /// Its path when it was lent.
    public let path: String
    /// Whether the daemon computed it; otherwise it is the checkpoint's own. In a computed one every tensor begins at a page.
    public let isDerived: Bool
    private let bytes: UnsafeRawBufferPointer
    private let mapping: Handle

    init(_ c: weightsd_view, _ mapping: Handle) {
        path = String(cString: c.path)
        isDerived = c.kind == WEIGHTSD_SEGMENT_KIND_DERIVED
        bytes = UnsafeRawBufferPointer(start: c.data, count: c.length)
        self.mapping = mapping
    }

    public var byteCount: Int { bytes.count }

    /// Its bytes, of which the first lies at the beginning of a page. The pointer must not leave the closure, unless something
    /// else keeps this value.
    public func withUnsafeBytes<T>(_ body: (UnsafeRawBufferPointer) throws -> T) rethrows -> T {
        try withExtendedLifetime(mapping) { try body(bytes) }
    }
}
