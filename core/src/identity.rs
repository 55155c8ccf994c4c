//! The id of a component: a hash of everything that determines its bytes and names.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::{catalogue::AuditPolicy, place::Layout};

/// Counts up when the meaning of a component changes without any of its inputs changing.
const FORMAT_VERSION: u64 = 3;

/// What a file's content is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ContentKey {
    /// The name of a blob in a Hugging Face cache: sha-256 or git-sha1 of the content, in hex.
    Blob(String),
    /// A file that can change: device, inode, length, modified and changed times in nanoseconds.
    File(u64, u64, u64, i64, i64),
}

/// Identity of a component, 32 bytes, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId([u8; 32]);

/// What a [`ComponentId`] is made from.
#[derive(Debug, Clone)]
pub struct IdentityInputs<'a> {
    /// Family that reads the files.
    pub family: &'a str,
    /// Component's name.
    pub component: &'a str,
    /// Layout of the tensors.
    pub layout: Layout,
    /// What a failed audit does. A component that was lent in spite of one is never given to a strict caller.
    pub policy: AuditPolicy,
    /// Bytes of the config, empty when there is none.
    pub config: &'a [u8],
    /// What is to be computed, and by which MLX; see [`crate::derive`].
    pub conversion: &'a [u8],
    /// Shards: path below the model's directory, and content.
    pub shards: &'a [(String, ContentKey)],
}

impl ComponentId {
    /// Hashes `inputs`.
    #[must_use]
    pub fn of(inputs: &IdentityInputs<'_>) -> Self {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(&FORMAT_VERSION.to_le_bytes());
        field(inputs.family.as_bytes());
        field(inputs.component.as_bytes());
        field(inputs.layout.name().as_bytes());
        field(&[u8::from(inputs.policy == AuditPolicy::ReportOnly)]);
        field(inputs.config);
        field(inputs.conversion);
        for (path, content) in inputs.shards {
            field(path.as_bytes());
            match content {
                ContentKey::Blob(name) => field(name.as_bytes()),
                ContentKey::File(device, inode, length, modified, changed) => {
                    field(format!("{device} {inode} {length} {modified} {changed}").as_bytes());
                }
            }
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ComponentId {
    type Err = hex::FromHexError;

    fn from_str(digits: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for ComponentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts() {
        let shards = [("a".to_owned(), ContentKey::Blob("b".into()))];
        let other = [("a".to_owned(), ContentKey::File(1, 2, 3, 4, 5))];
        let base = IdentityInputs {
            family: "f",
            component: "c",
            layout: Layout::Mlx,
            policy: AuditPolicy::Strict,
            config: b"{}",
            conversion: b"BF16",
            shards: &shards,
        };
        let variants = [
            base.clone(),
            IdentityInputs { family: "fc", component: "", ..base.clone() },
            IdentityInputs { component: "d", ..base.clone() },
            IdentityInputs { layout: Layout::Source, ..base.clone() },
            IdentityInputs { policy: AuditPolicy::ReportOnly, ..base.clone() },
            IdentityInputs { config: b"", ..base.clone() },
            IdentityInputs { conversion: b"F16", ..base.clone() },
            IdentityInputs { shards: &other, ..base.clone() },
            IdentityInputs { shards: &[], ..base.clone() },
        ];
        let ids: std::collections::HashSet<_> = variants.iter().map(ComponentId::of).collect();
        assert_eq!(ids.len(), variants.len());
        let shown = ComponentId::of(&base).to_string();
        assert_eq!((shown.len(), shown.parse()), (64, Ok(ComponentId::of(&base))));
        assert!("abc".parse::<ComponentId>().is_err());
    }
}
