/// Memory for what options point at, given back all at once.
final class CTexts {
    private var kept: [() -> Void] = []

    deinit { kept.forEach { $0() } }

    /// Runs `body` while everything that came from here is valid.
    func whileAlive<T>(_ body: () throws -> T) rethrows -> T {
        try withExtendedLifetime(self, body)
    }

    /// A copy that stays where it is.
    func keep<T>(_ value: T) -> UnsafePointer<T> {
        let place = UnsafeMutablePointer<T>.allocate(capacity: 1)
        place.initialize(to: value)
        kept.append {
            place.deinitialize(count: 1)
            place.deallocate()
        }
        return UnsafePointer(place)
    }

    /// Copies, one behind the other; `nil` of none.
    func keep<T>(_ values: [T]) -> UnsafePointer<T>? {
        guard !values.isEmpty else { return nil }
        let place = UnsafeMutableBufferPointer<T>.allocate(capacity: values.count)
        _ = place.initialize(fromContentsOf: values)
        kept.append {
            place.deinitialize()
            place.deallocate()
        }
        return UnsafePointer(place.baseAddress)
    }

    func text(_ text: String?) -> UnsafePointer<CChar>? {
        text.flatMap { keep(Array($0.utf8CString)) }
    }

    func list(_ texts: [String]) -> (UnsafePointer<UnsafePointer<CChar>?>?, Int) {
        (keep(texts.map { text($0) }), texts.count)
    }
}
