//! The objects, and the calls that readers make.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use bytes::Bytes;
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    dto::{
        GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
        StreamingBlob, Timestamp,
    },
    s3_error,
};

use crate::BUCKET;

/// What the store was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The objects below a prefix.
    List(String),
    /// What is known of an object.
    Head(String),
    /// An object, or a range of it.
    Get(String, Option<Range<u64>>),
}

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) asked: Vec<Asked>,
}

#[derive(Debug)]
pub(crate) struct Store(pub(crate) Arc<Mutex<Shared>>);

impl Store {
    fn find(&self, bucket: &str, key: &str, asked: Asked) -> S3Result<Object> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.asked.push(asked);
        if bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        shared.objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, .. } = request.input;
        let prefix = prefix.unwrap_or_default();
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.asked.push(Asked::List(prefix.clone()));
        if bucket != BUCKET {
            return Err(s3_error!(NoSuchBucket));
        }
        let below = shared.objects.iter().filter(|(key, _)| key.starts_with(&prefix));
        let object = |(key, object): (&String, &Object)| s3s::dto::Object {
            key: Some(key.clone()),
            size: i64::try_from(object.bytes.len()).ok(),
            e_tag: Some(object.etag.clone()),
            last_modified: Some(Timestamp::from(object.modified)),
            ..Default::default()
        };
        let contents: Vec<_> = below.map(object).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(contents.len()).ok(),
            name: Some(bucket),
            prefix: Some(prefix),
            contents: Some(contents),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput { bucket, key, .. } = request.input;
        let object = self.find(&bucket, &key, Asked::Head(key.clone()))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: i64::try_from(object.bytes.len()).ok(),
            e_tag: Some(object.etag),
            last_modified: Some(Timestamp::from(object.modified)),
            ..Default::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, if_match, .. } = request.input;
        let wanted = match range {
            Some(s3s::dto::Range::Int { first, last: Some(last) }) => Some(first..last + 1),
            Some(_) => return Err(s3_error!(NotImplemented)),
            None => None,
        };
        let object = self.find(&bucket, &key, Asked::Get(key.clone(), wanted.clone()))?;
        if if_match.is_some_and(|etag| etag != object.etag) {
            return Err(s3_error!(PreconditionFailed));
        }
        let total = object.bytes.len() as u64;
        let Range { start, end } = wanted.clone().unwrap_or(0..total);
        let end = end.min(total);
        if start >= end && total > 0 {
            return Err(s3_error!(InvalidRange));
        }
        let at = |position: u64| usize::try_from(position).expect("it lies within the object");
        let part = object.bytes.slice(at(start)..at(end));
        Ok(S3Response::new(GetObjectOutput {
            content_length: i64::try_from(part.len()).ok(),
            content_range: wanted.map(|_| format!("bytes {start}-{}/{total}", end - 1)),
            e_tag: Some(object.etag),
            last_modified: Some(Timestamp::from(object.modified)),
            body: Some(StreamingBlob::from(Body::from(part))),
            ..Default::default()
        }))
    }
}
