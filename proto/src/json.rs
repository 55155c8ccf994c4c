//! Messages as JSON.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::FILE_DESCRIPTOR_SET;

/// A message of package `weights.v1` as protobuf's JSON, with the fields' names in the `.proto` files, with fields that
/// have their default, and with 64-bit numbers as numbers. `name` is the message's name, without the package.
///
/// # Panics
/// When `message` is not of that name.
#[must_use]
pub fn to_json(name: &str, message: &impl Message) -> Value {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build made the descriptors");
    let descriptor = pool.get_message_by_name(&format!("weights.v1.{name}")).expect("the package has the message");
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("the descriptor is that of the message");
    let options =
        SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(false).use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).expect("a message can be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Segment, SegmentKind};

    #[test]
    fn fields_have_their_names_and_defaults_are_there() {
        let segment = Segment { path: "/a".into(), kind: SegmentKind::Derived.into(), ..Segment::default() };
        let json = to_json("Segment", &segment);
        assert_eq!(json["path"], "/a");
        assert_eq!(json["kind"], "SEGMENT_KIND_DERIVED");
    }
}
