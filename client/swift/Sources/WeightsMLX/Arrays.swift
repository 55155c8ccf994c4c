#if canImport(MLX) && canImport(MLXNN)
    import Foundation
    import MLX
    import MLXNN
    import Weights

    #if canImport(Metal)
        import Metal
    #endif

    /// The tensors of a component as arrays of MLX, in the shared pages wherever MLX can have them there; `copied` names every
    /// tensor that was copied instead.
    ///
    /// Arrays stay valid after this object, the component, its lease and the daemon are gone. MLX writes the result of an
    /// operation into the memory of an input that nobody else refers to, and the shared pages must not be written to. So a
    /// reference to them is kept for as long as the process runs, unless `letGo` is called once no array over them is left.
    /// What is kept is address space: clean pages of files, which cost no memory.
    public final class Arrays {
        /// Why a tensor was copied.
        public enum CopyReason: Sendable, Equatable {
            /// It has no bytes.
            case empty
            /// Its first byte is not aligned for its dtype.
            case misaligned
            /// The device takes no buffer that long.
            case tooLong
            /// The backend did not take the pages: MLX's CPU backend takes none.
            case backend
        }

        /// All arrays by name.
        public let flattened: [String: MLXArray]
        /// The tensors that lie in memory of their own, with the reason.
        public let copied: [String: CopyReason]
        private let kept: Int

        /// Arrays in the order in which they were kept, under the number of their `Arrays`.
        private static let everybody = Kept()

        init(_ component: Component) throws {
            let tensors = Array(component)
            var flattened: [String: MLXArray] = [:]
            var copied: [String: CopyReason] = [:]
            var bases: [MLXArray] = []
            for (number, segment) in component.segments.enumerated() {
                let own = tensors.filter { $0.place.segment == number }
                let adopted = Self.adopt(segment, own.map { $0.place.offset..<$0.place.offset + $0.byteCount })
                bases += adopted.compactMap(\.?.base)
                for (tensor, window) in zip(own, adopted) {
                    let (array, reason) = try Self.array(tensor, window)
                    flattened[tensor.name] = array
                    copied[tensor.name] = reason
                }
            }
            self.flattened = flattened
            self.copied = copied
            kept = Self.everybody.keep(bases)
        }

        /// The arrays as modules of MLXNN take them: `module.update(parameters:)`.
        public var parameters: ModuleParameters { ModuleParameters.unflattened(flattened) }

        public subscript(name: String) -> MLXArray? { flattened[name] }

        /// Unmaps the pages once the arrays over them are gone. Call it only when no array that came from here, or was made of
        /// one without a copy, is left but in this object.
        public func letGo() { Self.everybody.letGo(kept) }

        /// A window as an array of bytes, and where it begins in its segment.
        private struct Adopted {
            let base: MLXArray
            let start: Int
        }

        /// For each tensor the window that it lies in, if MLX took it.
        private static func adopt(_ segment: MappedSegment, _ tensors: [Range<Int>]) -> [Adopted?] {
            var found = [Adopted?](repeating: nil, count: tensors.count)
            for window in windows(tensors, page: Int(getpagesize()), longest: longest) {
                segment.withUnsafeBytes { bytes in
                    let first = UnsafeMutableRawPointer(mutating: bytes.baseAddress! + window.bytes.lowerBound)
                    // The finalizer keeps the mapping until MLX needs the pages no more.
                    let base = MLXArray(rawPointer: first, [window.bytes.count], dtype: .uint8) {
                        withExtendedLifetime(segment) {}
                    }
                    // MLX copies in silence what its backend does not take.
                    guard base.asData(access: .noCopy).data.withUnsafeBytes({ $0.baseAddress }) == UnsafeRawPointer(first)
                    else { return }
                    for at in window.tensors { found[at] = Adopted(base: base, start: window.bytes.lowerBound) }
                }
            }
            return found
        }

        private static func array(_ tensor: Tensor, _ adopted: Adopted?) throws -> (MLXArray, CopyReason?) {
            let dtype = try mlxType(tensor)
            func copy(_ reason: CopyReason) -> (MLXArray, CopyReason?) {
                let data = tensor.withUnsafeBytes { Data($0) }
                return (MLXArray(data, tensor.shape, dtype: dtype), reason)
            }
            if tensor.byteCount == 0 { return copy(.empty) }
            guard let adopted else { return copy(tensor.byteCount > longest - 2 * Int(getpagesize()) ? .tooLong : .backend) }
            guard tensor.isAligned else { return copy(.misaligned) }
            let begin = tensor.place.offset - adopted.start
            let bytes = adopted.base[begin..<begin + tensor.byteCount]
            return (bytes.view(dtype: dtype).reshaped(tensor.shape), nil)
        }

        /// The dtype that MLX has when it loads the same file: 8-bit floats come as their bytes.
        private static func mlxType(_ tensor: Tensor) throws -> MLX.DType {
            switch tensor.dtype {
            case .bool: .bool
            case .u8, .f8e4m3, .f8e5m2, .f8e8m0, .f8e4m3fnuz, .f8e5m2fnuz: .uint8
            case .i8: .int8
            case .u16: .uint16
            case .i16: .int16
            case .u32: .uint32
            case .i32: .int32
            case .u64: .uint64
            case .i64: .int64
            case .f16: .float16
            case .bf16: .bfloat16
            case .f32: .float32
            case .f64: .float64
            case .c64: .complex64
            case .f4, .f6e2m3, .f6e3m2, .other: throw NoSuchArray(tensor: tensor.name, dtype: tensor.dtypeName)
            }
        }

        /// The longest buffer that the device takes.
        private static var longest: Int {
            #if canImport(Metal)
                MTLCreateSystemDefaultDevice()?.maxBufferLength ?? .max
            #else
                .max
            #endif
        }
    }

    /// MLX has no array of that dtype.
    public struct NoSuchArray: Error, Sendable, Equatable {
        public let tensor: String
        public let dtype: String
    }

    extension Component {
        /// The tensors as arrays of MLX over the same pages.
        ///
        /// - Throws: `NoSuchArray` when MLX lacks the dtype of a tensor.
        public func arrays() throws -> Arrays { try Arrays(self) }
    }

    /// References that nobody else has, so that MLX never writes to the pages under them.
    private final class Kept: @unchecked Sendable {
        // Sendable: everything is behind the lock.
        private let lock = NSLock()
        private var bases: [Int: [MLXArray]] = [:]
        private var next = 0

        func keep(_ arrays: [MLXArray]) -> Int {
            lock.withLock {
                defer { next += 1 }
                bases[next] = arrays
                return next
            }
        }

        func letGo(_ number: Int) { _ = lock.withLock { bases.removeValue(forKey: number) } }
    }
#endif
