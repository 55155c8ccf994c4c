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
    /// A file that can change, in one state.
    File(FileKey),
}

/// A file in one state, told from every other file and state also after a restart of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The volume that it lies on.
    pub volume: Volume,
    /// Its inode's number.
    pub inode: u64,
    /// Its length in bytes.
    pub length: u64,
    /// When its content changed last, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// When its content or attributes changed last, in nanoseconds since 1970.
    pub changed_ns: i64,
}

/// What a volume is known by. Numbers of devices belong to a mount: after a restart of the system they may be another
/// volume's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Volume {
    /// Its UUID.
    Uuid([u8; 16]),
    /// A number that its file system makes of its UUID.
    Serial(u64),
    /// The number of its device, where nothing that lasts is known of it.
    Device(u64),
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "uuid {:032x}", u128::from_be_bytes(*uuid)),
            Self::Serial(number) => write!(f, "serial {number:x}"),
            Self::Device(number) => write!(f, "device {number:x}"),
        }
    }
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { volume, inode, length, modified_ns, changed_ns } = self;
        write!(f, "{volume} {inode} {length} {modified_ns} {changed_ns}")
    }
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
                ContentKey::File(file) => field(file.to_string().as_bytes()),
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
        let file = |volume| {
            let key = FileKey { volume, inode: 2, length: 3, modified_ns: 4, changed_ns: 5 };
            [("a".to_owned(), ContentKey::File(key))]
        };
        let [one, other, third] = [Volume::Uuid([1; 16]), Volume::Uuid([2; 16]), Volume::Device(1)].map(file);
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
            IdentityInputs { shards: &one, ..base.clone() },
            IdentityInputs { shards: &other, ..base.clone() },
            IdentityInputs { shards: &third, ..base.clone() },
            IdentityInputs { shards: &[], ..base.clone() },
        ];
        let ids: std::collections::HashSet<_> = variants.iter().map(ComponentId::of).collect();
        assert_eq!(ids.len(), variants.len());
        let shown = ComponentId::of(&base).to_string();
        assert_eq!((shown.len(), shown.parse()), (64, Ok(ComponentId::of(&base))));
        assert!("abc".parse::<ComponentId>().is_err());
    }
}
