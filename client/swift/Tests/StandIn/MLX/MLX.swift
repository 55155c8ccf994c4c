// Stands in for MLX where it cannot be had: the declarations that WeightsMLX uses, as mlx-swift has them, over memory alone.
// As Metal does, it takes pages that begin at a page boundary, and copies others in silence.
import Foundation

public enum DType: Sendable {
    case bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64
    case float16, float32, bfloat16, complex64, float64

    public var size: Int {
        switch self {
        case .bool, .uint8, .int8: 1
        case .uint16, .int16, .float16, .bfloat16: 2
        case .uint32, .int32, .float32: 4
        case .uint64, .int64, .complex64, .float64: 8
        }
    }
}

private final class Buffer {
    let first: UnsafeMutableRawPointer
    private let finalizer: () -> Void

    init(_ first: UnsafeMutableRawPointer, _ finalizer: @escaping () -> Void) {
        self.first = first
        self.finalizer = finalizer
    }

    deinit { finalizer() }

    static func copy(of bytes: UnsafeRawBufferPointer) -> Buffer {
        let own = UnsafeMutableRawPointer.allocate(byteCount: max(1, bytes.count), alignment: 64)
        UnsafeMutableRawBufferPointer(start: own, count: bytes.count).copyMemory(from: bytes)
        return Buffer(own) { own.deallocate() }
    }
}

public final class MLXArray {
    public let shape: [Int]
    public let dtype: DType
    private let buffer: Buffer
    private let offset: Int

    private init(_ buffer: Buffer, _ offset: Int, _ shape: [Int], _ dtype: DType) {
        (self.buffer, self.offset, self.shape, self.dtype) = (buffer, offset, shape, dtype)
    }

    private var byteCount: Int { shape.reduce(dtype.size, *) }

    public convenience init(
        rawPointer: UnsafeMutableRawPointer, _ shape: (some Collection<Int>)? = [Int]?.none, dtype: DType,
        finalizer: @escaping () -> Void
    ) {
        let shape = shape.map { Array($0) } ?? []
        if UInt(bitPattern: rawPointer) % UInt(getpagesize()) == 0 {
            self.init(Buffer(rawPointer, finalizer), 0, shape, dtype)
        } else {
            let bytes = UnsafeRawBufferPointer(start: rawPointer, count: shape.reduce(dtype.size, *))
            self.init(Buffer.copy(of: bytes), 0, shape, dtype)
            finalizer()
        }
    }

    public convenience init(_ data: Data, _ shape: (some Collection<Int>)? = [Int]?.none, dtype: DType) {
        self.init(data.withUnsafeBytes { Buffer.copy(of: $0) }, 0, shape.map { Array($0) } ?? [data.count / dtype.size], dtype)
    }

    public subscript(range: Range<Int>) -> MLXArray {
        precondition(shape.count == 1 && range.upperBound <= shape[0])
        return MLXArray(buffer, offset + range.lowerBound * dtype.size, [range.count], dtype)
    }

    public func view(dtype: DType) -> MLXArray {
        precondition((offset % dtype.size, byteCount % dtype.size) == (0, 0))
        return MLXArray(buffer, offset, [byteCount / dtype.size], dtype)
    }

    public func reshaped(_ newShape: some Collection<Int>) -> MLXArray {
        precondition(newShape.reduce(1, *) == shape.reduce(1, *))
        return MLXArray(buffer, offset, Array(newShape), dtype)
    }

    public enum AccessMethod { case copy, noCopyIfContiguous, noCopy }

    public struct MLXArrayData { public let data: Data }

    public func asData(access: AccessMethod) -> MLXArrayData {
        let first = buffer.first + offset
        return MLXArrayData(
            data: access == .copy
                ? Data(bytes: first, count: byteCount) : Data(bytesNoCopy: first, count: byteCount, deallocator: .none))
    }
}
