//! Writes one file, a piece at a time.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use crate::{
    Contents,
    fill::Filler,
    plan::{Body, FilePlan, Weights},
};

/// Most bytes of a tensor that are in memory at once.
const PIECE_BYTES: usize = 1 << 20;

/// Writes a new file at `path` and shows `observe` every byte that is written: all of them, but for the zeros of
/// [`Contents::Sparse`].
pub(crate) fn write(
    plan: &FilePlan,
    contents: Contents,
    path: &Path,
    mut observe: impl FnMut(&[u8]),
) -> io::Result<()> {
    let file = File::create(path)?;
    let mut writer = BufWriter::with_capacity(PIECE_BYTES, &file);
    let mut put = |bytes: &[u8]| {
        observe(bytes);
        writer.write_all(bytes)
    };
    match (&plan.body, contents) {
        (Body::Document(bytes), _) => put(bytes)?,
        (Body::Weights(weights), Contents::Sparse) => put(&weights.header)?,
        (Body::Weights(weights), Contents::Random { seed }) => {
            put(&weights.header)?;
            put_tensors(weights, seed, put)?;
        }
    }
    writer.flush()?;
    drop(writer);
    file.set_len(plan.bytes())
}

fn put_tensors(weights: &Weights, seed: u64, mut put: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut end = weights.header.len() as u64;
    for entry in &weights.tensors {
        put(&vec![0; usize::try_from(entry.range.start - end).map_err(io::Error::other)?])?;
        for tensor in &entry.pieces {
            let mut filler = Filler::new(seed, &entry.component, &tensor.name, tensor.dtype);
            let mut left = tensor.bytes();
            while left > 0 {
                let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
                filler.fill(&mut piece[..length]);
                put(&piece[..length])?;
                left -= length as u64;
            }
        }
        end = entry.range.end;
    }
    Ok(())
}
