//! What Google and Microsoft say of their stores, as far as readers ask for it: the XML interface of Google Cloud Storage
//! (<https://cloud.google.com/storage/docs/xml-api/overview>), and the REST interface of Azure Blob Storage
//! (<https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>). Neither has a server that could be had here.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, LAST_MODIFIED, RANGE},
};
use percent_encoding::percent_decode_str;
use s3s::dto::{Timestamp, TimestampFormat};

use crate::{
    BUCKET, KEY_ID, Protocol, SECRET,
    store::{Asked, Object, Shared},
};

/// Objects of a page of a listing; the stores themselves have some thousands.
const PAGE_OBJECTS: usize = 3;

/// A store of Google's or Microsoft's.
#[derive(Debug, Clone)]
pub(crate) struct Cloud {
    pub(crate) protocol: Protocol,
    pub(crate) shared: Arc<Mutex<Shared>>,
}

type Answer = Response<Full<Bytes>>;

/// Why there is no answer: the status, and the store's own name for the reason.
type Refusal = (StatusCode, &'static str);

impl Cloud {
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Answer {
        self.try_answer(request).unwrap_or_else(|(status, code)| {
            let text = format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>");
            let mut answer = Response::new(Full::from(text));
            *answer.status_mut() = status;
            answer
        })
    }

    fn try_answer<B>(&self, request: &Request<B>) -> Result<Answer, Refusal> {
        let query = query(request.uri().query().unwrap_or_default());
        self.admit(request.headers(), &query)?;
        let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let range = request.headers().get(RANGE).and_then(|range| bounds(range.to_str().ok()?));
        let asked = match (key, request.method()) {
            ("", _) => Asked::List(of(&query, "prefix").to_owned()),
            (_, &Method::HEAD) => Asked::Head(key.to_owned()),
            _ => Asked::Get(key.to_owned(), range.clone()),
        };
        shared.asked.push(asked);
        if bucket != BUCKET {
            let code = if self.protocol == Protocol::Az { "ContainerNotFound" } else { "NoSuchBucket" };
            return Err((StatusCode::NOT_FOUND, code));
        }
        if key.is_empty() {
            return Ok(Response::new(Full::from(self.listing(&shared, &query))));
        }
        let object = shared.objects.get(key).cloned();
        let unknown = if self.protocol == Protocol::Az { "BlobNotFound" } else { "NoSuchKey" };
        let object = object.ok_or((StatusCode::NOT_FOUND, unknown))?;
        if request.headers().get(IF_MATCH).is_some_and(|etag| etag.as_bytes() != object.etag.as_bytes()) {
            let code = if self.protocol == Protocol::Az { "ConditionNotMet" } else { "PreconditionFailed" };
            return Err((StatusCode::PRECONDITION_FAILED, code));
        }
        content(&object, range, request.method() == Method::HEAD)
    }

    /// Google's clients sign a token, which names who signed it; a shared access signature of Azure's is part of each address.
    fn admit(&self, headers: &HeaderMap, query: &[(String, String)]) -> Result<(), Refusal> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match self.protocol {
            Protocol::Az if of(query, "sig") == SECRET => Ok(()),
            Protocol::Az if of(query, "sig").is_empty() => {
                Err((StatusCode::UNAUTHORIZED, "NoAuthenticationInformation"))
            }
            Protocol::Az => Err((StatusCode::FORBIDDEN, "AuthenticationFailed")),
            _ if bearer.is_some_and(is_of_the_account) => Ok(()),
            _ => Err((StatusCode::UNAUTHORIZED, "AuthenticationRequired")),
        }
    }

    fn listing(&self, shared: &Shared, query: &[(String, String)]) -> String {
        let prefix = of(query, "prefix");
        let is_azure = self.protocol == Protocol::Az;
        let from = of(query, if is_azure { "marker" } else { "continuation-token" });
        let mut objects = shared.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() >= from);
        let page: Vec<_> = objects.by_ref().take(PAGE_OBJECTS).collect();
        let next = objects.next().map(|(key, _)| escaped(key)).unwrap_or_default();
        let entry = |(key, object): &(&String, &Object)| {
            // Microsoft's listings have etags without the quotes of headers.
            let etag = if is_azure { object.etag.trim_matches('"') } else { &object.etag };
            let (key, etag, size) = (escaped(key), escaped(etag), object.bytes.len());
            let modified = at(object, if is_azure { TimestampFormat::HttpDate } else { TimestampFormat::DateTime });
            match is_azure {
                true => format!(
                    "<Blob><Name>{key}</Name><Properties><Last-Modified>{modified}</Last-Modified><Etag>{etag}</Etag>\
                     <Content-Length>{size}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
                     <Content-Encoding /><Content-Language /><Content-MD5 /><BlobType>BlockBlob</BlobType>\
                     </Properties></Blob>"
                ),
                false => format!(
                    "<Contents><Key>{key}</Key><Generation>1790000000000000</Generation><MetaGeneration>1</MetaGeneration>\
                     <LastModified>{modified}</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>"
                ),
            }
        };
        let entries: String = page.iter().map(entry).collect();
        let head = "<?xml version='1.0' encoding='UTF-8'?>";
        let prefix = escaped(prefix);
        match is_azure {
            true => format!(
                "{head}<EnumerationResults ServiceEndpoint='http://127.0.0.1/' ContainerName='{BUCKET}'>\
                 <Prefix>{prefix}</Prefix><Blobs>{entries}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
            ),
            false => {
                let token = match next.as_str() {
                    "" => String::new(),
                    next => format!("<NextContinuationToken>{next}</NextContinuationToken>"),
                };
                format!(
                    "{head}<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{BUCKET}</Name>\
                     <Prefix>{prefix}</Prefix><IsTruncated>{}</IsTruncated>{token}{entries}</ListBucketResult>",
                    !next.is_empty()
                )
            }
        }
    }
}

