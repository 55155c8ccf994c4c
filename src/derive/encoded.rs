//! Encoded tensors, such as the blocks of a GGUF file, that become floats or layers of MLX without MLX: decoded in F32,
//! and rounded once.

use half::{bf16, f16, slice::HalfFloatSliceExt as _};
use weightsd_core::{
    derive::{Input, Job},
    ggml::{Encoding, Triplet, Unrepresentable},
    header::Dtype,
};

/// Rows of an encoded tensor, as they are stored.
pub(super) struct Rows<'a> {
    /// Their bytes.
    pub(super) bytes: &'a [u8],
    /// How many rows.
    pub(super) count: u64,
}

/// The bytes of a job's outputs: the same rows of each, in order. `None` for a job that is no decoding.
///
/// # Errors
/// When a block says something that a layer of MLX cannot say.
pub(super) fn outputs(job: &Job, rows: &Rows<'_>) -> Option<Result<Vec<Vec<u8>>, Unrepresentable>> {
    let Input::Encoded { encoding, shape, .. } = &job.input else { return None };
    // Rows need not be whole blocks where all of them are decoded at once.
    let part = |all: u64| length(if rows.count == job.rows() { all } else { all / job.rows() * rows.count });
    if job.is_exact() {
        let [codes, scales, biases] = &job.outputs[..] else { return None };
        let [mut codes, mut scales, mut biases] =
            [codes, scales, biases].map(|output| vec![0; part(output.range.end - output.range.start)]);
        let to = Triplet { codes: &mut codes, scales: &mut scales, biases: &mut biases };
        return Some(encoding.affine(rows.bytes, length(rows.count), to).map(|()| vec![codes, scales, biases]));
    }
    let output = job.outputs.first()?;
    let floats = decoded(encoding, part(shape.iter().product()), rows);
    Some(Ok(vec![rounded(&floats, output.dtype)?]))
}

/// The elements of rows, `count` in all.
fn decoded(encoding: &Encoding, count: usize, rows: &Rows<'_>) -> Vec<f32> {
    let mut floats = vec![0.0; count];
    encoding.decode(rows.bytes, length(rows.count), &mut floats);
    floats
}

/// Writes the elements of rows as F32.
pub(super) fn decode_into(encoding: &Encoding, rows: &Rows<'_>, memory: &mut [u8]) {
    let floats = decoded(encoding, memory.len() / 4, rows);
    memory.as_chunks_mut::<4>().0.iter_mut().zip(&floats).for_each(|(to, float)| *to = float.to_le_bytes());
}

/// Floats in a dtype: rounded to nearest, ties to even. `None` for a dtype that is none of floats.
fn rounded(floats: &[f32], dtype: Dtype) -> Option<Vec<u8>> {
    Some(match dtype {
        Dtype::F32 => floats.iter().flat_map(|float| float.to_le_bytes()).collect(),
        Dtype::BF16 => floats.iter().flat_map(|&float| bf16::from_f32(float).to_le_bytes()).collect(),
        Dtype::F16 => {
            let mut halves = vec![f16::ZERO; floats.len()];
            halves.convert_from_f32_slice(floats);
            halves.iter().flat_map(|half| half.to_le_bytes()).collect()
        }
        _ => return None,
    })
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a piece fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_to_the_nearest_and_ties_to_even() {
        // Halves between two BF16 numbers, the lower one even and odd.
        let floats = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.0, f32::INFINITY];
        let bits = |dtype| {
            let bytes = rounded(&floats, dtype).unwrap();
            bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect::<Vec<_>>()
        };
        assert_eq!(bits(Dtype::BF16), [0x3f80, 0x3f82, 0x8000, 0x7f80]);
        assert_eq!(bits(Dtype::F16), [0x3c04, 0x3c0c, 0x8000, 0x7c00]);
        assert_eq!(rounded(&floats, Dtype::F32).unwrap().len(), 16);
        assert!(rounded(&floats, Dtype::I8).is_none());
    }
}
