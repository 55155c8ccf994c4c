import CWeightsd
import Foundation

/// Why a call failed.
public enum WeightsError: Error, Sendable, Equatable {
    /// An argument cannot be used. Nothing was asked of the daemon.
    case argument(Details)
    /// There is no daemon, or it cannot be reached.
    case noDaemon(Details)
    /// The daemon speaks another version of the interface.
    case otherProtocol(Details)
    /// The daemon took too long.
    case deadline(Details)
    /// The daemon refused. `reason` is its reason, such as "AUDIT_FAILED"; programs may switch on it.
    case refused(reason: String, Details)
    /// The connection broke during the call.
    case disconnected(Details)
    /// The daemon's answer contradicts itself.
    case brokenProtocol(Details)
    /// A file that is lent cannot be received or mapped.
    case files(Details)
    /// The system has no memory, address space or threads left.
    case outOfMemory(Details)
    /// A fault of the library.
    case fault(Details)

    /// What a failure says besides its kind.
    public struct Details: Sendable, Equatable {
        /// What happened, in one sentence.
        public var message: String
        /// A step that can help.
        public var hint: String?
        /// The path, spec, component, tensor or argument that the error is about.
        public var resource: String?
        /// Whether the same call may succeed later without a change.
        public var isRetryable: Bool
        /// All that the daemon says, as the JSON of `weights.v1.ErrorDetail`, with the report of a failed audit.
        public var detailJSON: String?
    }

    /// What the failure says besides its kind.
    public var details: Details {
        switch self {
        case .argument(let details), .noDaemon(let details), .otherProtocol(let details), .deadline(let details),
            .refused(_, let details), .disconnected(let details), .brokenProtocol(let details), .files(let details),
            .outOfMemory(let details), .fault(let details):
            details
        }
    }

    /// What happened, in one sentence.
    public var message: String { details.message }
    /// A step that can help.
    public var hint: String? { details.hint }
}

extension WeightsError: LocalizedError, CustomStringConvertible {
    public var errorDescription: String? { message }
    public var recoverySuggestion: String? { hint }
    public var description: String { hint.map { "\(message); hint: \($0)" } ?? message }
}

/// The Swift error of a C one. A load that was cancelled is `CancellationError`, as of every task.
func swiftError(_ error: weightsd_error) -> any Error {
    func text(_ pointer: UnsafePointer<CChar>) -> String? {
        pointer.pointee == 0 ? nil : String(cString: pointer)
    }
    let details = WeightsError.Details(
        message: String(cString: error.message), hint: text(error.hint), resource: text(error.resource),
        isRetryable: error.retryable, detailJSON: text(error.detail_json))
    return switch error.code {
    case WEIGHTSD_CODE_ARGUMENT: WeightsError.argument(details)
    case WEIGHTSD_CODE_NO_DAEMON: WeightsError.noDaemon(details)
    case WEIGHTSD_CODE_OTHER_PROTOCOL: WeightsError.otherProtocol(details)
    case WEIGHTSD_CODE_DEADLINE: WeightsError.deadline(details)
    case WEIGHTSD_CODE_REFUSED: WeightsError.refused(reason: String(cString: error.reason), details)
    case WEIGHTSD_CODE_DISCONNECTED: WeightsError.disconnected(details)
    case WEIGHTSD_CODE_PROTOCOL: WeightsError.brokenProtocol(details)
    case WEIGHTSD_CODE_FILES: WeightsError.files(details)
    case WEIGHTSD_CODE_OUT_OF_MEMORY: WeightsError.outOfMemory(details)
    case WEIGHTSD_CODE_CANCELLED: CancellationError()
    default: WeightsError.fault(details)
    }
}

/// Calls a function of the library, and gives what it made.
func checked<T>(
    _ call: (UnsafeMutablePointer<T?>, UnsafeMutablePointer<UnsafeMutablePointer<weightsd_error>?>) -> weightsd_code
) throws -> T {
    var result: T?
    var error: UnsafeMutablePointer<weightsd_error>?
    let code = call(&result, &error)
    if let error {
        defer { weightsd_error_free(error) }
        throw swiftError(error.pointee)
    }
    guard code == WEIGHTSD_CODE_OK, let result else { fatalError("weightsd.h: success gives a result, failure an error") }
    return result
}
