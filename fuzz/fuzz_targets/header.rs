//! Headers of safetensors files. The first byte of an input says what the rest is: the bytes of a whole file, the JSON
//! of a header, or choices from which a table is written that is nearly right.

#![no_main]

use std::fmt::Formatter;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use safetensors::{SafeTensors, tensor::Metadata};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use weightsd_core::{
    explain::Explain as _,
    header::{self, Header, HeaderError, NAME_BYTES_MAX, PREFIX_BYTES, RANK_MAX},
};

/// Data that is made real, so that the `safetensors` crate can be given a whole file.
const DATA_BYTES_MAX: u64 = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => whole_file(rest),
        1 => {
            let Some((data, json)) = rest.split_first_chunk() else { return };
            check(json, u64::from(u16::from_le_bytes(*data)));
        }
        _ => {
            let Ok(table) = Table::arbitrary(&mut Unstructured::new(rest)) else { return };
            let (json, data) = table.write();
            check(json.as_bytes(), data);
        }
    }
});

fn whole_file(file: &[u8]) {
    let Some((prefix, rest)) = file.split_first_chunk() else { return };
    let announced = u64::from_le_bytes(*prefix);
    match header::header_length(*prefix, file.len() as u64) {
        Ok(length) => {
            assert_eq!(length as u64, announced);
            check(&rest[..length], (rest.len() - length) as u64);
        }
        Err(HeaderError::SomethingElse { .. }) => assert!(announced > header::HEADER_BYTES_MAX),
        Err(HeaderError::HeaderTooLong { found }) => assert!(found == announced && found > header::HEADER_BYTES_MAX),
        Err(HeaderError::HeaderTruncated { .. }) => assert!(announced > rest.len() as u64),
        Err(other) => panic!("{other}"),
    }
}

fn check(json: &[u8], data: u64) {
    let data_start = PREFIX_BYTES + json.len() as u64;
    let Some(file_length) = data_start.checked_add(data) else { return };
    let parsed = Header::parse(json, file_length);
    assert_eq!(parsed, Header::parse(json, file_length), "two answers for one file");
    // Whatever the file's length is said to be, it is an answer and not a panic.
    let _ = Header::parse(json, data).map(|header| header.tensor_bytes());
    match parsed {
        Ok(header) => {
            tiles(&header, data_start, file_length);
            the_crate_agrees(&header, json, data);
        }
        Err(error) => {
            reads_well(&error);
            refused_for_a_reason(&error, json, data);
        }
    }
}

fn tiles(header: &Header, data_start: u64, file_length: u64) {
    assert_eq!((header.data_start, header.file_length), (data_start, file_length));
    assert!(header.tensors.is_sorted_by(|a, b| a.name < b.name), "names are distinct and sorted");
    let mut by_place: Vec<_> = header.tensors.iter().collect();
    by_place.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let mut end = data_start;
    for tensor in by_place {
        assert_eq!(tensor.range.start, end, "`{}` begins where the one before it ends", tensor.name);
        assert_eq!(Some(tensor.bytes()), header::byte_length(tensor.dtype, &tensor.shape));
        end = tensor.range.end;
    }
    assert_eq!(end, file_length);
    assert_eq!(header.tensor_bytes(), file_length - data_start);
    for tensor in &header.tensors {
        assert_eq!(header.get(&tensor.name), Some(tensor));
        assert!((1..=NAME_BYTES_MAX).contains(&tensor.name.len()) && tensor.shape.len() <= RANK_MAX);
        assert!(!tensor.name.chars().any(char::is_control));
    }
}

/// Reads the header with the `safetensors` crate: all of it, without the bytes of the data.
fn by_the_crate(json: &[u8]) -> serde_json::Result<Metadata> {
    serde_json::from_slice(json)
}

