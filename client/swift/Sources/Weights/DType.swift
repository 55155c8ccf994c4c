import CWeightsd

/// The type of a tensor's elements; the names are those of safetensors.
public enum DType: UInt32, Sendable {
    /// A type that this library has no number for; `Tensor.dtypeName` says which.
    case other = 0
    case bool, u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64, c64
    case f8e5m2, f8e4m3, f8e8m0, f8e4m3fnuz, f8e5m2fnuz, f4, f6e2m3, f6e3m2
}

/// A type that can stand for the elements of a tensor. Every pattern of its bits is a value.
public protocol TensorElement: BitwiseCopyable {
    /// The dtypes whose elements it can stand for.
    static var dtypes: Set<DType> { get }
}

extension Float: TensorElement { public static var dtypes: Set<DType> { [.f32] } }
extension Double: TensorElement { public static var dtypes: Set<DType> { [.f64] } }
extension Int8: TensorElement { public static var dtypes: Set<DType> { [.i8] } }
extension Int16: TensorElement { public static var dtypes: Set<DType> { [.i16] } }
extension Int32: TensorElement { public static var dtypes: Set<DType> { [.i32] } }
extension Int64: TensorElement { public static var dtypes: Set<DType> { [.i64] } }
// `Bool` is absent, because only two of its bit patterns are values.
extension UInt8: TensorElement { public static var dtypes: Set<DType> { [.u8, .bool] } }
extension UInt16: TensorElement { public static var dtypes: Set<DType> { [.u16] } }
extension UInt32: TensorElement { public static var dtypes: Set<DType> { [.u32] } }
extension UInt64: TensorElement { public static var dtypes: Set<DType> { [.u64] } }
#if !(os(macOS) && arch(x86_64))
    extension Float16: TensorElement { public static var dtypes: Set<DType> { [.f16] } }
#endif

/// The upper half of a `Float`.
public struct BFloat16: TensorElement, Hashable, Sendable {
    public var bitPattern: UInt16

    public init(bitPattern: UInt16) { self.bitPattern = bitPattern }

    public static var dtypes: Set<DType> { [.bf16] }
}

extension Float {
    public init(_ value: BFloat16) { self.init(bitPattern: UInt32(value.bitPattern) << 16) }
}
