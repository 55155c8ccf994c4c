//! Paths: a directory, or one safetensors or GGUF file.

use std::{fs, io, os::unix::fs::FileTypeExt as _, path::PathBuf};

use weightsd_core::spec::SpecError;

use super::{ModelKind, ResolveError, ResolvedModel, Selector};

pub(super) fn resolve(path: PathBuf, selector: &Selector) -> Result<ResolvedModel, ResolveError> {
    if selector.revision.is_some() {
        return Err(SpecError::RevisionOfPath { path: path.display().to_string() }.into());
    }
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
            ) =>
        {
            return Err(ResolveError::PathNotFound { path });
        }
        Err(source) => return Err(ResolveError::Io { path, source }),
    };
    let file_type = metadata.file_type();
    let is_weights = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf");
    let kind = if file_type.is_dir() {
        ModelKind::Directory
    } else if file_type.is_file() && is_weights {
        ModelKind::File
    } else {
        let found = match () {
            () if file_type.is_file() => "a file of another kind",
            () if file_type.is_fifo() => "a FIFO",
            () if file_type.is_socket() => "a socket",
            () => "a device",
        };
        return Err(ResolveError::NotAModel { path, found });
    };
    Ok(ResolvedModel { kind, dependencies: vec![path.clone()], path, warning: None })
}
