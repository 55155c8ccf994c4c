use proptest::prelude::*;

use super::*;

/// A GGUF file, written piece by piece.
#[derive(Clone, Default)]
struct Writer(Vec<u8>);

impl Writer {
    /// The beginning of a file of version 3.
    fn new(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// An entry with a value of that type, whose bytes follow.
    fn entry(self, key: &str, kind: u32) -> Self {
        self.text(key).u32(kind)
    }

    /// A tensor; dimensions from the innermost out.
    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let mut out = self.text(name).u32(u32::try_from(dimensions.len()).unwrap());
        for &dimension in dimensions {
            out = out.u64(dimension);
        }
        out.u32(kind).u64(offset)
    }

    /// Padding, then so many zero bytes.
    fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }

    fn parse(&self) -> Result<Header, GgufError> {
        match parse(&self.0, self.0.len() as u64)? {
            Parsed::Header(header) => Ok(header),
            Parsed::More(needed) => panic!("all of the file is there, and {needed} bytes are needed"),
        }
    }
}

fn name_of(error: &GgufError) -> String {
    format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
}

#[test]
fn tensors_have_their_shapes_reversed_and_their_types_kept() {
    let file = Writer::new(4, 3)
        .entry("general.architecture", 8)
        .text("lumina2")
        .entry("a.list", 9)
        .u32(5)
        .u64(2)
        .u32(7)
        .u32(u32::MAX)
        .entry("comfy.gguf.orig_shape.q", 9)
        .u32(5)
        .u64(3)
        .u32(2)
        .u32(4)
        .u32(16)
        .tensor("q", &[64, 2], 8, 0)
        .tensor("f", &[3, 2], 0, 160)
        .tensor("b", &[5], 30, 192)
        .tensor("m", &[3, 2], 30, 224)
        .data(236);
    let header = file.parse().unwrap();
    let found: Vec<_> = header
        .tensors
        .iter()
        .map(|tensor| (&*tensor.name, tensor.stored_type(), tensor.dtype, tensor.shape.clone(), tensor.bytes()))
        .collect();
    let expected = [
        // A vector of BF16 comes as F32.
        ("b", "BF16".to_owned(), Dtype::F32, vec![5], 10),
        ("f", "F32".to_owned(), Dtype::F32, vec![2, 3], 24),
        ("m", "BF16".to_owned(), Dtype::BF16, vec![2, 3], 12),
        ("q", "Q8_0".to_owned(), Dtype::F32, vec![2, 4, 16], 136),
    ];
    assert_eq!(found, expected);
    assert!(header.tensors.iter().all(|tensor| tensor.range.start >= header.data_start));
    assert_eq!(header.tensors.iter().filter(|tensor| tensor.encoding.is_some()).count(), 2);
    assert_eq!(header.metadata["general.architecture"], "lumina2");
    assert_eq!(header.metadata["a.list"], "[7, -1]");
}

