//! Errors with details, as `google.rpc.Status` in the trailer `grpc-status-details-bin`.
//!
//! Trailers are small: grpcio refuses more than about 8 KB of metadata, and then the caller sees neither the details
//! nor the message. [`encode`] therefore cuts what it is given to [`WIRE_LIMIT`].

use prost::Message as _;
use tonic::{Code, Status};

use crate::{
    ERROR_DETAIL_TYPE_URL,
    v1::{AuditReport, ErrorDetail},
};

/// Most bytes that message and details take in the trailers: the message percent-encoded, the details in base64.
pub const WIRE_LIMIT: usize = 6 * 1024;

/// `google.rpc.Status`, from google/rpc/status.proto.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RpcStatus {
    /// The gRPC code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The message; clients check that it is the one of the call's status.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The details.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<prost_types::Any>,
}

/// A status with a detail. What does not fit [`WIRE_LIMIT`] is cut: first the samples of the audit, then hint,
/// resource and message.
pub fn encode(code: Code, mut message: String, mut detail: ErrorDetail) -> Status {
    let mut details = pack(code, &message, &detail);
    for cut in CUTS {
        if wire_length(&message, details.len()) <= WIRE_LIMIT {
            break;
        }
        cut.apply(&mut message, &mut detail);
        details = pack(code, &message, &detail);
    }
    Status::with_details(code, message, details.into())
}

/// The detail that a status carries, if it carries one of ours.
pub fn decode(status: &Status) -> Option<ErrorDetail> {
    let rich = RpcStatus::decode(status.details()).ok()?;
    let any = rich.details.iter().find(|any| any.type_url == ERROR_DETAIL_TYPE_URL)?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}

fn pack(code: Code, message: &str, detail: &ErrorDetail) -> Vec<u8> {
    let any = prost_types::Any { type_url: ERROR_DETAIL_TYPE_URL.to_owned(), value: detail.encode_to_vec() };
    RpcStatus { code: code as i32, message: message.to_owned(), details: vec![any] }.encode_to_vec()
}

fn wire_length(message: &str, details: usize) -> usize {
    // A superset of what is percent-encoded: all but plain ASCII takes three bytes.
    let message: usize = message.bytes().map(|byte| if byte.is_ascii_alphanumeric() { 1 } else { 3 }).sum();
    message + details.div_ceil(3) * 4
}

/// One step on the way to a detail that fits; each is harsher than the one before.
enum Cut {
    /// At most this number of elements of each list of the audit, none longer than [`SAMPLE_BYTES`].
    Samples(usize),
    /// At most this number of bytes of each text.
    Texts(usize),
}

const SAMPLE_BYTES: usize = 160;

/// The last ones leave four texts of 96 bytes, which fit whatever they are.
const CUTS: [Cut; 9] = [
    Cut::Samples(16),
    Cut::Samples(8),
    Cut::Samples(4),
    Cut::Samples(2),
    Cut::Samples(0),
    Cut::Texts(1024),
    Cut::Texts(512),
    Cut::Texts(256),
    Cut::Texts(96),
];

impl Cut {
    fn apply(&self, message: &mut String, detail: &mut ErrorDetail) {
        match *self {
            Cut::Samples(count) => {
                if let Some(audit) = &mut detail.audit {
                    cut_samples(audit, count);
                }
            }
            Cut::Texts(bytes) => {
                let component = detail.audit.as_mut().map(|audit| &mut audit.component);
                for text in [&mut detail.hint, &mut detail.resource, message].into_iter().chain(component) {
                    shorten(text, bytes);
                }
            }
        }
    }
}

