//! Which layers of a family adapters may change, under all names that trainers give them.

/// A family's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// Prefixes of bases; at most two of them, one after the other, are taken off.
    pub prefixes: &'static [&'static str],
    /// Names of lists of blocks, and the list that is meant.
    pub blocks: &'static [(&'static str, &'static str)],
    /// Names of a block's layers, and the layers that are meant: several for a fused one, whose rows are split evenly.
    pub layers: &'static [(&'static str, &'static [&'static str])],
}

/// A layer that an adapter's base means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The layer's weight in the catalogue, without `.weight`.
    pub layer: String,
    /// Which of how many equal parts of the output rows are its own.
    pub part: (u64, u64),
}

impl Targets {
    /// `base` without its prefixes.
    #[must_use]
    pub fn stripped<'a>(&self, base: &'a str) -> &'a str {
        let once = |base: &'a str| self.prefixes.iter().find_map(|prefix| base.strip_prefix(prefix)).unwrap_or(base);
        once(once(base))
    }

    /// The layers that a base means; none when it means no layer of a block. `blocks_of` gives the number of blocks in
    /// a list.
    #[must_use]
    pub fn find(&self, base: &str, blocks_of: impl Fn(&str) -> u64) -> Vec<Target> {
        let base = self.stripped(base);
        let base = base.strip_suffix(".weight").unwrap_or(base);
        for &(written, list) in self.blocks {
            let Some((index, rest)) = block(base, written) else { continue };
            if index >= blocks_of(list) {
                continue;
            }
            if let Some((_, layers)) = self.layers.iter().find(|(written, _)| is_same(rest, written)) {
                let of = layers.len() as u64;
                let target =
                    |(at, layer): (u64, &&str)| Target { layer: format!("{list}.{index}.{layer}"), part: (at, of) };
                return (0..of).zip(layers.iter()).map(target).collect();
            }
        }
        Vec::new()
    }
}

/// The index and the rest of a name that begins with the list of blocks, with dots or underscores between the parts.
fn block<'a>(base: &'a str, written: &str) -> Option<(u64, &'a str)> {
    let rest = base.strip_prefix(written)?.strip_prefix(['.', '_'])?;
    let (digits, rest) = rest.split_once(['.', '_'])?;
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_plain)?, rest))
}

/// Whether two names are the same where dots and underscores are: kohya's names have only the latter.
fn is_same(found: &str, written: &str) -> bool {
    let flat = |byte: u8| if byte == b'.' { b'_' } else { byte };
    found.len() == written.len() && found.bytes().map(flat).eq(written.bytes().map(flat))
}
