//! The content of a file on its way.

use std::{fmt, time::Duration};

use bytes::Bytes;
use weightsd_core::listing::BlobName;

use super::{SourceError, SourceProblem, Words};

/// The bytes of a content, in the pieces in which they come.
#[async_trait::async_trait]
pub trait Body: Send {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, with what is known of it.
    async fn piece(&mut self) -> Result<Option<Bytes>, String>;
}

/// A file, or a range of it, whose body has not been read yet.
pub struct Content {
    /// The blob that it is, if the source says so in a way that is understood.
    pub blob: Option<BlobName>,
    /// The commit that it belongs to, if the source says so.
    pub commit: Option<String>,
    /// The first byte of the body in the file.
    pub offset: u64,
    /// Length of the whole file, if the answer says it.
    pub total: Option<u64>,
    /// What names this content on the host that sends it, so that the rest can be asked for.
    pub validator: Option<String>,
    /// The host that sends the body.
    pub host: String,
    /// How messages speak of the source.
    pub words: &'static Words,
    /// The body.
    pub body: Box<dyn Body>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("host", &self.host).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Content {
    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks, or stays silent for `stall`.
    pub async fn chunk(&mut self, stall: Duration) -> Result<Option<Bytes>, SourceError> {
        match tokio::time::timeout(stall, self.body.piece()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(problem)) => {
                Err(self.unreachable(format!("the connection broke while the content came: {problem}")))
            }
            Err(_) => Err(self.unreachable(format!("nothing came for {stall:?}"))),
        }
    }

    fn unreachable(&self, problem: String) -> SourceError {
        self.words.error(SourceProblem::Unreachable { host: self.host.clone(), problem })
    }

    /// The whole body, when it has `max` bytes at most.
    ///
    /// # Errors
    /// As [`Self::chunk`], and when the body is longer.
    pub async fn bytes_to_end(&mut self, max: u64, stall: Duration) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(stall).await? {
            if (bytes.len() + chunk.len()) as u64 > max {
                let problem = format!("it is longer than the {max} bytes that are read");
                return Err(self.words.error(SourceProblem::Malformed { host: self.host.clone(), problem }));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The next `length` bytes of the body. What a host sends beyond that is not read.
    ///
    /// # Errors
    /// As [`Self::chunk`], and when the body ends before.
    pub async fn bytes(&mut self, length: u64, stall: Duration) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let Some(chunk) = self.chunk(stall).await? else {
                let problem = format!("the content ended after {} of {length} bytes", bytes.len());
                return Err(self.unreachable(problem));
            };
            let wanted = usize::try_from(length - bytes.len() as u64).unwrap_or(usize::MAX);
            bytes.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
        }
        Ok(bytes)
    }
}
