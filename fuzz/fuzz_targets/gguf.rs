//! Headers of GGUF files. The first byte of an input says what the rest is: the bytes of a whole file, what follows a
//! sound beginning, or choices from which a header is written that is nearly right.

#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use weightsd_core::{
    explain::Explain as _,
    ggml::BlockType,
    gguf::{self, Parsed},
    header::Header,
    llama_cpp,
    table::Table,
};

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => check(rest, rest.len() as u64),
        1 => {
            let Some((length, rest)) = rest.split_first_chunk() else { return };
            let file = [b"GGUF\x03\0\0\0", rest].concat();
            check(&file, u64::from_le_bytes(*length));
            check(&file, file.len() as u64);
        }
        _ => {
            let Ok(file) = File::arbitrary(&mut Unstructured::new(rest)) else { return };
            let (bytes, length) = file.write();
            check(&bytes, length);
        }
    }
});

fn check(bytes: &[u8], length: u64) {
    let bytes = &bytes[..bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX))];
    let parsed = gguf::parse(bytes, length);
    assert_eq!(parsed, gguf::parse(bytes, length), "two answers for one file");
    match parsed {
        Ok(Parsed::Header(header)) => {
            is_sound(&header, length);
            has_the_same_answer_in_pieces(bytes, length, &header);
            let metadata = header.metadata.clone();
            let (table, _) = llama_cpp::translated(Table::of_file(header), &metadata);
            let _ = llama_cpp::config(&table, &metadata);
        }
        Ok(Parsed::More(needed)) => assert!(needed > bytes.len() as u64 && needed <= length.min(gguf::HEADER_BYTES_MAX)),
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty() && said.len() <= 1024 && !said.chars().any(char::is_control), "{said:?}");
            assert!(!error.explain().hint.is_empty());
        }
    }
}