fn the_crate_agrees(header: &Header, json: &[u8], data: u64) {
    // Its sums cannot overflow: what was accepted ends where the file ends.
    let theirs = by_the_crate(json)
        .unwrap_or_else(|error| panic!("the crate refuses {:?}: {error}", String::from_utf8_lossy(json)));
    assert_eq!(theirs.tensors().len(), header.tensors.len());
    for tensor in &header.tensors {
        let info = theirs.info(&tensor.name).expect("a tensor of that name");
        let range = tensor.range.start - header.data_start..tensor.range.end - header.data_start;
        assert_eq!((info.data_offsets.0 as u64, info.data_offsets.1 as u64), (range.start, range.end));
        assert_eq!(info.dtype, tensor.dtype);
        assert!(info.shape.iter().map(|&dimension| dimension as u64).eq(tensor.shape.iter().copied()));
    }
    let metadata: Vec<_> = theirs.metadata().iter().flatten().collect();
    assert_eq!(metadata.len(), header.metadata.len());
    assert!(metadata.iter().all(|(key, value)| header.metadata.get(*key) == Some(value)));
    if data <= DATA_BYTES_MAX {
        SafeTensors::deserialize(&file(json, data)).expect("the crate accepts the whole file");
    }
}

/// What the crate accepts is refused for a rule that is meant to be stricter, and for no other.
fn refused_for_a_reason(error: &HeaderError, json: &[u8], data: u64) {
    // The crate adds without checking: only small numbers are safe to give to it.
    if data > DATA_BYTES_MAX || longest_number(json) > 9 || SafeTensors::deserialize(&file(json, data)).is_err() {
        return;
    }
    let stricter = matches!(
        error,
        HeaderError::DuplicateName { .. }
            | HeaderError::BadName { .. }
            | HeaderError::BadEntry { .. }
            | HeaderError::Metadata { .. }
            | HeaderError::RankTooHigh { .. }
            | HeaderError::DimensionTooLarge { .. }
            | HeaderError::SizeOverflow { .. }
    );
    // Of two tensors of one name it looks at the last one only, whatever is wrong with the first.
    assert!(stricter || names_repeat(json), "the crate accepts what is refused here with: {error}");
}

fn names_repeat(json: &[u8]) -> bool {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some((name, IgnoredAny)) = map.next_entry()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    let Ok(mut names) = serde_json::Deserializer::from_slice(json).deserialize_map(Names) else { return false };
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

fn longest_number(json: &[u8]) -> usize {
    json.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max().unwrap_or_default()
}

/// An error ends up in a status, in a log and on a terminal.
fn reads_well(error: &HeaderError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !error.explain().hint.is_empty());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() <= 4096, "{} bytes", text.len());
}

fn file(json: &[u8], data: u64) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json);
    file.resize(file.len() + data as usize, 0);
    file
}

/// A table that is right but for what the choices spoil.
#[derive(Debug, Arbitrary)]
struct Table {
    entries: Vec<Entry>,
    metadata: Option<Vec<(Name, Name)>>,
    space: Space,
    /// Added to the length of the data.
    surplus: Option<i8>,
}

#[derive(Debug, Arbitrary)]
struct Entry {
    name: Name,
    dtype: u8,
    shape: Vec<Dimension>,
    place: Place,
    form: Form,
}

#[derive(Debug, Arbitrary)]
enum Name {
    Numbered,
    Few(u8),
    Escaped(u8),
    Any(String),
    Long(u16),
}

#[derive(Debug, Arbitrary)]
enum Dimension {
    Small(u8),
    Power(u8),
    Any(u64),
    Text(Odd),
}

#[derive(Debug, Arbitrary)]
enum Odd {
    Negative,
    Float,
    Exponent,
    Quoted,
    Null,
    Huge,
}

#[derive(Debug, Arbitrary)]
enum Place {
    Next,
    NextToo,
    Shifted(i8, i8),
    Again,
    Any(u64, u64),
}

#[derive(Debug, Arbitrary)]
enum Form {
    Plain,
    PlainToo,
    OffsetsFirst,
    Extra,
    Repeated,
    WithoutShape,
    Array,
    DtypeObject,
}

#[derive(Debug, Arbitrary)]
enum Space {
    None,
    Before(u8),
    After(u8),
    Nul,
    Twice,
}

