//! A request, read from a connection.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpStream,
};

use percent_encoding::percent_decode_str;

const LARGEST_HEAD: usize = 64 << 10;
const LARGEST_BODY: usize = 16 << 20;

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query as they came.
    pub(super) target: String,
    /// The path's segments, each decoded by itself, so that an encoded `/` stays in its segment.
    pub(super) segments: Vec<String>,
    /// The segments with `/` before each.
    pub(super) path: String,
    /// What follows `?`, as it came.
    pub(super) query: String,
    /// By lower-case name; the last of several values.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    /// Whether another request may follow on the connection.
    pub(super) keep_alive: bool,
}

impl Request {
    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// A parameter of the query, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        form_values(&self.query, name).next()
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ").map(str::trim)
    }

    fn parse(head: &[u8]) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(head).map_err(invalid)?;
        let method = parsed.method.unwrap_or_default().to_owned();
        let target = parsed.path.unwrap_or_default().to_owned();
        let keeps = parsed.version == Some(1);
        let headers: BTreeMap<String, String> = parsed
            .headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
            .collect();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let decode = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let segments: Vec<String> = path.strip_prefix('/').unwrap_or(path).split('/').map(decode).collect();
        let path = format!("/{}", segments.join("/"));
        let query = query.to_owned();
        let keep_alive = keeps && headers.get("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"));
        Ok(Self { method, target, segments, path, query, headers, body: Vec::new(), keep_alive })
    }
}

/// Values of a name in `a=1&b=2`.
pub(super) fn form_values<'a>(form: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    form.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
    })
}

/// Reads requests one after the other; keeps what has arrived of the next.
#[derive(Debug, Default)]
pub(super) struct Reader {
    arrived: Vec<u8>,
}

impl Reader {
    /// The next request; `None` when the client has hung up.
    pub(super) fn next(&mut self, stream: &mut TcpStream) -> io::Result<Option<Request>> {
        let head = loop {
            if let Some(end) = self.arrived.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.arrived.len() > LARGEST_HEAD {
                return Err(invalid("the head is too large"));
            }
            if !self.read_more(stream)? {
                return Ok(None);
            }
        };
        let mut request = Request::parse(&self.arrived[..head])?;
        if request.headers.contains_key("transfer-encoding") {
            return Err(invalid("bodies in chunks are not read"));
        }
        let length = request.header("content-length").map_or(Ok(0), str::parse::<usize>).map_err(invalid)?;
        if length > LARGEST_BODY {
            return Err(invalid("the body is too large"));
        }
        if request.header("expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while self.arrived.len() < head + length {
            if !self.read_more(stream)? {
                return Ok(None);
            }
        }
        request.body = self.arrived[head..head + length].to_vec();
        self.arrived.drain(..head + length);
        Ok(Some(request))
    }

    fn read_more(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        let mut buffer = [0; 8 << 10];
        let read = stream.read(&mut buffer)?;
        self.arrived.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded_each_by_itself() {
        let head = b"GET /api/models/o/n/revision/feature%2Fx?expand=a%20b&x HTTP/1.1\r\nHOST: a\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!(request.segments.last().map(String::as_str), Some("feature/x"));
        assert_eq!(request.path, "/api/models/o/n/revision/feature/x");
        assert_eq!(request.parameter("expand").as_deref(), Some("a b"));
        assert_eq!(request.header("host"), Some("a"));
        assert!(request.keep_alive);
    }

    #[test]
    fn empty_segments_stay() {
        let request = Request::parse(b"GET /o/n/resolve/main//etc/x HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(request.segments[4..], ["", "etc", "x"]);
        assert!(!request.keep_alive);
    }
}