#[test]
fn the_file_s_own_alignment_counts() {
    let file = |alignment: u32, offset| {
        let start = Writer::new(2, 1).entry("general.alignment", 4).u32(alignment);
        let mut file = start.tensor("a", &[1], 0, 0).tensor("b", &[1], 0, offset);
        file.0.resize(file.0.len().next_multiple_of(alignment as usize) + usize::try_from(offset).unwrap() + 4, 0);
        file.parse()
    };
    assert_eq!(file(64, 64).unwrap().tensors[1].range.start % 64, 0);
    assert_eq!(name_of(&file(64, 32).unwrap_err()), "Misaligned");
    assert_eq!(name_of(&file(8, 16).unwrap_err()), "Gap");
    let bad = |kind, value: &[u8]| Writer::new(0, 1).entry("general.alignment", kind).raw(value).parse().unwrap_err();
    for error in [bad(4, &[0; 4]), bad(4, &[3, 0, 0, 0]), bad(10, &[32, 0, 0, 0, 0, 0, 0, 0]), bad(5, &[32, 0, 0, 0])] {
        assert_eq!(name_of(&error), "Alignment", "{error}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of headers")]
fn every_broken_rule_has_its_own_error() {
    let one = |dimensions: &[u64], kind, offset| Writer::new(1, 0).tensor("a", dimensions, kind, offset);
    let huge = 1 << 60;
    let cases: Vec<(&str, Writer)> = vec![
        ("SomethingElse", Writer(Vec::new())),
        ("SomethingElse", Writer(b"<!DOCTYPE html>".to_vec())),
        ("SomethingElse", Writer(vec![1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ("HeaderTruncated", Writer(b"GGUF".to_vec())),
        ("BigEndian", Writer(b"GGUF\0\0\0\x03".to_vec()).u64(0).u64(0)),
        ("Version", Writer(b"GGUF".to_vec()).u32(1).u32(0).u32(0)),
        ("Version", Writer(b"GGUF".to_vec()).u32(4).u64(0).u64(0)),
        ("TooManyTensors", Writer::new(huge, 0)),
        ("TooManyEntries", Writer::new(0, huge)),
        ("HeaderTruncated", Writer::new(131_072, 0)),
        ("HeaderTruncated", Writer::new(0, 65_536)),
        ("BadKey", Writer::new(0, 1).u64(u64::MAX).raw(&[0; 64])),
        ("BadKey", Writer::new(0, 1).entry("", 0).raw(&[0])),
        ("BadKey", Writer::new(0, 1).u64(2).raw(b"\xff\xfe").u32(0).raw(&[0])),
        ("BadKey", Writer::new(0, 1).entry("a\nb", 0).raw(&[0])),
        ("DuplicateKey", Writer::new(0, 2).entry("a", 0).raw(&[0]).entry("a", 0).raw(&[0])),
        ("ValueType", Writer::new(0, 1).entry("a", 13)),
        ("ValueType", Writer::new(0, 1).entry("a", 9).u32(99).u64(0)),
        ("NestedArray", Writer::new(0, 1).entry("a", 9).u32(9).u64(1)),
        ("NotBool", Writer::new(0, 1).entry("a", 7).raw(&[2])),
        ("HeaderTruncated", Writer::new(0, 1).entry("a", 8).u64(u64::MAX)),
        ("HeaderTruncated", Writer::new(0, 1).entry("a", 9).u32(10).u64(u64::MAX)),
        ("HeaderTruncated", Writer::new(0, 1).entry("a", 9).u32(8).u64(huge)),
        ("BadName", Writer::new(1, 0).u64(huge)),
        ("BadName", Writer::new(1, 0).tensor("", &[1], 0, 0).data(4)),
        ("BadName", Writer::new(1, 0).tensor("a\0", &[1], 0, 0).data(4)),
        ("BadName", Writer::new(1, 0).u64(1).raw(b"\xff").u32(0).u32(0).u64(0).data(4)),
        ("DuplicateName", Writer::new(2, 0).tensor("a", &[1], 0, 0).tensor("a", &[1], 0, 32).data(36)),
        ("RankTooHigh", one(&[1; 5], 0, 0).data(4)),
        ("DimensionTooLarge", one(&[huge], 0, 0).data(4)),
        ("SizeOverflow", one(&[1 << 48, 1 << 48], 0, 0).data(4)),
        ("SizeOverflow", one(&[1 << 48, 1 << 48, 0], 0, 0).data(4)),
        ("SizeOverflow", one(&[8], 0, u64::MAX - 31).data(4)),
        ("UnknownType", one(&[1], 99, 0).data(4)),
        ("WithdrawnType", one(&[32], 4, 0).data(24)),
        ("RaggedRows", one(&[31], 8, 0).data(34)),
        ("RaggedRows", one(&[128, 2], 12, 0).data(144)),
        ("Misaligned", one(&[1], 0, 4).data(8)),
        ("Overlap", Writer::new(2, 0).tensor("a", &[16], 0, 0).tensor("b", &[1], 0, 32).data(64)),
        ("Overlap", Writer::new(2, 0).tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 0).data(4)),
        ("Gap", Writer::new(2, 0).tensor("a", &[1], 0, 0).tensor("b", &[1], 0, 64).data(68)),
        ("Gap", one(&[1], 0, 32).data(36)),
        ("Truncated", one(&[2], 0, 0).data(7)),
        ("Truncated", one(&[1 << 40], 0, 0).data(7)),
        ("TrailingBytes", one(&[2], 0, 0).data(33)),
        ("TrailingBytes", Writer::new(0, 0).data(100)),
        (
            "OriginalShape",
            Writer::new(1, 1).entry("comfy.gguf.orig_shape.a", 9).u32(5).u64(1).u32(5).tensor("a", &[4], 0, 0).data(16),
        ),
        (
            "OriginalShape",
            Writer::new(1, 1).entry("comfy.gguf.orig_shape.a", 8).text("x").tensor("a", &[4], 0, 0).data(16),
        ),
    ];
    for (name, file) in cases {
        let error = file.parse().unwrap_err();
        assert_eq!(name_of(&error), name, "{error}");
        assert!(!crate::explain::Explain::explain(&error).hint.is_empty());
    }
}

#[test]
fn a_header_asks_for_the_bytes_that_it_needs() {
    let words: Vec<String> = (0..1000).map(|word| format!("word {word}")).collect();
    let mut file = Writer::new(1, 2).entry("tokenizer.ggml.tokens", 9).u32(8).u64(1000);
    for word in &words {
        file = file.text(word);
    }
    let file = file.entry("tokenizer.ggml.scores", 9).u32(6).u64(1000).raw(&[0; 4000]).tensor("a", &[1], 0, 0).data(4);
    let length = file.0.len() as u64;
    let mut have = 16;
    let header = loop {
        match parse(&file.0[..have], length).unwrap() {
            Parsed::Header(header) => break header,
            Parsed::More(needed) => {
                assert!(needed > have as u64 && needed <= length);
                have = usize::try_from(needed).unwrap();
            }
        }
    };
    assert_eq!(header, file.parse().unwrap());
    assert!(header.metadata.is_empty(), "vocabularies are passed over");
    assert!(have < file.0.len(), "no data is needed");
}

#[test]
fn the_padding_of_the_last_tensor_and_files_without_tensors_are_sound() {
    let file = Writer::new(1, 0).tensor("a", &[2], 0, 0);
    for bytes in [8, 20, 32] {
        assert_eq!(file.clone().data(bytes).parse().unwrap().tensors[0].bytes(), 8);
    }
    assert!(Writer::new(0, 0).parse().unwrap().tensors.is_empty());
    assert!(Writer::new(0, 0).data(0).parse().unwrap().tensors.is_empty());
    let empty = Writer::new(2, 0).tensor("a", &[0, 4], 0, 0).tensor("b", &[1], 0, 0).data(4).parse().unwrap();
    assert_eq!((empty.tensors[0].bytes(), empty.tensors[1].bytes()), (0, 4));
}

/// Numbers as strangers write them: small, or about to overflow.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..5_u64,
        Just(32),
        Just(256),
        (0..64_u32).prop_map(|bits| 1 << bits),
        any::<u64>(),
        Just(u64::MAX - 31)
    ]
}

fn tensor() -> impl Strategy<Value = (String, Vec<u64>, u32, Option<u64>)> {
    let kind = prop_oneof![0..42_u32, Just(0), Just(8), any::<u32>()];
    ("[ab]{0,2}", proptest::collection::vec(number(), 0..6), kind, proptest::option::weighted(0.2, number()))
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in number()) {
        let _ = parse(&bytes, length);
        let start = [b"GGUF\x03\0\0\0", &bytes[..]].concat();
        let _ = parse(&start, start.len() as u64);
    }

    /// What is accepted has the promises of a header; what is refused is refused by a sentence.
    #[test]
    fn tables_of_strangers_have_an_answer(
        tensors in proptest::collection::vec(tensor(), 0..4),
        count in proptest::option::weighted(0.1, number()),
        data in prop_oneof![0..300_u64, number()],
        spoiled in proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut file = Writer::new(count.unwrap_or(tensors.len() as u64), 0);
        let mut next = 0_u64;
        for (name, dimensions, kind, offset) in &tensors {
            file = file.tensor(name, dimensions, *kind, offset.unwrap_or(next));
            let elements = dimensions.iter().try_fold(1_u64, |all, &side| all.checked_mul(side));
            let bytes = BlockType::of_number(*kind).zip(elements).and_then(|(kind, elements)| kind.length(elements));
            next = next.saturating_add(bytes.unwrap_or(4)).checked_next_multiple_of(32).unwrap_or(0);
        }
        if let Some((at, byte)) = spoiled {
            let at = at.index(file.0.len());
            file.0[at] = byte;
        }
        let length = (file.0.len() as u64).next_multiple_of(32).saturating_add(data);
        match parse(&file.0, length) {
            Ok(Parsed::Header(header)) => {
                prop_assert!(header.tensors.is_sorted_by(|a, b| a.name < b.name));
                let mut places: Vec<_> = header.tensors.iter().filter(|it| !it.range.is_empty()).collect();
                places.sort_by_key(|tensor| tensor.range.start);
                prop_assert!(places.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
                for tensor in places {
                    prop_assert!(tensor.range.start >= header.data_start && tensor.range.end <= length);
                    let elements = tensor.shape.iter().product();
                    prop_assert_eq!(tensor.bits_of(elements), Some(tensor.bytes() * 8));
                }
            }
            Ok(Parsed::More(needed)) => prop_assert!(needed > file.0.len() as u64 && needed <= length),
            Err(error) => {
                let said = error.to_string();
                prop_assert!(said.len() < 400 && !said.chars().any(char::is_control), "{}", said);
            }
        }
    }
}