const DTYPES: [&str; 26] = [
    "BOOL",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "U8",
    "I8",
    "F8_E5M2",
    "F8_E4M3",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "C64",
    "F64",
    "I64",
    "U64",
    "f32",
    "F8_E4M3FN",
    "I4",
    "",
];

impl Table {
    fn write(&self) -> (String, u64) {
        let mut cursor = 0u64;
        let mut last = (0, 0);
        let mut parts = Vec::new();
        if let Some(metadata) = &self.metadata {
            let pairs: Vec<_> = metadata
                .iter()
                .enumerate()
                .map(|(at, (key, value))| format!("{}:{}", key.write(at), value.write(at)))
                .collect();
            parts.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
        }
        for (at, entry) in self.entries.iter().enumerate() {
            let dtype = DTYPES[usize::from(entry.dtype) % DTYPES.len()];
            let shape: Vec<String> = entry.shape.iter().map(Dimension::write).collect();
            let numbers = shape.iter().map(|text| text.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
            let bytes = header::dtype_from_name(dtype)
                .zip(numbers)
                .and_then(|(dtype, numbers)| header::bit_length(dtype, &numbers))
                .map_or(4, |bits| bits.div_ceil(8));
            let end = cursor.saturating_add(bytes);
            let (begin, end) = match entry.place {
                Place::Next | Place::NextToo => (cursor, end),
                Place::Shifted(a, b) => (cursor.wrapping_add_signed(a.into()), end.wrapping_add_signed(b.into())),
                Place::Again => last,
                Place::Any(a, b) => (a, b),
            };
            (cursor, last) = (end, (begin, end));
            let shape = shape.join(",");
            let name = entry.name.write(at);
            let body = match entry.form {
                Form::Plain | Form::PlainToo => {
                    format!("{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}")
                }
                Form::OffsetsFirst => {
                    format!("{{\"data_offsets\":[{begin}, {end}], \"shape\":[{shape}], \"dtype\":\"{dtype}\"}}")
                }
                Form::Extra => {
                    format!(
                        "{{\"x\":[{{}}],\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}"
                    )
                }
                Form::Repeated => format!(
                    "{{\"dtype\":\"{dtype}\",\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}"
                ),
                Form::WithoutShape => format!("{{\"dtype\":\"{dtype}\",\"data_offsets\":[{begin},{end}]}}"),
                Form::Array => format!("[\"{dtype}\",[{shape}],[{begin},{end}]]"),
                Form::DtypeObject => {
                    format!("{{\"dtype\":{{\"{dtype}\":null}},\"shape\":[{shape}],\"data_offsets\":[{begin},{end}]}}")
                }
            };
            parts.push(format!("{name}:{body}"));
        }
        let object = format!("{{{}}}", parts.join(","));
        let json = match self.space {
            Space::None => object,
            Space::Before(count) => " ".repeat(count.into()) + &object,
            Space::After(count) => object + &" ".repeat(count.into()),
            Space::Nul => object + "\0",
            Space::Twice => format!("{object}{object}"),
        };
        (json, cursor.saturating_add_signed(self.surplus.unwrap_or_default().into()))
    }
}

impl Name {
    fn write(&self, at: usize) -> String {
        match self {
            Self::Numbered => format!("\"t{at}\""),
            Self::Few(which) => format!("\"{}\"", char::from(b'a' + which % 4)),
            Self::Escaped(which) => format!("\"\\u00{:02x}\"", b'a' + which % 4),
            Self::Any(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::Long(length) => format!("\"{}\"", "n".repeat((*length).into())),
        }
    }
}

impl Dimension {
    fn write(&self) -> String {
        match self {
            Self::Small(number) => (number % 5).to_string(),
            Self::Power(exponent) => (1u64 << (exponent % 64)).to_string(),
            Self::Any(number) => number.to_string(),
            Self::Text(odd) => match odd {
                Odd::Negative => "-1",
                Odd::Float => "1.0",
                Odd::Exponent => "1e0",
                Odd::Quoted => "\"1\"",
                Odd::Null => "null",
                Odd::Huge => "18446744073709551616",
            }
            .to_owned(),
        }
    }
}
