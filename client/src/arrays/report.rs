use std::{collections::BTreeMap, fmt};

use crate::Tensor;

/// Counts the arrays over the shared pages, found by their addresses, and lists the copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdoptionReport {
    /// Number of arrays in the shared pages.
    pub adopted: u32,
    /// Their length in bytes.
    pub adopted_bytes: u64,
    /// The copies, in the order of their names.
    pub copied: Vec<Copied>,
}

/// A tensor whose array lies in this process's own memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// The tensor.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Why it was copied.
    pub why: CopyReason,
}

/// Why an array does not lie in the shared pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CopyReason {
    /// Its first byte is not aligned for its dtype. safetensors files may place tensors anywhere.
    Misaligned,
    /// It has no bytes.
    Empty,
    /// MLX's backend keeps arrays in memory of its own.
    Backend,
    /// Its pages are longer than the longest buffer of the GPU (Metal's `max_buffer_length`).
    TooLong,
    /// The GPU's driver does not take its pages.
    Refused,
}

impl AdoptionReport {
    pub(crate) fn count_adopted(&mut self, tensor: &Tensor<'_>) {
        self.adopted += 1;
        self.adopted_bytes += tensor.bytes().len() as u64;
    }

    pub(crate) fn count_copied(&mut self, tensor: &Tensor<'_>, why: CopyReason) {
        self.copied.push(Copied { name: tensor.name().to_owned(), bytes: tensor.bytes().len() as u64, why });
    }

    /// Length of all copies in bytes.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied.iter().map(|copied| copied.bytes).sum()
    }
}

impl fmt::Display for AdoptionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdoptionReport { adopted, adopted_bytes, copied } = self;
        let all = u64::from(*adopted) + copied.len() as u64;
        write!(f, "{adopted} of {all} tensors lie in the shared pages ({adopted_bytes} bytes)")?;
        if copied.is_empty() {
            return Ok(());
        }
        let mut reasons: BTreeMap<CopyReason, usize> = BTreeMap::new();
        copied.iter().for_each(|copied| *reasons.entry(copied.why).or_default() += 1);
        let reasons: Vec<_> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
        write!(f, ", {} were copied ({} bytes): {}", copied.len(), self.copied_bytes(), reasons.join(", "))
    }
}

impl fmt::Display for CopyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CopyReason::Misaligned => "misaligned",
            CopyReason::Empty => "empty",
            CopyReason::Backend => "by MLX's backend",
            CopyReason::TooLong => "too long for a buffer of the GPU",
            CopyReason::Refused => "refused by the GPU's driver",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_sentence() {
        let mut report = AdoptionReport { adopted: 2, adopted_bytes: 24, copied: Vec::new() };
        assert_eq!(report.to_string(), "2 of 2 tensors lie in the shared pages (24 bytes)");
        let copied = |bytes, why| Copied { name: "a".into(), bytes, why };
        report.copied = vec![
            copied(3, CopyReason::Backend),
            copied(4, CopyReason::Misaligned),
            copied(0, CopyReason::Empty),
            copied(5, CopyReason::Misaligned),
        ];
        let expected = "2 of 6 tensors lie in the shared pages (24 bytes), 4 were copied (12 bytes): 2 misaligned, \
            1 empty, 1 by MLX's backend";
        assert_eq!(report.to_string(), expected);
    }
}
