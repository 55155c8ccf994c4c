//! What was written, and where.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    Dtype,
    plan::{Body, FilePlan},
};

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Component it belongs to.
    pub component: String,
    /// Its name.
    pub name: String,
    /// Type of an element.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// File, below [`Written::root`].
    pub file: String,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenFile {
    /// Below [`Written::root`], with `/` between parts.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// A model on disk: a directory, or a snapshot in a cache.
#[derive(Debug, Clone)]
pub struct Written {
    /// The model's directory.
    pub root: PathBuf,
    /// All files: small ones first, then weights.
    pub files: Vec<WrittenFile>,
    /// All tensors, by file and place.
    pub tensors: Vec<Placed>,
}

impl Written {
    pub(crate) fn new(root: &Path, plans: &[FilePlan]) -> Self {
        let files = plans.iter().map(|plan| WrittenFile { path: plan.path.clone(), bytes: plan.bytes() }).collect();
        let mut tensors = Vec::new();
        for plan in plans {
            if let Body::Weights(weights) = &plan.body {
                tensors.extend(weights.tensors.iter().map(|entry| Placed {
                    component: entry.component.clone(),
                    name: entry.tensor.name.clone(),
                    dtype: entry.tensor.dtype,
                    shape: entry.tensor.shape.clone(),
                    file: plan.path.clone(),
                    range: entry.range.clone(),
                }));
            }
        }
        Self { root: root.to_owned(), files, tensors }
    }

    /// The tensors of a component.
    pub fn tensors_of(&self, component: &str) -> impl Iterator<Item = &Placed> {
        self.tensors.iter().filter(move |tensor| tensor.component == component)
    }

    /// The weight files of a component, in shard order.
    #[must_use]
    pub fn weight_files_of(&self, component: &str) -> Vec<PathBuf> {
        let mut files: Vec<&str> = self.tensors_of(component).map(|tensor| tensor.file.as_str()).collect();
        files.dedup();
        files.into_iter().map(|file| self.root.join(file)).collect()
    }

    /// One tensor.
    #[must_use]
    pub fn tensor(&self, component: &str, name: &str) -> Option<&Placed> {
        self.tensors_of(component).find(|tensor| tensor.name == name)
    }

    /// Lengths of all files together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Path of a tensor's file.
    #[must_use]
    pub fn path_of(&self, tensor: &Placed) -> PathBuf {
        self.root.join(&tensor.file)
    }

    /// Reads a tensor's bytes from its file.
    ///
    /// # Errors
    /// When the file is gone or too short.
    pub fn read(&self, tensor: &Placed) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path_of(tensor))?;
        file.seek(SeekFrom::Start(tensor.range.start))?;
        let length = usize::try_from(tensor.range.end - tensor.range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