/// An object, or a range of it.
fn content(object: &Object, range: Option<Range<u64>>, is_head: bool) -> Result<Answer, Refusal> {
    let total = object.bytes.len() as u64;
    let found = range.clone().unwrap_or(0..total);
    let found = found.start..found.end.min(total);
    if found.start >= found.end && total > 0 {
        return Err((StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"));
    }
    let position = |position: u64| usize::try_from(position).expect("it lies within the object");
    let part = object.bytes.slice(position(found.start)..position(found.end));
    let mut answer = Response::builder()
        .header(ETAG, &object.etag)
        .header(LAST_MODIFIED, at(object, TimestampFormat::HttpDate))
        .header(CONTENT_LENGTH, part.len());
    if range.is_some() {
        let range = format!("bytes {}-{}/{total}", found.start, found.end - 1);
        answer = answer.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, range);
    }
    let body = if is_head { Bytes::new() } else { part };
    Ok(answer.body(Full::from(body)).expect("numbers and times can be headers"))
}

/// Whether a token says that [`KEY_ID`] signed it. Its signature is not looked at.
fn is_of_the_account(token: &str) -> bool {
    let claims = token.split('.').nth(1).and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|claims| String::from_utf8(claims).ok()).unwrap_or_default();
    claims.contains(&format!("\"iss\":\"{KEY_ID}\""))
}

/// `bytes=2-4` as `2..5`.
pub(crate) fn bounds(header: &str) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1))
}

fn at(object: &Object, format: TimestampFormat) -> String {
    let mut text = Vec::new();
    Timestamp::from(object.modified).format(format, &mut text).expect("it is a time of this machine");
    String::from_utf8(text).expect("times are ASCII")
}

fn query(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (decoded(name), decoded(value)));
    text.split('&').filter_map(pair).collect()
}

fn of<'a>(query: &'a [(String, String)], name: &str) -> &'a str {
    query.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
