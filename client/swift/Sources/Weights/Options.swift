import CWeightsd

/// Names and memory order of the tensors.
public enum TensorLayout: UInt32, Sendable {
    /// Module names of the family's MLX modules; convolution kernels in OHWI order.
    case mlx = 1
    /// Names and shapes of the family's published checkpoints, in the order of the file.
    case source = 2
    /// Names of the modules of mflux; convolution kernels in OHWI order. Of families that say what mflux calls them.
    case mflux = 3
}

/// The dtype of floats that are not part of a quantised layer.
public enum FloatType: UInt32, Sendable {
    /// Each as it is in the checkpoint.
    case asStored = 1
    case bf16 = 2
    case f16 = 3
    case f32 = 4
}

/// How the codes of a quantised layer stand for numbers; the names are MLX's.
public enum QuantisationMode: UInt32, Sendable {
    case affine = 1
    case mxfp4 = 2
    case mxfp8 = 3
    case nvfp4 = 4
}

/// How layers are quantised.
public struct Quantisation: Sendable {
    public var mode: QuantisationMode
    /// Bits of a code; `nil` is the mode's default.
    public var bits: UInt32?
    /// Weights that share a scale; `nil` is the mode's default.
    public var groupSize: UInt32?
    /// Globs over names of layers; empty is the family's rule.
    public var only: [String]
    /// Globs over layers that stay as they are.
    public var excluding: [String]

    public init(
        _ mode: QuantisationMode = .affine, bits: UInt32? = nil, groupSize: UInt32? = nil, only: [String] = [],
        excluding: [String] = []
    ) {
        (self.mode, self.bits, self.groupSize, self.only, self.excluding) = (mode, bits, groupSize, only, excluding)
    }
}

/// A LoRA, LoKr or LoHa that is added to the weights.
public struct Adapter: Sendable {
    /// A `.safetensors` file, a directory that holds one, or a Hugging Face id.
    public var model: String
    /// A glob that chooses one of several files.
    public var pattern: String?
    /// Factor on its changes.
    public var scale: Double

    public init(_ model: String, pattern: String? = nil, scale: Double = 1) {
        (self.model, self.pattern, self.scale) = (model, pattern, scale)
    }
}

/// Which files a model's name means. What is `nil` is as the environment says.
public struct ModelOptions: Sendable {
    /// Revision (branch, tag or commit) of a Hugging Face id.
    public var revision: String?
    /// Variant of the weights, such as "fp16".
    public var variant: String?
    /// The Hugging Face cache to look in.
    public var hubCache: String?
    /// The directory that a relative path starts from.
    public var workingDirectory: String?
    /// Globs over the paths of weight files; only weights that match one count.
    public var patterns: [String] = []
    /// A model whose configs count for weights that have none.
    public var base: String?
    /// A file, directory or id whose tensors replace all or some of the component's.
    public var overlay: String?
    /// Whether the hub must not be asked.
    public var offline: Bool?

    public init() {}

    func c(_ texts: CTexts) -> weightsd_model_options {
        var c = weightsd_model_options()
        c.size = MemoryLayout<weightsd_model_options>.size
        c.revision = texts.text(revision)
        c.variant = texts.text(variant)
        c.hub_cache = texts.text(hubCache)
        c.working_directory = texts.text(workingDirectory)
        (c.patterns, c.pattern_count) = texts.list(patterns)
        c.base = texts.text(base)
        c.overlay = texts.text(overlay)
        c.network =
            switch offline {
            case nil: WEIGHTSD_NETWORK_ENVIRONMENT.rawValue
            case false?: WEIGHTSD_NETWORK_ALLOWED.rawValue
            case true?: WEIGHTSD_NETWORK_OFFLINE.rawValue
            }
        return c
    }

    func withC<T>(_ body: (UnsafePointer<weightsd_model_options>) throws -> T) rethrows -> T {
        let texts = CTexts()
        var c = c(texts)
        return try texts.whileAlive { try body(&c) }
    }
}

/// What to load, and how. What is `nil` is the daemon's default.
public struct LoadOptions: Sendable {
    /// Which files the model's name means.
    public var model = ModelOptions()
    public var layout: TensorLayout?
    public var dtype: FloatType?
    /// How layers are quantised; `nil` leaves them as they are.
    public var quantise: Quantisation?
    /// Whether quantised layers are lent as plain ones. Not together with `quantise`.
    public var dequantise = false
    /// Adapters, in the order in which they are added.
    public var adapters: [Adapter] = []
    /// Whether quantised layers stay plain after adapters were merged into them.
    public var mergedPlain = false
    /// Whether a component is lent although its audit failed.
    public var reportOnly = false
    /// Whether files that were here before are hashed before they are lent; otherwise afterwards.
    public var verifyFirst = false
    /// Whether the component is leased. Without a lease the daemon may drop it, and sends no notices.
    public var hold = true
    /// Whether files are opened by their paths; otherwise they come as descriptors.
    public var openByPath = false
    /// How long the component should stay warm after the last lease. The daemon limits it.
    public var keepAlive: Duration?
    /// How long the daemon may stay silent; two minutes unless set.
    public var deadline: Duration?
    /// This client's name in lists and logs; the program's unless set.
    public var clientName: String?

    public init() {}

    /// Everything but who listens.
    func c(_ texts: CTexts) -> weightsd_load_options {
        var c = weightsd_load_options()
        c.size = MemoryLayout<weightsd_load_options>.size
        c.model = texts.keep(model.c(texts))
        c.layout = layout?.rawValue ?? 0
        c.dtype = dtype?.rawValue ?? 0
        if let quantise { c.quantise = texts.keep(quantise.c(texts)) }
        c.dequantise = dequantise
        let adapters = adapters.map { adapter in
            weightsd_adapter(
                model: texts.text(adapter.model), pattern: texts.text(adapter.pattern), scale: adapter.scale,
                has_scale: true)
        }
        (c.adapters, c.adapter_count) = (texts.keep(adapters), adapters.count)
        c.merged = mergedPlain ? WEIGHTSD_MERGED_PLAIN.rawValue : WEIGHTSD_MERGED_DEFAULT.rawValue
        c.audit_policy = reportOnly ? WEIGHTSD_AUDIT_POLICY_REPORT_ONLY.rawValue : WEIGHTSD_AUDIT_POLICY_DEFAULT.rawValue
        c.verification = verifyFirst ? WEIGHTSD_VERIFICATION_BEFORE.rawValue : WEIGHTSD_VERIFICATION_DEFAULT.rawValue
        c.hold = hold ? WEIGHTSD_HOLD_STREAM.rawValue : WEIGHTSD_HOLD_NONE.rawValue
        c.handoff = openByPath ? WEIGHTSD_HANDOFF_PATH.rawValue : WEIGHTSD_HANDOFF_DESCRIPTORS.rawValue
        c.has_keep_alive = keepAlive != nil
        c.keep_alive_ms = keepAlive?.milliseconds ?? 0
        c.deadline_ms = deadline?.milliseconds ?? 0
        c.client_name = texts.text(clientName)
        return c
    }
}

extension Quantisation {
    func c(_ texts: CTexts) -> weightsd_quantisation {
        var c = weightsd_quantisation()
        c.size = MemoryLayout<weightsd_quantisation>.size
        c.mode = mode.rawValue
        c.bits = bits ?? 0
        c.group_size = groupSize ?? 0
        (c.only, c.only_count) = texts.list(only)
        (c.excluding, c.excluding_count) = texts.list(excluding)
        return c
    }
}
