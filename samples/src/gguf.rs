//! A component as a GGUF file, or as one of several parts, as stable-diffusion.cpp and llama.cpp's `gguf-split` write
//! them. Written from ggml's description of the format, without the reader of `weightsd-core`, which it is to check.

use std::path::Path;

use crate::{
    Checkpoint, Dtype, FilePart, FixtureError, Tensor, Written, directory,
    plan::{Body, Entry, FilePlan, Wanted, Weights},
};

/// Where tensors begin: ggml's default.
const ALIGNMENT: u64 = 32;

/// A value of a file's metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GgufValue<'a> {
    /// A number of 16 bits.
    U16(u16),
    /// A number of 32 bits.
    U32(u32),
    /// A number of 32 bits with a sign.
    I32(i32),
    /// A float of 32 bits.
    F32(f32),
    /// A text.
    Text(&'a str),
}

impl GgufValue<'_> {
    /// The number of its type, and the value.
    fn bytes(self) -> Vec<u8> {
        let (kind, value): (u32, Vec<u8>) = match self {
            Self::U16(number) => (2, number.to_le_bytes().to_vec()),
            Self::U32(number) => (4, number.to_le_bytes().to_vec()),
            Self::I32(number) => (5, number.to_le_bytes().to_vec()),
            Self::F32(number) => (6, number.to_le_bytes().to_vec()),
            Self::Text(value) => (8, text(value)),
        };
        [kind.to_le_bytes().to_vec(), value].concat()
    }
}

/// The types of ggml that are written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    /// Floats of 32 bits.
    F32,
    /// Blocks of 32 elements: a scale of 16 bits, and four bits an element.
    Q4_0,
    /// Blocks of 32 elements: a scale of 16 bits, and eight bits an element.
    Q8_0,
}

impl GgmlType {
    /// Its number in files.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q4_0 => 2,
            Self::Q8_0 => 8,
        }
    }

    /// A tensor of these bytes whose elements chance may fill: a block as units of 16 bits, so that its scale is finite.
    fn stored(self, tensor: &Tensor) -> Tensor {
        let units = match self {
            Self::F32 => return Tensor { dtype: Dtype::F32, ..tensor.clone() },
            Self::Q4_0 => 9,
            Self::Q8_0 => 17,
        };
        let mut shape = tensor.shape.clone();
        let columns = shape.last_mut().unwrap_or_else(|| panic!("{} is a scalar, it has no blocks", tensor.name));
        assert!(columns.is_multiple_of(32), "{}: rows of {columns} are no whole blocks", tensor.name);
        *columns = *columns / 32 * units;
        Tensor { dtype: Dtype::F16, shape, ..tensor.clone() }
    }
}

/// How a component is written as GGUF.
#[derive(Debug, Clone, Copy)]
pub struct GgufForm<'a> {
    /// The files' name without number and ending, below the folder that is written to; it may have folders of its own.
    pub stem: &'a str,
    /// How many files. Of several, each has a number in its name.
    pub parts: usize,
    /// Metadata of the first file.
    pub metadata: &'a [(&'a str, GgufValue<'a>)],
    /// The type of layers' weights; all else is F32.
    pub layers: GgmlType,
}

impl GgufForm<'_> {
    /// The name of each file.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        match self.parts {
            1 => vec![format!("{}.gguf", self.stem)],
            total => (1..=total).map(|part| format!("{}-{part:05}-of-{total:05}.gguf", self.stem)).collect(),
        }
    }
}

impl Checkpoint {
    /// Writes a component as GGUF. Keeps other files of `root`.
    ///
    /// # Errors
    /// When the system refuses to write.
    ///
    /// # Panics
    /// When there is no such component, or the rows of a layer are no whole blocks.
    pub fn write_gguf(
        &self,
        root: impl AsRef<Path>,
        part: FilePart<'_>,
        form: GgufForm<'_>,
    ) -> Result<Written, FixtureError> {
        let wanted = self.in_parts(&[part]);
        let size = wanted.len().div_ceil(form.parts);
        let files = form.files().into_iter().zip(wanted.chunks(size)).enumerate();
        let plans: Vec<FilePlan> = files
            .map(|(at, (path, tensors))| {
                let metadata = metadata(form, at, wanted.len());
                FilePlan { path, body: Body::Weights(file(&metadata, tensors, form.layers)) }
            })
            .collect();
        directory::write(&plans, self.contents, root.as_ref())
    }
}

/// Whether a tensor is the weight of a layer of a block, which people quantise. Embedders and the last layer stay as they
/// are.
fn is_layer(tensor: &Tensor) -> bool {
    let blocks = ["layers.", "noise_refiner.", "context_refiner.", "blk."];
    tensor.shape.len() == 2 && tensor.name.ends_with(".weight") && blocks.iter().any(|part| tensor.name.contains(part))
}

/// The metadata of a part; they count from 0.
fn metadata<'a>(form: GgufForm<'a>, part: usize, tensors: usize) -> Vec<(&'a str, GgufValue<'a>)> {
    let mut entries = if part == 0 { form.metadata.to_vec() } else { Vec::new() };
    if form.parts > 1 {
        let short = |number: usize| GgufValue::U16(u16::try_from(number).expect("few parts"));
        let all = GgufValue::I32(i32::try_from(tensors).expect("fewer tensors than a file may have"));
        entries.extend([("split.no", short(part)), ("split.count", short(form.parts)), ("split.tensors.count", all)]);
    }
    entries
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn file(metadata: &[(&str, GgufValue<'_>)], tensors: &[Wanted], layers: GgmlType) -> Weights {
    let mut header = b"GGUF\x03\0\0\0".to_vec();
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        header.extend([text(key), value.bytes()].concat());
    }
    let (mut end, mut entries) = (0_u64, Vec::with_capacity(tensors.len()));
    for Wanted { component, tensor, pieces } in tensors {
        let kind = if is_layer(tensor) { layers } else { GgmlType::F32 };
        let begin = end.next_multiple_of(ALIGNMENT);
        end = begin + kind.stored(tensor).bytes();
        header.extend(text(&tensor.name));
        header.extend(u32::try_from(tensor.shape.len()).expect("a few sides").to_le_bytes());
        tensor.shape.iter().rev().for_each(|side| header.extend(side.to_le_bytes()));
        header.extend(kind.number().to_le_bytes());
        header.extend(begin.to_le_bytes());
        let pieces = pieces.iter().map(|piece| kind.stored(piece)).collect();
        entries.push(Entry { component: component.clone(), tensor: kind.stored(tensor), pieces, range: begin..end });
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    let start = header.len() as u64;
    entries.iter_mut().for_each(|entry| entry.range = start + entry.range.start..start + entry.range.end);
    Weights { header, tensors: entries, file_length: (start + end).next_multiple_of(ALIGNMENT) }
}
