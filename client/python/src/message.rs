//! Messages of the interface as protobuf's JSON, and back. Fields have the names of the `.proto`; 64-bit numbers are
//! numbers; fields with their default are there.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, SerializeOptions};
use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};

/// The interface.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(weightsd_proto::FILE_DESCRIPTOR_SET).expect("the build made these descriptors")
});

fn dynamic(name: &str) -> DynamicMessage {
    let descriptor = POOL.get_message_by_name(&format!("weights.v1.{name}"));
    DynamicMessage::new(descriptor.unwrap_or_else(|| panic!("weights.v1 has no message {name}")))
}

/// `message`, which is a `weights.v1.<name>`, as JSON.
pub(crate) fn json(name: &str, message: &impl Message) -> String {
    let options =
        SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false).use_proto_field_name(true);
    let mut dynamic = dynamic(name);
    dynamic.merge(message.encode_to_vec().as_slice()).expect("the type has the shape of its message");
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut text);
    dynamic.serialize_with_options(&mut serializer, &options).expect("a vector takes every byte");
    String::from_utf8(text).expect("JSON is text")
}

/// The `weights.v1.<name>` that `text` describes.
pub(crate) fn parse<T: Message + Default>(name: &str, text: &str) -> PyResult<T> {
    let wrong = |error: &dyn std::fmt::Display| PyValueError::new_err(format!("{name}: {error}"));
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let descriptor = dynamic(name).descriptor();
    let dynamic = DynamicMessage::deserialize(descriptor, &mut deserializer).map_err(|error| wrong(&error))?;
    dynamic.transcode_to().map_err(|error| wrong(&error))
}

/// A `ModelSelector` for `spec`, with the facts about this process that the daemon cannot see, as JSON.
#[pyfunction]
pub(crate) fn selector(spec: &str) -> String {
    json("ModelSelector", &weightsd_client::selector(spec))
}

/// The interface as a serialised `google.protobuf.FileDescriptorSet`.
#[pyfunction]
pub(crate) fn descriptors(py: Python<'_>) -> Bound<'_, PyBytes> {
    PyBytes::new(py, weightsd_proto::FILE_DESCRIPTOR_SET)
}
