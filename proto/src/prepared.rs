//! Responses that are encoded once and sent many times: the tensor table of a component is the same for everyone who
//! asks for it, and encoding it takes longer than everything else about a warm request.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut, Bytes},
    encoding::{DecodeContext, WireType},
};

use crate::v1;

/// What the server sends on a `LoadComponent` stream.
#[derive(Debug, Clone, PartialEq)]
pub enum LoadComponentResponse {
    /// To be encoded when it is sent.
    Message(Box<v1::LoadComponentResponse>),
    /// Encoded already.
    Encoded(Bytes),
}

impl Default for LoadComponentResponse {
    fn default() -> Self {
        Self::Message(Box::default())
    }
}

impl From<v1::load_component_response::Event> for LoadComponentResponse {
    fn from(event: v1::load_component_response::Event) -> Self {
        Self::Message(Box::new(v1::LoadComponentResponse { event: Some(event) }))
    }
}

impl Message for LoadComponentResponse {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        match self {
            Self::Message(message) => message.encode_raw(buffer),
            Self::Encoded(bytes) => buffer.put_slice(bytes),
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if let Self::Encoded(bytes) = self {
            *self = Self::Message(Box::new(v1::LoadComponentResponse::decode(bytes.clone())?));
        }
        match self {
            Self::Message(message) => message.merge_field(tag, wire_type, buffer, context),
            Self::Encoded(_) => Ok(()),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Encoded(bytes) => bytes.len(),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_before_or_when_sent_is_the_same_on_the_wire() {
        let page = v1::TensorPage { tensors: vec![v1::Tensor { name: "a".into(), ..v1::Tensor::default() }; 3] };
        let event = v1::load_component_response::Event::Page(page);
        let message = v1::LoadComponentResponse { event: Some(event.clone()) };
        let (later, before) =
            (LoadComponentResponse::from(event), LoadComponentResponse::Encoded(message.encode_to_vec().into()));
        assert_eq!(later.encode_to_vec(), before.encode_to_vec());
        assert_eq!(before.encoded_len(), message.encoded_len());
        assert_eq!(LoadComponentResponse::decode(before.encode_to_vec().as_slice()).unwrap(), later);
    }
}
