// Stands in for MLXNN: parameters by their dotted names.
import MLX

public struct ModuleParameters {
    public let flat: [String: MLXArray]

    public static func unflattened(_ flat: [String: MLXArray]) -> ModuleParameters { ModuleParameters(flat: flat) }
}
