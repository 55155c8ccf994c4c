//! hf-hub without the Xet protocol. The crate of this name on crates.io is a client of Hugging Face's storage, with
//! seventy crates under it; weightsd downloads over plain HTTP, with its own rules (`src/snapshot/fetch`), and calls
//! nothing of hf-hub that transfers files.
//!
//! So a session of Xet cannot exist here: its types have no values, and asking for one is an error that says so.
//! Everything that hf-hub would do with a session compiles, and none of it can be reached.

#![forbid(unsafe_code)]
// hf-hub calls these by the names and with the arguments of the crate that this one stands in for.
#![allow(missing_docs, clippy::missing_errors_doc, clippy::unused_async, reason = "the interface is another crate's")]

pub mod error {
    //! What hf-hub is told.

    /// Why there is no session.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
    #[error("this build of hf-hub has no Xet protocol: files come over plain HTTP")]
    pub struct XetError;
}

pub mod xet_session {
    //! Sessions. There are none.

    use std::{collections::HashMap, future::Future, ops::Range, path::PathBuf};

    use bytes::Bytes;

    use crate::error::XetError;

    type Result<T> = std::result::Result<T, XetError>;

    /// What does not exist.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    enum Never {}

    /// Types without values.
    macro_rules! absent {
        ($($(#[$attribute:meta])* $name:ident,)*) => {
            $($(#[$attribute])* #[derive(Debug, Clone, PartialEq, Eq, Hash)] pub struct $name(Never);)*
        };
    }

    absent! {
        XetSession,
        XetUploadCommitBuilder,
        XetUploadCommit,
        XetFileUpload,
        XetStreamUpload,
        XetFileDownloadGroupBuilder,
        XetFileDownloadGroup,
        XetFileDownload,
        XetDownloadStreamGroupBuilder,
        XetDownloadStreamGroup,
        XetDownloadStream,
        UniqueId,
    }

    /// What would make a session.
    #[derive(Debug, Default)]
    pub struct XetSessionBuilder;

    impl XetSessionBuilder {
        #[must_use]
        pub fn new() -> Self {
            Self
        }

        /// There is no session.
        pub fn build(self) -> Result<XetSession> {
            Err(XetError)
        }
    }

    impl XetSession {
        pub fn new_upload_commit(&self) -> Result<XetUploadCommitBuilder> {
            match self.0 {}
        }

        pub fn new_file_download_group(&self) -> Result<XetFileDownloadGroupBuilder> {
            match self.0 {}
        }

        pub fn new_download_stream_group(&self) -> Result<XetDownloadStreamGroupBuilder> {
            match self.0 {}
        }
    }

    /// Builders have the same settings.
    macro_rules! builders {
        ($($builder:ident => $built:ident,)*) => {$(
            impl $builder {
                #[must_use]
                pub fn with_endpoint(self, _: String) -> Self {
                    self
                }

                #[must_use]
                pub fn with_token_info(self, _: String, _: u64) -> Self {
                    self
                }

                #[must_use]
                pub fn with_token_refresh_url<Headers>(self, _: String, _: Headers) -> Self {
                    self
                }

                pub async fn build(self) -> Result<$built> {
                    match self.0 {}
                }
            }
        )*};
    }

    builders! {
        XetUploadCommitBuilder => XetUploadCommit,
        XetFileDownloadGroupBuilder => XetFileDownloadGroup,
        XetDownloadStreamGroupBuilder => XetDownloadStreamGroup,
    }

    impl XetUploadCommit {
        pub async fn upload_from_path(&self, _: PathBuf, _: Sha256Policy) -> Result<XetFileUpload> {
            match self.0 {}
        }

        pub async fn upload_bytes(&self, _: Vec<u8>, _: Sha256Policy, _: Option<String>) -> Result<XetFileUpload> {
            match self.0 {}
        }

        pub async fn upload_stream(&self, _: Option<String>, _: Sha256Policy) -> Result<XetStreamUpload> {
            match self.0 {}
        }

        #[must_use]
        pub fn progress(&self) -> GroupProgressReport {
            match self.0 {}
        }

        pub async fn commit(self) -> Result<XetCommitReport> {
            match self.0 {}
        }
    }

    impl XetFileUpload {
        #[must_use]
        pub fn task_id(&self) -> UniqueId {
            match self.0 {}
        }

        #[must_use]
        pub fn progress(&self) -> Option<ItemProgressReport> {
            match self.0 {}
        }
    }

    impl XetStreamUpload {
        #[must_use]
        pub fn progress(&self) -> Option<ItemProgressReport> {
            match self.0 {}
        }

        pub async fn write(&self, _: Bytes) -> Result<()> {
            match self.0 {}
        }

        pub async fn finish(&self) -> Result<XetFileMetadata> {
            match self.0 {}
        }
    }

    impl XetFileDownloadGroup {
        pub async fn download_file_to_path(&self, _: XetFileInfo, _: PathBuf) -> Result<XetFileDownload> {
            match self.0 {}
        }

        #[must_use]
        pub fn progress(&self) -> GroupProgressReport {
            match self.0 {}
        }

        pub async fn finish(self) -> Result<()> {
            match self.0 {}
        }
    }

    impl XetFileDownload {
        #[must_use]
        pub fn result(&self) -> Option<()> {
            match self.0 {}
        }

        #[must_use]
        pub fn progress(&self) -> Option<ItemProgressReport> {
            match self.0 {}
        }
    }

    impl XetDownloadStreamGroup {
        pub fn download_stream(
            &self,
            _: XetFileInfo,
            _: Option<Range<u64>>,
        ) -> impl Future<Output = Result<XetDownloadStream>> + Send + use<> {
            let never = self.0;
            async move { match never {} }
        }
    }

    impl XetDownloadStream {
        pub fn start(&mut self) {
            match self.0 {}
        }

        pub async fn next(&mut self) -> Result<Option<Bytes>> {
            match self.0 {}
        }
    }

    /// Who hashes what is uploaded.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Sha256Policy {
        Compute,
    }

    /// A file in Xet's storage.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct XetFileInfo {
        pub hash: String,
        pub file_size: Option<u64>,
    }

    impl XetFileInfo {
        #[must_use]
        pub fn new(hash: String, file_size: u64) -> Self {
            Self { hash, file_size: Some(file_size) }
        }

        #[must_use]
        pub fn hash(&self) -> &str {
            &self.hash
        }
    }

    /// What an upload leaves behind.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct XetFileMetadata {
        pub xet_info: XetFileInfo,
    }

    /// What a commit leaves behind.
    #[derive(Debug, Clone)]
    pub struct XetCommitReport {
        pub progress: GroupProgressReport,
        pub uploads: HashMap<UniqueId, XetFileMetadata>,
    }

    /// How far one file is.
    #[derive(Debug, Clone)]
    pub struct ItemProgressReport {
        pub item_name: String,
        pub bytes_completed: u64,
        pub total_bytes: u64,
    }

    /// How far all files are.
    #[derive(Debug, Clone)]
    pub struct GroupProgressReport {
        pub total_bytes_completed: u64,
        pub total_bytes: u64,
        pub total_bytes_completion_rate: Option<f64>,
        pub total_transfer_bytes_completed: u64,
        pub total_transfer_bytes: u64,
        pub total_transfer_bytes_completion_rate: Option<f64>,
    }
}
