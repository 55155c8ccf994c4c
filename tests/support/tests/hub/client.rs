//! As much of a client as it takes to see what is on the wire.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// How the body of an answer came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// As its framing says.
    Whole,
    /// The connection ended before.
    Early,
    /// The connection was reset.
    Reset,
    /// Nothing came any more.
    Silent,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: End,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// What no honest answer takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// After which a hub that is to be silent counts as silent.
const SILENCE: Duration = Duration::from_millis(300);

/// A connection that is kept.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    /// To the host of a URL.
    pub(crate) fn connect(url: &str) -> io::Result<Self> {
        Self::connect_for(url, PATIENCE)
    }

    fn connect_for(url: &str, patience: Duration) -> io::Result<Self> {
        let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
        let stream = TcpStream::connect(&host)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::with_capacity(4096, stream), host })
    }

    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Answer> {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer(method == "HEAD")
    }

    fn answer(&mut self, is_head: bool) -> io::Result<Answer> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut headers = BTreeMap::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = Vec::new();
        let end = if is_head || status == 304 { Ok(End::Whole) } else { self.body(&headers, &mut body) };
        let end = end.or_else(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(End::Early),
            io::ErrorKind::ConnectionReset => Ok(End::Reset),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(End::Silent),
            _ => Err(error),
        })?;
        Ok(Answer { status, headers, body, end })
    }

    fn body(&mut self, headers: &BTreeMap<String, String>, body: &mut Vec<u8>) -> io::Result<End> {
        if headers.contains_key("transfer-encoding") {
            loop {
                let length = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                self.exactly(length, body)?;
                self.line()?;
                if length == 0 {
                    return Ok(End::Whole);
                }
            }
        }
        match headers.get("content-length") {
            Some(length) => self.exactly(length.parse().map_err(io::Error::other)?, body)?,
            None => {
                self.stream.read_to_end(body)?;
            }
        }
        Ok(End::Whole)
    }

    fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut left = length;
        while left > 0 {
            let part = left.min(buffer.len());
            let read = self.stream.read(&mut buffer[..part])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            body.extend_from_slice(&buffer[..read]);
            left -= read;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// One request on a connection of its own, by URL.
pub(crate) fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    Client::connect(url)?.ask(method, &target(url), headers, "")
}

/// `GET` of a URL from which soon nothing more is to come.
pub(crate) fn get_silence(url: &str) -> io::Result<Answer> {
    Client::connect_for(url, SILENCE)?.ask("GET", &target(url), &[], "")
}

fn target(url: &str) -> String {
    format!("/{}", url.splitn(4, '/').nth(3).unwrap_or_default())
}

/// `GET` of a URL.
pub(crate) fn get(url: &str) -> io::Result<Answer> {
    ask("GET", url, &[])
}

/// `HEAD` of a URL.
pub(crate) fn head(url: &str) -> io::Result<Answer> {
    ask("HEAD", url, &[])
}
