//! Numbers, texts and arrays of a GGUF header, one after the other.

use std::fmt;

use super::{ARRAY_TYPE, GgufError, HEADER_BYTES_MAX, KEPT_BYTES_MAX, KEPT_ELEMENTS_MAX, LAST_TYPE, cut};

/// Why reading stops.
#[derive(Debug)]
pub(super) enum Stop {
    /// More bytes are needed: at least so many from the begin of the file.
    More(u64),
    /// The file breaks a rule.
    Bad(Box<GgufError>),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Bad(Box::new(error))
    }
}

/// A value that is kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U32(u32),
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

impl Value {
    /// The shape that an array of numbers is.
    pub(super) fn shape(&self) -> Option<Vec<u64>> {
        let Self::Array(sides) = self else { return None };
        let side = |side: &Self| match side {
            Self::U32(side) => Some(u64::from(*side)),
            Self::Unsigned(side) => Some(*side),
            Self::Signed(side) => u64::try_from(*side).ok(),
            _ => None,
        };
        sides.iter().map(side).collect()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U32(value) => write!(f, "{value}"),
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Single(value) => write!(f, "{value}"),
            Self::Double(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Array(values) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", values.join(", "))
            }
        }
    }
}

/// A position in the beginning of a file.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    file_length: u64,
    at: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], file_length: u64) -> Self {
        Self { bytes, file_length, at: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.at
    }

    pub(super) fn file_length(&self) -> u64 {
        self.file_length
    }

    /// Reads again from `at`, which was read already.
    pub(super) fn back_to(&mut self, at: u64) {
        self.at = at.min(self.at);
    }

    /// Goes on by `count` bytes, which `what` takes.
    fn pass(&mut self, count: u64, what: &'static str) -> Result<std::ops::Range<usize>, Stop> {
        let needed = self.at.saturating_add(count);
        if needed > self.file_length {
            return Err(GgufError::HeaderTruncated { what, needed, found: self.file_length }.into());
        }
        if needed > HEADER_BYTES_MAX {
            return Err(GgufError::HeaderTooLong { what, needed }.into());
        }
        let (Ok(from), Ok(to)) = (usize::try_from(self.at), usize::try_from(needed)) else {
            return Err(GgufError::HeaderTooLong { what, needed }.into());
        };
        if to > self.bytes.len() {
            return Err(Stop::More(needed));
        }
        self.at = needed;
        Ok(from..to)
    }

    pub(super) fn bytes(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], Stop> {
        Ok(&self.bytes[self.pass(count, what)?])
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Stop> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Stop> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads the value of `key`; `None` for one that is not kept.
    pub(super) fn value(&mut self, key: &str) -> Result<Option<Value>, Stop> {
        let kind = self.u32("the type of a value")?;
        if kind != ARRAY_TYPE {
            return self.one(kind, key, Keep::Value);
        }
        let kind = self.u32("the type of an array's elements")?;
        let count = self.u64("the length of an array")?;
        if kind == ARRAY_TYPE {
            return Err(GgufError::NestedArray { key: cut(key) }.into());
        }
        if kind > LAST_TYPE {
            return Err(GgufError::ValueType { key: cut(key), found: kind }.into());
        }
        // Numbers are passed over at once, so that a length costs nothing but its check.
        if let (Some(width), true) = (width(kind), count > KEPT_ELEMENTS_MAX) {
            self.pass(count.saturating_mul(width), "an array")?;
            return Ok(None);
        }
        let keep = if count <= KEPT_ELEMENTS_MAX { Keep::Value } else { Keep::Nothing };
        let mut values = Vec::new();
        for _ in 0..count {
            values.extend(self.one(kind, key, keep)?);
        }
        Ok((values.len() as u64 == count).then_some(Value::Array(values)))
    }

    fn one(&mut self, kind: u32, key: &str, keep: Keep) -> Result<Option<Value>, Stop> {
        const WHAT: &str = "a value";
        let value = match kind {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.array(WHAT)?))),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array(WHAT)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(WHAT)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array(WHAT)?))),
            4 => Value::U32(self.u32(WHAT)?),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array(WHAT)?))),
            6 => Value::Single(f32::from_le_bytes(self.array(WHAT)?)),
            7 => match self.array::<1>(WHAT)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [found] => return Err(GgufError::NotBool { key: cut(key), found }.into()),
            },
            8 => {
                let length = self.u64("the length of a text")?;
                let text = self.bytes(length, "a text")?;
                if length > KEPT_BYTES_MAX || keep == Keep::Nothing {
                    return Ok(None);
                }
                match std::str::from_utf8(text) {
                    Ok(text) => Value::Text(text.to_owned()),
                    // Words of a vocabulary may be parts of characters.
                    Err(_) => return Ok(None),
                }
            }
            10 => Value::Unsigned(self.u64(WHAT)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::Double(f64::from_le_bytes(self.array(WHAT)?)),
            found => return Err(GgufError::ValueType { key: cut(key), found }.into()),
        };
        Ok((keep == Keep::Value).then_some(value))
    }
}

/// Whether a value is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Value,
    Nothing,
}

/// Bytes of a value of that type; `None` for texts, and for truth values, which are looked at one by one.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
