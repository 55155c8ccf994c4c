//! JSON objects read into types, with errors that say where the problem is.

use std::borrow::Cow;

use crate::shown::{shown, shown_up_to};

/// Bytes that an error shows of the place of a mistake.
const WHERE_BYTES_MAX: usize = 80;

/// Reads an object into a type; the error says where in it the problem is.
pub(crate) fn from_object<T: serde::de::DeserializeOwned>(
    object: serde_json::Map<String, serde_json::Value>,
) -> Result<T, String> {
    serde_path_to_error::deserialize(serde_json::Value::Object(object)).map_err(|error| located(&error))
}

/// Numbers that Python's `json` writes and reads, and JSON does not have.
const PYTHON_NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];

/// The same JSON with the numbers that only Python has as strings. Configs of some models have them, such as
/// `"time_step_limit": [0.0, Infinity]`; only a reader that needs such a number fails, and shows it.
pub(crate) fn without_python_numbers(json: &[u8]) -> Cow<'_, [u8]> {
    let has = |word: &str| json.windows(word.len()).any(|found| found == word.as_bytes());
    if !PYTHON_NUMBERS.iter().any(|word| has(word)) {
        return Cow::Borrowed(json);
    }
    let mut out = Vec::with_capacity(json.len() + 16);
    let (mut rest, mut in_string) = (json, false);
    while let Some(&byte) = rest.first() {
        let word = PYTHON_NUMBERS.iter().find(|word| !in_string && rest.starts_with(word.as_bytes()));
        let taken = match (word, byte) {
            (Some(word), _) => {
                out.extend_from_slice(format!("\"{word}\"").as_bytes());
                rest = &rest[word.len()..];
                continue;
            }
            (None, b'\\') if in_string => 2.min(rest.len()),
            (None, _) => 1,
        };
        in_string ^= byte == b'"';
        out.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
    }
    Cow::Owned(out)
}

/// Whether a config holds JSON, or what Python's `json` takes for it. A file that does not is damaged.
#[must_use]
pub fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(&without_python_numbers(bytes)).is_ok()
}

/// Parses a JSON object; the error says where in it the problem is.
pub(crate) fn parse_object<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = &*without_python_numbers(bytes);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let object = serde_path_to_error::deserialize(&mut reader).map_err(|error| located(&error))?;
    // Serde reads an array as a structure too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("it is not a JSON object".to_owned());
    }
    reader.end().map_err(|error| error.to_string())?;
    Ok(object)
}

/// The parser's words, and where in the object they are about.
fn located(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let (at, problem) = (error.path().to_string(), shown(&error.inner().to_string()));
    if at == "." { problem } else { format!("{}: {problem}", shown_up_to(&at, WHERE_BYTES_MAX)) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_that_only_python_has_stop_only_those_who_need_them() {
        let config = br#"{"limits": [0.0, Infinity, -Infinity], "NaN": NaN, "text": "a \" Infinity, \\"}"#;
        let read: Value = parse_object(config).unwrap();
        let text = r#"a " Infinity, \"#;
        assert_eq!(read, json!({"limits": [0.0, "Infinity", "-Infinity"], "NaN": "NaN", "text": text}));
        #[derive(Debug, serde::Deserialize)]
        struct Needs {
            #[expect(dead_code, reason = "only its type counts")]
            width: u64,
        }
        let problem = parse_object::<Needs>(br#"{"width": NaN}"#).unwrap_err();
        assert!(problem.contains("width") && problem.contains("NaN"), "{problem}");
        assert!(parse_object::<Value>(br#"{"width": Infinite}"#).is_err(), "no other word is let through");
        for (text, expected) in [(&config[..], true), (b"[NaN, -Infinity]", true), (b"[nan]", false), (b"{", false)] {
            assert_eq!(is_json(text), expected, "{text:?}");
        }
    }
}
