import CWeightsd
import Dispatch

/// A connection to weightsd. It connects again by itself after the daemon restarted; components outlive it.
///
///     let transformer = try await Weights.connect().load("Tongyi-MAI/Z-Image-Turbo", component: "transformer") { progress in
///         print(progress.phase, progress.file ?? "")
///     }
public final class Weights: Sendable {
    /// The library's version, such as "0.1.0".
    public static var version: String { String(cString: weightsd_version()) }

    /// Never changes; the library lets several threads use one connection.
    private let handle: Handle

    private init(_ handle: OpaquePointer) {
        self.handle = Handle(handle, free: weightsd_disconnect)
    }

    /// Connects to the daemon, and checks that it speaks this library's version of the interface.
    ///
    /// - Parameters:
    ///   - socket: Path of the daemon's socket; `nil` is where this process's environment says.
    ///   - deadline: How long connecting, and every call without a deadline of its own, may take.
    public static func connect(socket: String? = nil, deadline: Duration = .seconds(5)) async throws -> Weights {
        try await blocking {
            let texts = CTexts()
            var options = weightsd_connect_options()
            options.size = MemoryLayout<weightsd_connect_options>.size
            options.socket = texts.text(socket)
            options.deadline_ms = deadline.milliseconds
            return try texts.whileAlive {
                let handle = try checked { weightsd_connect(&options, $0, $1) }
                return Weights(handle)
            }
        }
    }

    /// Loads a component, or joins a load that is under way, and maps its files. Cancelling the task ends the load.
    ///
    /// - Parameters:
    ///   - spec: A path, or a Hugging Face id with or without a revision.
    ///   - component: "transformer", "vae" and so on.
    ///   - onProgress: Hears of every step that the daemon reports, on a thread of the library's caller, before `load` returns.
    /// - Throws: `WeightsError`, or `CancellationError` when the task was cancelled.
    public func load(
        _ spec: String, component: String, options: LoadOptions = LoadOptions(),
        onProgress: (@Sendable (LoadProgress) -> Void)? = nil
    ) async throws -> Component {
        let cancellation = Cancellation()
        let handle = handle
        return try await withTaskCancellationHandler {
            try Task.checkCancellation()
            return try await blocking {
                try Component.load(handle.pointer, spec, component, options, cancellation, onProgress)
            }
        } onCancel: {
            cancellation.cancel()
        }
    }

    /// What a spec means now, as the JSON of `weights.v1.ResolveResponse`: kind, commit, components, files. Opens no weight file.
    public func resolve(_ spec: String, options: ModelOptions = ModelOptions()) async throws -> String {
        let handle = handle
        return try await blocking {
            try options.withC { model in
                try text { weightsd_resolve(handle.pointer, spec, model, $0, $1) }
            }
        }
    }

    /// A component compared with its family's catalogue, as the JSON of `weights.v1.AuditResponse`; every component when
    /// `component` is `nil`. Loads nothing.
    public func audit(
        _ spec: String, component: String? = nil, options: ModelOptions = ModelOptions()
    ) async throws -> String {
        let handle = handle
        return try await blocking {
            try options.withC { model in
                try text { weightsd_audit(handle.pointer, spec, component, model, $0, $1) }
            }
        }
    }
}

/// Where calls wait: not on the threads of Swift's tasks, of which there are as many as processors.
private let waiting = DispatchQueue(label: "weights", attributes: .concurrent)

/// Does what waits on a thread that may.
func blocking<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        waiting.async {
            continuation.resume(with: Result(catching: work))
        }
    }
}

/// The text that a call gives.
private func text(
    _ call: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>, UnsafeMutablePointer<UnsafeMutablePointer<weightsd_error>?>) ->
        weightsd_code
) throws -> String {
    let text = try checked(call)
    defer { weightsd_text_free(text) }
    return String(cString: text)
}

/// Owns a handle of the library. The library allows what crosses threads here.
final class Handle: @unchecked Sendable {
    let pointer: OpaquePointer
    private let free: @Sendable (OpaquePointer?) -> Void

    init(_ pointer: OpaquePointer, free: @escaping @Sendable (OpaquePointer?) -> Void) {
        self.pointer = pointer
        self.free = free
    }

    deinit { free(pointer) }
}

/// Ends a load from another thread.
final class Cancellation: Sendable {
    private let handle = Handle(weightsd_cancellation_new()!, free: weightsd_cancellation_free)

    var pointer: OpaquePointer { handle.pointer }

    func cancel() { weightsd_cancel(handle.pointer) }
}

extension Duration {
    /// Whole milliseconds; what is below one counts as one.
    var milliseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, self > .zero else { return 0 }
        let (product, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1000)
        guard !overflow else { return .max }
        return max(1, product.addingReportingOverflow(UInt64(attoseconds / 1_000_000_000_000_000)).partialValue)
    }
}
