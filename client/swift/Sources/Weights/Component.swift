import CWeightsd

/// A component: a collection of tensors in the order of their names, and the lease that holds them in the daemon. The lease
/// ends with this object; tensors that were taken from it stay valid.
public final class Component: Sendable {
    let mapping: Handle
    private let pump: NoticePump

    private init(_ handle: OpaquePointer) {
        mapping = Handle(handle, free: weightsd_component_free)
        pump = NoticePump(mapping)
    }

    deinit { release() }

    /// Ends the lease and keeps the mapping. The daemon may then drop the component, and no notice comes any more.
    public func release() { weightsd_release(mapping.pointer) }

    /// The tensor of that name.
    public subscript(name: String) -> Tensor? {
        weightsd_tensor_named(mapping.pointer, name).map { Tensor($0, mapping) }
    }

    /// The layers that are quantised in a format of MLX, in the order of their names.
    public var quantisedLayers: [QuantisedLayer] {
        (0..<weightsd_layer_count(mapping.pointer)).map { index in
            QuantisedLayer(weightsd_layer_at(mapping.pointer, index)!.pointee, mapping)
        }
    }

    /// The mapped files, by the number of their segment.
    public var segments: [MappedSegment] {
        (0..<weightsd_view_count(mapping.pointer)).map { index in
            MappedSegment(weightsd_view_at(mapping.pointer, index)!.pointee, mapping)
        }
    }

    /// All that the daemon said of the component, as the JSON of `weights.v1.Component`: id, commit, config, audit and so on.
    public var report: String { String(cString: weightsd_report(mapping.pointer)) }

    /// Notices about the component, from now on, until the lease is released or lost. Several may be followed at once.
    public var notices: AsyncStream<Notice> { pump.stream() }

    /// The tensors as the tree that the dots in their names describe, as `mlx.utils.tree_unflatten` builds it.
    public func nested() throws -> Nested<Tensor> { try Nested(unflattening: map { ($0.name, $0) }) }

    /// The tensors by their names, as `ModuleParameters.unflattened` of MLX takes them.
    public var flattened: [(String, Tensor)] { map { ($0.name, $0) } }

    static func load(
        _ connection: OpaquePointer, _ spec: String, _ component: String, _ options: LoadOptions,
        _ cancellation: Cancellation, _ onProgress: (@Sendable (LoadProgress) -> Void)?
    ) throws -> Component {
        let texts = CTexts()
        var c = options.c(texts)
        c.cancellation = cancellation.pointer
        let listener = onProgress.map(Listener.init)
        if let listener {
            c.context = Unmanaged.passUnretained(listener).toOpaque()
            c.on_progress = { progress, context in
                // The listener lives until the load has returned, below.
                let listener = Unmanaged<Listener>.fromOpaque(context!).takeUnretainedValue()
                listener.hear(LoadProgress(progress!.pointee))
                return true
            }
        }
        return try texts.whileAlive {
            try withExtendedLifetime((listener, cancellation)) {
                Component(try checked { weightsd_load(connection, spec, component, &c, $0, $1) })
            }
        }
    }

    private final class Listener: Sendable {
        let hear: @Sendable (LoadProgress) -> Void

        init(_ hear: @escaping @Sendable (LoadProgress) -> Void) { self.hear = hear }
    }
}

extension Component: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { weightsd_tensor_count(mapping.pointer) }

    public subscript(position: Int) -> Tensor {
        guard let tensor = weightsd_tensor_at(mapping.pointer, position) else {
            preconditionFailure("\(position) is beyond the last tensor")
        }
        return Tensor(tensor, mapping)
    }
}
