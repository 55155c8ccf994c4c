//! The file of what was computed: a safetensors file in which every tensor begins at a page, so that a Metal buffer can
//! wrap it without a copy. The format allows no holes, so the room between tensors is tensors too, of a reserved name.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _, ops::Range};

use serde_json::json;

use super::{Form, Output};
use crate::header::{Dtype, byte_length};

/// Where tensors begin: a page of Apple's processors, and a multiple of every other machine's.
pub const PAGE: u64 = 16 * 1024;
/// Beginning of the names of tensors that are room and nothing else.
pub const ROOM: &str = "__weightsd_room__.";

/// The beginning of an image, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePlan {
    /// Length prefix and header, padded to a page.
    pub head: Vec<u8>,
    /// Length of the file.
    pub length: u64,
}

/// Gives every output its range and writes the header. In segments every tensor begins at a page, in the order of the
/// outputs. Files that other programs read have no room between tensors: those with the longest elements come first, so
/// that each begins at a multiple of its element's size.
#[must_use]
pub fn lay_out(outputs: &mut [&mut Output], metadata: &BTreeMap<String, String>, form: Form) -> ImagePlan {
    let step = match form {
        Form::Segments => PAGE,
        Form::Files => {
            outputs.sort_by_key(|output| Reverse(output.dtype.bitsize()));
            1
        }
    };
    // Offsets count from the end of the header, whose length is known only when they are.
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), json!(metadata));
    let mut at = 0;
    let mut places: Vec<Range<u64>> = Vec::with_capacity(outputs.len());
    for (number, output) in outputs.iter().enumerate() {
        // Outputs have shapes of tensors that are there, or shorter ones.
        let bytes = byte_length(output.dtype, &output.shape).unwrap_or(0);
        let place = at..at + bytes;
        entries.insert(output.name.clone(), entry(output.dtype, &output.shape, &place));
        at = place.end.next_multiple_of(step);
        if at > place.end {
            let room = place.end..at;
            entries.insert(format!("{ROOM}{number}"), entry(Dtype::U8, &[at - place.end], &room));
        }
        places.push(place);
    }
    let mut json = serde_json::Value::Object(entries).to_string();
    let start = (8 + json.len() as u64).next_multiple_of(PAGE);
    let padding = usize::try_from(start - 8).map_or(0, |length| length.saturating_sub(json.len()));
    let _ = write!(json, "{:padding$}", "");
    for (output, place) in outputs.iter_mut().zip(places) {
        output.range = start + place.start..start + place.end;
    }
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(json.as_bytes());
    ImagePlan { head, length: start + at }
}

fn entry(dtype: Dtype, shape: &[u64], place: &Range<u64>) -> serde_json::Value {
    json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [place.start, place.end]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::{Header, header_length};

    fn output(name: &str, dtype: Dtype, shape: &[u64]) -> Output {
        Output { name: name.into(), dtype, shape: shape.into(), range: 0..0 }
    }

    #[test]
    fn an_image_is_a_safetensors_file_of_whole_pages() {
        let mut outputs = [
            output("b", Dtype::BF16, &[3, 5]),
            output("a", Dtype::U32, &[4096]),
            output("empty", Dtype::F32, &[0, 7]),
            output("c \u{e9}\"", Dtype::F32, &[]),
            output("d", Dtype::U8, &[PAGE + 1]),
        ];
        let mut references: Vec<&mut Output> = outputs.iter_mut().collect();
        let metadata = BTreeMap::from([("weightsd".to_owned(), "{\"x\": 1}".to_owned())]);
        let ImagePlan { head, length } = lay_out(&mut references, &metadata, Form::Segments);
        assert!(length.is_multiple_of(PAGE) && (head.len() as u64).is_multiple_of(PAGE));
        let json = header_length(head[..8].try_into().unwrap(), length).unwrap();
        assert_eq!(json + 8, head.len());
        let header = Header::parse(&head[8..], length).unwrap();
        assert_eq!(header.metadata, metadata);
        for output in &outputs {
            let found = header.tensors.iter().find(|tensor| *tensor.name == *output.name).unwrap();
            assert_eq!((found.dtype, &found.shape, &found.range), (output.dtype, &output.shape, &output.range));
            assert!(output.range.start.is_multiple_of(PAGE), "{}", output.name);
        }
        let rooms = header.tensors.iter().filter(|tensor| tensor.name.starts_with(ROOM)).count();
        assert_eq!(header.tensors.len(), outputs.len() + rooms);
        assert_eq!(rooms, 3, "after b, c and d: a fills its pages, and nothing has no room");
    }

    #[test]
    fn a_file_for_other_programs_has_no_room_and_aligned_tensors() {
        let mut outputs = [
            output("byte", Dtype::U8, &[3]),
            output("b", Dtype::BF16, &[3, 5]),
            output("f", Dtype::F32, &[]),
            output("i", Dtype::I64, &[1]),
            output("four", Dtype::F4, &[2, 3]),
        ];
        let mut references: Vec<&mut Output> = outputs.iter_mut().collect();
        let ImagePlan { head, length } = lay_out(&mut references, &BTreeMap::new(), Form::Files);
        let header = Header::parse(&head[8..], length).unwrap();
        assert_eq!(header.tensors.len(), outputs.len());
        assert_eq!(length, head.len() as u64 + 3 + 30 + 4 + 8 + 3);
        for output in &outputs {
            let found = header.tensors.iter().find(|tensor| *tensor.name == *output.name).unwrap();
            assert_eq!(found.range, output.range);
            assert!(output.range.start.is_multiple_of((output.dtype.bitsize() as u64).div_ceil(8)), "{}", output.name);
        }
    }
}
