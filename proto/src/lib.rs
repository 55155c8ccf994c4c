//! The gRPC interface of weightsd, generated from `weights/v1/*.proto`. The comments of those files are the
//! documentation of these types.

#![forbid(unsafe_code)]

#[cfg(feature = "json")]
pub mod json;
pub mod prepared;
pub mod rich_error;

/// Package `weights.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("weights.v1");
}

/// The server's side of package `weights.v1`: the same messages, except that a response of `LoadComponent` may have been
/// encoded beforehand.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/weights.v1.rs"));
}

/// Number of the interface: a client refuses a daemon that answers another one. A change that `.ci/buf_breaking` refuses
/// needs the next number.
pub const PROTOCOL: u32 = 1;

/// The compiled descriptors of the package, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Type URL under which an [`v1::ErrorDetail`] travels in a `google.rpc.Status`.
pub const ERROR_DETAIL_TYPE_URL: &str = "type.googleapis.com/weights.v1.ErrorDetail";
