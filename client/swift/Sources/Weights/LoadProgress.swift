import CWeightsd

/// How far a load is.
public struct LoadProgress: Sendable {
    /// What is being done.
    public enum Phase: UInt32, Sendable {
        /// Something that this library does not know.
        case other = 0
        /// Finding the model and its files.
        case resolve
        /// Opening files and reading their headers.
        case open
        /// Planning and auditing.
        case audit
        /// Downloading what is missing.
        case download
        /// Comparing files with their hashes.
        case verify
        /// Computing tensors.
        case derive
    }

    public let phase: Phase
    /// Path of the current file, below the model's directory.
    public let file: String?
    public let filesDone: Int
    /// `nil` while unknown.
    public let filesTotal: Int?
    /// Bytes done in this phase.
    public let bytesDone: UInt64
    /// Bytes in all in this phase; `nil` while unknown.
    public let bytesTotal: UInt64?
    /// Over the last seconds; `nil` while unknown.
    public let bytesPerSecond: UInt64?
    /// At that rate; `nil` while unknown.
    public let remaining: Duration?
    /// Requests that wait for this load, this one included.
    public let sharers: Int

    init(_ c: weightsd_progress) {
        phase = Phase(rawValue: c.phase.rawValue) ?? .other
        file = c.file.pointee == 0 ? nil : String(cString: c.file)
        filesDone = Int(c.files_done)
        filesTotal = c.files_total == 0 ? nil : Int(c.files_total)
        bytesDone = c.bytes_done
        bytesTotal = c.bytes_total == 0 ? nil : c.bytes_total
        bytesPerSecond = c.bytes_per_second == 0 ? nil : c.bytes_per_second
        remaining = c.remaining_ms < 0 ? nil : .milliseconds(c.remaining_ms)
        sharers = Int(c.sharers)
    }
}