/// Tensors have distinct names, whole blocks, and bytes of their own inside the file.
fn is_sound(header: &Header, length: u64) {
    assert_eq!(header.file_length, length);
    assert!(header.tensors.is_sorted_by(|a, b| a.name < b.name));
    let mut places: Vec<_> = header.tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    places.sort_by_key(|tensor| tensor.range.start);
    assert!(places.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
    for tensor in places {
        assert!(header.data_start <= tensor.range.start && tensor.range.end <= length);
        let elements = tensor.shape.iter().product();
        assert_eq!(tensor.bits_of(elements), tensor.bytes().checked_mul(8));
    }
}

/// However the beginning of the file comes, the header is the same.
fn has_the_same_answer_in_pieces(bytes: &[u8], length: u64, header: &Header) {
    let mut have = 8.min(bytes.len());
    loop {
        match gguf::parse(&bytes[..have], length).expect("the whole is accepted") {
            Parsed::Header(found) => return assert_eq!(found, *header),
            Parsed::More(needed) => {
                let needed = usize::try_from(needed).expect("it is in the file");
                assert!(needed > have && needed <= bytes.len());
                have = needed;
            }
        }
    }
}

/// A header that is right but for what the choices spoil.
#[derive(Debug, Arbitrary)]
struct File {
    entries: Vec<Entry>,
    tensors: Vec<Tensor>,
    counts: Option<(u64, u64)>,
    surplus: Option<i8>,
    spoiled: Option<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
struct Entry {
    key: Key,
    value: Value,
}

#[derive(Debug, Arbitrary)]
enum Key {
    Numbered,
    Alignment,
    Architecture(u8),
    Shape(u8),
    Any(String),
}

#[derive(Debug, Arbitrary)]
enum Value {
    U8(u8),
    I32(i32),
    U32(u32),
    Power(u8),
    F32(f32),
    Bool(u8),
    Text(String),
    U64(u64),
    Array(Vec<i32>),
    Texts(Vec<String>),
    Long(u64, u8),
    Raw(u32, Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Tensor {
    name: Name,
    sides: Vec<Side>,
    kind: Kind,
    offset: Option<u64>,
}

#[derive(Debug, Arbitrary)]
enum Name {
    Numbered,
    Block(u8),
    Any(String),
}

#[derive(Debug, Arbitrary)]
enum Side {
    Small(u8),
    Blocks(u8),
    Power(u8),
    Any(u64),
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Known(u8),
    F32,
    Any(u32),
}

const BLOCKS: [&str; 6] =
    ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_norm.weight", "token_embd.weight", "output.weight", "blk.1.x"];
const ARCHITECTURES: [&str; 5] = ["llama", "gemma3", "qwen3", "lumina2", "x"];

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

impl File {
    fn write(&self) -> (Vec<u8>, u64) {
        let counts = self.counts.unwrap_or((self.tensors.len() as u64, self.entries.len() as u64));
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        [counts.0, counts.1].iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
        self.entries.iter().enumerate().for_each(|(at, entry)| entry.write(&mut bytes, at));
        let mut next = 0_u64;
        for (at, tensor) in self.tensors.iter().enumerate() {
            next = tensor.write(&mut bytes, at, next);
        }
        if let Some((at, byte)) = self.spoiled {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let length = (bytes.len() as u64).next_multiple_of(32).saturating_add(next);
        (bytes, length.saturating_add_signed(self.surplus.unwrap_or_default().into()))
    }
}

impl Entry {
    fn write(&self, bytes: &mut Vec<u8>, at: usize) {
        let key = match &self.key {
            Key::Numbered => format!("k{at}"),
            Key::Alignment => "general.alignment".to_owned(),
            Key::Architecture(_) => "general.architecture".to_owned(),
            Key::Shape(which) => format!("comfy.gguf.orig_shape.t{}", which % 4),
            Key::Any(key) => key.clone(),
        };
        text(bytes, &key);
        if let Key::Architecture(which) = self.key {
            bytes.extend_from_slice(&8_u32.to_le_bytes());
            return text(bytes, ARCHITECTURES[usize::from(which) % ARCHITECTURES.len()]);
        }
        self.value.write(bytes);
    }
}

impl Value {
    fn write(&self, bytes: &mut Vec<u8>) {
        let mut scalar = |kind: u32, value: &[u8]| {
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(value);
        };
        match self {
            Self::U8(value) => scalar(0, &[*value]),
            Self::I32(value) => scalar(5, &value.to_le_bytes()),
            Self::U32(value) => scalar(4, &value.to_le_bytes()),
            Self::Power(bits) => scalar(4, &(1_u32 << (bits % 32)).to_le_bytes()),
            Self::F32(value) => scalar(6, &value.to_le_bytes()),
            Self::Bool(value) => scalar(7, &[*value]),
            Self::U64(value) => scalar(10, &value.to_le_bytes()),
            Self::Raw(kind, value) => scalar(*kind, value),
            Self::Text(value) => {
                scalar(8, &[]);
                text(bytes, value);
            }
            Self::Array(values) => {
                scalar(9, &5_u32.to_le_bytes());
                bytes.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            }
            Self::Texts(values) => {
                scalar(9, &8_u32.to_le_bytes());
                bytes.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(bytes, value));
            }
            Self::Long(count, kind) => {
                scalar(9, &u32::from(kind % 14).to_le_bytes());
                bytes.extend_from_slice(&count.to_le_bytes());
            }
        }
    }
}

impl Tensor {
    fn write(&self, bytes: &mut Vec<u8>, at: usize, next: u64) -> u64 {
        let name = match &self.name {
            Name::Numbered => format!("t{at}"),
            Name::Block(which) => BLOCKS[usize::from(*which) % BLOCKS.len()].to_owned(),
            Name::Any(name) => name.clone(),
        };
        text(bytes, &name);
        let kind = match self.kind {
            Kind::F32 => 0,
            Kind::Known(which) => u32::from(which % 42),
            Kind::Any(kind) => kind,
        };
        let side = |side: &Side| match side {
            Side::Small(side) => u64::from(side % 5),
            Side::Blocks(count) => u64::from(count % 4) * BlockType::of_number(kind).map_or(1, BlockType::elements),
            Side::Power(bits) => 1 << (bits % 64),
            Side::Any(side) => *side,
        };
        let sides: Vec<u64> = self.sides.iter().map(side).collect();
        bytes.extend_from_slice(&u32::try_from(sides.len()).unwrap_or(u32::MAX).to_le_bytes());
        sides.iter().for_each(|side| bytes.extend_from_slice(&side.to_le_bytes()));
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&self.offset.unwrap_or(next).to_le_bytes());
        let elements = sides.iter().try_fold(1_u64, |all, &side| all.checked_mul(side));
        let length = BlockType::of_number(kind).zip(elements).and_then(|(kind, elements)| kind.length(elements));
        next.saturating_add(length.unwrap_or(4)).checked_next_multiple_of(32).unwrap_or(u64::MAX - 31)
    }
}
