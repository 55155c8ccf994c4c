//! Which pages of a mapped file become buffers of a GPU.
//!
//! Metal wraps memory that begins and ends at a page boundary, up to the device's `max_buffer_length`, and wires a whole
//! buffer at its first use, whatever a kernel touches. So a file is not one buffer: its tensors are, or neighbours joined
//! up to [`JOINED_BYTES_MAX`], and what lies between them stays untouched.

use std::ops::Range;

/// Longest window that is made by joining neighbours, in bytes. A longer tensor has a window of its own.
pub const JOINED_BYTES_MAX: u64 = 64 << 20;

/// Page-aligned bytes of a mapping, with every tensor that lies in them whole.
///
/// The end can lie beyond the end of the file: the system maps the last page of a file whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Bytes from the start of the mapping; both ends are multiples of the page.
    pub bytes: Range<u64>,
    /// Positions of its tensors in the list that [`windows`] was given.
    pub tensors: Vec<usize>,
}

/// Cuts a mapping into windows, in the order of the file. `tensors` are the bytes of each tensor from the start of the
/// mapping, in any order; they may overlap, and empty ones need no window. `page` is a power of two; `longest` is the
/// most bytes that a window may have.
///
/// A tensor whose own pages are longer than `longest` is in no window: it has to be copied.
#[must_use]
pub fn windows(tensors: &[Range<u64>], page: u64, longest: u64) -> Vec<Window> {
    debug_assert!(page.is_power_of_two(), "{page} is no size of a page");
    let mut order: Vec<usize> = (0..tensors.len()).filter(|&at| !tensors[at].is_empty()).collect();
    order.sort_by_key(|&at| (tensors[at].start, tensors[at].end));
    let joined_max = JOINED_BYTES_MAX.min(longest);
    let mut windows: Vec<Window> = Vec::new();
    for at in order {
        let Some(pages) = rounded_outwards(&tensors[at], page).filter(|pages| length(pages) <= longest) else {
            continue;
        };
        if let Some(last) = windows.last_mut() {
            let both = last.bytes.start..last.bytes.end.max(pages.end);
            let is_neighbour = pages.start <= last.bytes.end;
            let is_within = pages.end <= last.bytes.end;
            if is_neighbour && (is_within || length(&both) <= joined_max) {
                last.bytes = both;
                last.tensors.push(at);
                continue;
            }
        }
        windows.push(Window { bytes: pages, tensors: vec![at] });
    }
    windows
}

/// The pages that hold `bytes`; `None` beyond the last address.
fn rounded_outwards(bytes: &Range<u64>, page: u64) -> Option<Range<u64>> {
    Some(bytes.start & !(page - 1)..bytes.end.checked_next_multiple_of(page)?)
}

fn length(bytes: &Range<u64>) -> u64 {
    bytes.end - bytes.start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 1 << 14;

    #[test]
    fn small_neighbours_share_a_window_and_what_nobody_asks_for_is_in_none() {
        let gap = 100 * PAGE;
        let found = windows(&[100..200, 200..PAGE + 1, gap..gap + 8], PAGE, u64::MAX);
        assert_eq!(
            found,
            [Window { bytes: 0..2 * PAGE, tensors: vec![0, 1] }, Window { bytes: gap..gap + PAGE, tensors: vec![2] }]
        );
    }

    #[test]
    fn a_tensor_longer_than_the_limit_is_in_no_window() {
        let found = windows(&[0..8, 8..3 * PAGE, 3 * PAGE..3 * PAGE + 4], PAGE, 2 * PAGE);
        let tensors: Vec<_> = found.iter().flat_map(|window| window.tensors.clone()).collect();
        assert_eq!(tensors, [0, 2]);
    }

    #[test]
    fn a_large_tensor_is_not_joined() {
        let large = JOINED_BYTES_MAX + PAGE;
        let found = windows(&[0..large, large..large + 8], PAGE, u64::MAX);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].bytes, 0..large);
    }

    #[test]
    fn the_end_of_all_addresses_is_no_window() {
        assert_eq!(windows(std::slice::from_ref(&(u64::MAX - 4..u64::MAX)), PAGE, u64::MAX), []);
    }

    proptest! {
        #[test]
        fn each_tensor_that_can_be_is_in_one_window_whole(
            tensors in prop::collection::vec((0u64..1 << 22, 0u64..1 << 18), 0..40),
            limit in prop_oneof![Just(32u64 << 10), Just(1 << 20), Just(u64::MAX)],
            page in prop_oneof![Just(1u64 << 12), Just(PAGE)],
        ) {
            let tensors: Vec<_> = tensors.into_iter().map(|(start, length)| start..start + length).collect();
            let end = tensors.iter().map(|tensor| tensor.end).max().unwrap_or(0);
            let found = windows(&tensors, page, limit);
            let mut homes = vec![0; tensors.len()];
            for window in &found {
                prop_assert!(window.bytes.start % page == 0 && window.bytes.end % page == 0);
                prop_assert!(length(&window.bytes) <= limit && length(&window.bytes) > 0);
                prop_assert!(window.bytes.end <= end.next_multiple_of(page), "a window leaves the mapping");
                for &at in &window.tensors {
                    homes[at] += 1;
                    prop_assert!(window.bytes.start <= tensors[at].start && tensors[at].end <= window.bytes.end);
                }
                // Every page of a window belongs to one of its tensors: nothing else is wired.
                let mut pages = window.bytes.clone().step_by(page as usize);
                prop_assert!(pages.all(|begin| window
                    .tensors
                    .iter()
                    .any(|&at| tensors[at].start < begin + page && begin < tensors[at].end)));
            }
            for (at, tensor) in tensors.iter().enumerate() {
                let fits = rounded_outwards(tensor, page).is_some_and(|pages| length(&pages) <= limit);
                prop_assert_eq!(homes[at], u32::from(fits && !tensor.is_empty()));
            }
        }
    }
}
