//! JSON objects read into types, with errors that say where the problem is.

use crate::shown::{shown, shown_up_to};

/// Bytes that an error shows of the place of a mistake.
const WHERE_BYTES_MAX: usize = 80;

/// Reads an object into a type; the error says where in it the problem is.
pub(crate) fn from_object<T: serde::de::DeserializeOwned>(
    object: serde_json::Map<String, serde_json::Value>,
) -> Result<T, String> {
    serde_path_to_error::deserialize(serde_json::Value::Object(object)).map_err(|error| located(&error))
}

/// Parses a JSON object; the error says where in it the problem is.
pub(crate) fn parse_object<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let object = serde_path_to_error::deserialize(&mut reader).map_err(|error| located(&error))?;
    // Serde takes an array for a structure, without a word about names.
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
