// Which pages of a mapped file become buffers of a GPU; mlx-sys/arrays/src/windows.rs says why, and does the same in Rust.

/// Page-aligned bytes of a mapping. Their end can lie beyond the end of the file: the system maps its last page whole.
struct Window: Equatable {
    var bytes: Range<Int>
    /// Positions of the tensors in it.
    var tensors: [Int]
}

/// Longest window that is made by joining neighbours, in bytes. A longer tensor has a window of its own.
let joinedBytesMax = 64 << 20

/// Cuts a mapping into windows, in the order of the file. `tensors` are the bytes of each from the start of the mapping; empty
/// ones need no window, and one whose pages are longer than `longest` is in none.
func windows(_ tensors: [Range<Int>], page: Int, longest: Int) -> [Window] {
    let order = tensors.indices.filter { !tensors[$0].isEmpty }.sorted {
        (tensors[$0].lowerBound, tensors[$0].upperBound) < (tensors[$1].lowerBound, tensors[$1].upperBound)
    }
    var windows: [Window] = []
    for at in order {
        let pages = tensors[at].lowerBound / page * page..<(tensors[at].upperBound + page - 1) / page * page
        guard pages.count <= longest else { continue }
        if var last = windows.last, pages.lowerBound <= last.bytes.upperBound {
            let both = last.bytes.lowerBound..<max(last.bytes.upperBound, pages.upperBound)
            if pages.upperBound <= last.bytes.upperBound || both.count <= min(joinedBytesMax, longest) {
                last.bytes = both
                last.tensors.append(at)
                windows[windows.count - 1] = last
                continue
            }
        }
        windows.append(Window(bytes: pages, tensors: [at]))
    }
    return windows
}
