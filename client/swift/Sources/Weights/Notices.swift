import CWeightsd
import Foundation

/// Something that the holder of a component should know.
public struct Notice: Sendable, Equatable {
    public enum Kind: UInt32, Sendable {
        /// Something that this library does not know; the message says what.
        case other = 0
        /// The daemon stops; what is mapped stays readable.
        case shuttingDown
        /// Somebody changed a file under the component; its bytes can no longer be trusted.
        case fileChanged
        /// A file under the component does not have its hash; its bytes cannot be trusted.
        case corrupt
        /// A file under the component was deleted, moved or replaced. What is mapped keeps its bytes; the next load finds
        /// what is there now. ``fileChanged`` may follow.
        case fileGone
        /// There is a lease again, on the same component, from the daemon that serves now.
        case leasedAgain
        /// There is no lease any more. What is mapped stays readable, and no notice follows.
        case leaseLost
        /// The component's bytes are not, or not all, locked in memory.
        case notPinned
    }

    public let kind: Kind
    public let message: String
}

/// Waits for notices on a thread of its own, from the first stream on, and gives each to every stream.
final class NoticePump: @unchecked Sendable {
    // Sendable: everything that changes is behind the lock.
    private let mapping: Handle
    private let lock = NSLock()
    private var streams: [Int: AsyncStream<Notice>.Continuation] = [:]
    private var next = 0
    private var state = State.idle

    private enum State { case idle, running, ended }

    init(_ mapping: Handle) { self.mapping = mapping }

    func stream() -> AsyncStream<Notice> {
        AsyncStream { continuation in
            let mustStart = lock.withLock { () -> Bool in
                guard state != .ended else {
                    continuation.finish()
                    return false
                }
                let number = next
                next += 1
                streams[number] = continuation
                continuation.onTermination = { [weak self] _ in
                    guard let self else { return }
                    _ = self.lock.withLock { self.streams.removeValue(forKey: number) }
                }
                defer { state = .running }
                return state == .idle
            }
            // The thread ends when the lease does, which it does not keep: that is the component's.
            if mustStart { Thread.detachNewThread { [self] in pump() } }
        }
    }

    private func pump() {
        while let notice = wait() {
            lock.withLock { Array(streams.values) }.forEach { $0.yield(notice) }
        }
        let last = lock.withLock { () -> [AsyncStream<Notice>.Continuation] in
            state = .ended
            defer { streams.removeAll() }
            return Array(streams.values)
        }
        last.forEach { $0.finish() }
    }

    private func wait() -> Notice? {
        var notice: UnsafeMutablePointer<weightsd_notice>?
        guard weightsd_next_notice(mapping.pointer, -1, &notice, nil) == WEIGHTSD_CODE_OK, let notice else { return nil }
        defer { weightsd_notice_free(notice) }
        return Notice(
            kind: Notice.Kind(rawValue: notice.pointee.kind.rawValue) ?? .other,
            message: String(cString: notice.pointee.message))
    }
}