fn cut_samples(audit: &mut AuditReport, count: usize) {
    for list in [&mut audit.missing_sample, &mut audit.extra_sample, &mut audit.remarks] {
        list.truncate(count);
        list.iter_mut().for_each(|text| shorten(text, SAMPLE_BYTES));
    }
    for list in [&mut audit.wrong_shape_sample, &mut audit.wrong_dtype_sample] {
        list.truncate(count);
        for mismatch in list {
            for text in [&mut mismatch.name, &mut mismatch.expected, &mut mismatch.found] {
                shorten(text, SAMPLE_BYTES);
            }
        }
    }
    audit.dtypes.truncate(count);
    audit.dtypes.iter_mut().for_each(|entry| shorten(&mut entry.dtype, SAMPLE_BYTES));
}

/// Cuts a text to at most `bytes` bytes. The last three of a text that was cut are an ellipsis.
fn shorten(text: &mut String, bytes: usize) {
    const MARK: &str = "…";
    if text.len() > bytes {
        let most = bytes.saturating_sub(MARK.len());
        let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{DtypeCount, ErrorReason, ErrorTier, TensorMismatch};

    fn audit(samples: usize, text: &str) -> AuditReport {
        let mismatch = TensorMismatch { name: text.into(), expected: text.into(), found: text.into() };
        AuditReport {
            component: text.into(),
            missing: 1_000_000,
            missing_sample: vec![text.into(); samples],
            extra_sample: vec![text.into(); samples],
            wrong_shape_sample: vec![mismatch.clone(); samples],
            wrong_dtype_sample: vec![mismatch; samples],
            dtypes: vec![DtypeCount { dtype: text.into(), tensors: 1, bytes: 1 }; samples],
            remarks: vec![text.into(); samples],
            ..AuditReport::default()
        }
    }

    fn detail(audit: AuditReport, text: &str) -> ErrorDetail {
        ErrorDetail {
            reason: ErrorReason::AuditFailed.into(),
            resource: text.into(),
            hint: text.into(),
            retryable: true,
            audit: Some(audit),
            retry_after: Some(prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 }),
            tier: ErrorTier::Condition.into(),
        }
    }

    #[test]
    fn a_small_detail_travels_unchanged() {
        let sent = detail(audit(3, "decoder.conv_in.weight"), "é");
        let status = encode(Code::NotFound, "no such thing".into(), sent.clone());
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such thing"));
        assert_eq!(decode(&status), Some(sent));
        let rich = RpcStatus::decode(status.details()).unwrap();
        assert_eq!((rich.code, rich.message.as_str()), (Code::NotFound as i32, "no such thing"));
    }

    #[test]
    fn nothing_is_too_large_to_travel() {
        let texts = ["", "x", "é", " ", &"name.".repeat(40), &"é".repeat(3000), &" ".repeat(1 << 20)];
        for samples in [0, 1, 20, 5000] {
            for text in texts.iter().filter(|text| samples * text.len() < 10_000_000) {
                let status = encode(Code::Internal, (*text).into(), detail(audit(samples, text), text));
                let length = wire_length(status.message(), status.details().len());
                assert!(length <= WIRE_LIMIT, "{samples} samples of {} bytes: {length}", text.len());
                let received = decode(&status).unwrap();
                assert_eq!(received.reason(), ErrorReason::AuditFailed);
                assert_eq!(received.audit.unwrap().missing, 1_000_000);
                let rich = RpcStatus::decode(status.details()).unwrap();
                assert_eq!(rich.message, status.message());
            }
        }
    }

    #[test]
    fn samples_go_before_words() {
        let words = "a sentence of reasonable length about what happened";
        let status = encode(Code::Internal, words.into(), detail(audit(500, "decoder.conv_in.weight"), words));
        let received = decode(&status).unwrap();
        assert_eq!((received.hint.as_str(), status.message()), (words, words));
        assert!(!received.audit.unwrap().missing_sample.is_empty());
    }

    #[test]
    fn a_foreign_status_has_no_detail() {
        assert_eq!(decode(&Status::not_found("x")), None);
        assert_eq!(decode(&Status::with_details(Code::Internal, "x", b"garbage"[..].to_vec().into())), None);
    }
}
