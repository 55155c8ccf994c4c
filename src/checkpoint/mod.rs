//! Third stage: the shards of a component are opened, their headers read and checked, and compared with the index.
//! Reads the headers, the marks of quantised layers ([`MARK_SUFFIX`]), and not a byte more.

mod pool;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

pub use self::pool::ShardPool;
use crate::{
    assembly::Tensors,
    disk,
    lanes::{HeldFile, MayBlock},
    progress::{Phase, Step, Watcher},
    snapshot::{ComponentFiles, ShardFile},
    turn::in_turn,
};
use weightsd_core::{
    explain::{Explain, Explanation, Reason},
    gguf::{self, GgufError, Parsed},
    header::{self, Dtype, Header, HeaderError, PREFIX_BYTES},
    identity::ContentKey,
    index::Index,
    llama_cpp,
    quantisation::{MARK_BYTES_MAX, MARK_SUFFIX, MarkError},
    source::{SourceId, Sources},
    table::{Shard, TENSORS_MAX, Table, TableError},
    weight_name::Format,
};

/// Most bytes of marks that are read of one file. Real files have some hundred marks of less than 100 bytes.
const MARKS_BYTES_MAX: u64 = 16 << 20;

/// A weight file, held open, with its checked header.
#[derive(Debug)]
pub struct OpenShard {
    /// The file.
    pub file: HeldFile,
    /// Its header.
    pub header: Header,
    /// What its marks of quantised layers say, by the names of the tensors.
    pub marks: BTreeMap<Box<str>, Arc<[u8]>>,
    /// The same content in a file that nobody writes to, where the file can change and its file system can clone.
    pub clone: Option<HeldFile>,
}

/// A file that a component is read from, held open.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The file as it was listed.
    pub file: ShardFile,
    /// The file, open.
    pub open: Arc<OpenShard>,
}

/// The opened shards of a component. Each is one of the sources.
#[derive(Debug)]
pub struct Checkpoint {
    /// The files.
    pub files: Arc<ComponentFiles>,
    /// All their tensors.
    pub table: Table,
    /// `__metadata__` of all shards.
    pub metadata: BTreeMap<String, String>,
    /// What is untidy and refuses nothing.
    pub remarks: Vec<String>,
}

/// The rule that a header breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokenHeader {
    /// A rule of safetensors.
    #[error(transparent)]
    Safetensors(#[from] HeaderError),
    /// A rule of GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

impl BrokenHeader {
    /// What people call the format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        match self {
            Self::Safetensors(_) => "safetensors",
            Self::Gguf(_) => "GGUF",
        }
    }
}

impl Explain for BrokenHeader {
    fn explain(&self) -> Explanation {
        match self {
            Self::Safetensors(error) => error.explain(),
            Self::Gguf(error) => error.explain(),
        }
    }
}

/// Why shards cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file that breaks the format.
    #[error("`{}` is not a usable {} file", path.display(), source.format())]
    Header {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        #[source]
        source: BrokenHeader,
    },
    /// Shards that contradict each other or the index.
    #[error("the shards of `{component}` do not fit together")]
    Table {
        /// The component.
        component: String,
        /// How.
        #[source]
        source: TableError,
    },
    /// A list of quantised layers that cannot be read.
    #[error("the list of quantised layers in the metadata of `{component}` cannot be used")]
    List {
        /// The component.
        component: String,
        /// Why not.
        #[source]
        source: MarkError,
    },
    /// A file that changed while it was opened.
    #[error("`{}` changed while it was being opened", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Nobody waits any more.
    #[error("the load was given up, because nobody waits for it")]
    Abandoned,
    /// The system refused.
    #[error("cannot open `{}`", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for CheckpointError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Header { path, source } => Explanation { resource: path.display().to_string(), ..source.explain() },
            Self::Table { component, .. } => {
                let hint = "files of different downloads were mixed: `weightsd verify` tells which, `weightsd pull` fetches them";
                Explanation::new(Reason::IndexMismatch, component, hint)
            }
            Self::List { component, .. } => {
                let hint = "the file is damaged: fetch it again, or save it anew";
                Explanation::new(Reason::InvalidCheckpoint, component, hint)
            }
            Self::Changed { path } => {
                let hint = "somebody writes to it; try again later";
                Explanation::new(Reason::FileChanged, path.display().to_string(), hint)
            }
            Self::Abandoned => Explanation::new(Reason::Abandoned, "", "ask again"),
            Self::Io { path, source } => disk::explain(path, source),
        }
    }
}

/// Opens the shards of `files`, or takes them from `pool` where they are open already, and adds them to `sources`.
///
/// # Errors
/// When a file cannot be opened or breaks the format, the shards contradict each other or their index, or nobody waits.
pub fn open(
    files: &Arc<ComponentFiles>,
    pool: &ShardPool,
    watcher: &dyn Watcher,
    sources: &mut Sources<SourceFile>,
    may: &MayBlock<'_>,
) -> Result<Checkpoint, CheckpointError> {
    if files.shards.is_empty() {
        let files = Arc::clone(files);
        return Ok(Checkpoint { files, table: Table::default(), metadata: BTreeMap::new(), remarks: Vec::new() });
    }
    let bytes_total = files.shards.iter().map(|shard| shard.identity.length).sum();
    let mut step = Step { phase: Phase::Open, files_total: files.shards.len(), bytes_total, ..Step::default() };
    let table_error = |source| CheckpointError::Table { component: files.site.name.clone(), source };
    let mut shards = Vec::with_capacity(files.shards.len());
    let mut tensors = 0;
    for shard in &files.shards {
        if watcher.is_abandoned() {
            return Err(CheckpointError::Abandoned);
        }
        step.file.clone_from(&shard.name);
        watcher.step(&step);
        let open = pool.get_or_open(shard, may)?;
        may.alive();
        tensors += open.header.tensors.len();
        if tensors > TENSORS_MAX {
            return Err(table_error(TableError::TooManyTensors));
        }
        let source = sources.add(SourceFile { file: shard.clone(), open: Arc::clone(&open) });
        shards.push(Shard { source, name: &shard.name, header: open.header.clone() });
        step.files_done += 1;
        step.bytes_done += shard.identity.length;
    }
    watcher.step(&step);
    let metadata = shards.iter().flat_map(|shard| shard.header.metadata.clone()).collect();
    let numbers: Vec<SourceId> = shards.iter().map(|shard| shard.source).collect();
    let (mut table, remarks) = merge(&files.site.name, shards, files.index.as_ref())?;
    for number in numbers {
        let marks = &sources[number].open.marks;
        if !marks.is_empty() {
            table.add_marks(number, |name| marks.get(name).cloned());
        }
    }
    Ok(Checkpoint { files: Arc::clone(files), table, metadata, remarks })
}

impl Checkpoint {
    /// What the next stage works with.
    #[must_use]
    pub fn tensors(&self) -> Tensors<'_> {
        Tensors { table: &self.table, metadata: &self.metadata, remarks: self.remarks.clone() }
    }
}

/// The tensors of a component's shards under the names of transformers, where they are llama.cpp's, compared with its index; beside them what is untidy and refuses nothing.
///
/// # Errors
/// When two shards hold a tensor of one name, the index lists one that its shard does not hold, or the metadata's list of
/// quantised layers cannot be read.
pub fn merge(
    component: &str,
    shards: Vec<Shard<'_>>,
    index: Option<&Index>,
) -> Result<(Table, Vec<String>), CheckpointError> {
    let error = |source| CheckpointError::Table { component: component.to_owned(), source };
    let names = shards.iter().map(|shard| (shard.source, shard.name)).collect();
    let metadata = shards.iter().flat_map(|shard| shard.header.metadata.clone()).collect();
    let mut table = Table::merge(shards).map_err(error)?;
    let mut remarks = match index {
        Some(index) => table.compare(index, &names).map_err(error)?,
        None => Vec::new(),
    };
    let list_error = |source| CheckpointError::List { component: component.to_owned(), source };
    if let Some((count, sample)) = table.add_list(&metadata).map_err(list_error)? {
        remarks.push(format!(
            "the metadata list {count} quantised layers that the file does not hold, such as `{sample}`"
        ));
    }
    let (table, translated) = llama_cpp::translated(table, &metadata);
    remarks.extend(translated);
    Ok((table, remarks))
}

/// Opens one file and checks its header.
///
/// # Errors
/// When the file cannot be opened or breaks the format.
fn open_file(path: PathBuf, format: Format, may: &MayBlock<'_>) -> Result<OpenShard, CheckpointError> {
    let file = HeldFile::open(&path, may).map_err(|source| CheckpointError::Io { path: path.clone(), source })?;
    let header = match format {
        Format::Safetensors => read_header(&file)?,
        Format::Gguf => read_gguf_header(&file)?,
    };
    let marks = read_marks(&file, &header)?;
    Ok(OpenShard { file, header, marks, clone: None })
}

/// Reads what the marks of quantised layers say. Marks that are too long, or too many, are left out, and nothing is computed
/// from their layers.
fn read_marks(file: &HeldFile, header: &Header) -> Result<BTreeMap<Box<str>, Arc<[u8]>>, CheckpointError> {
    let mut marks = BTreeMap::new();
    let mut left = MARKS_BYTES_MAX;
    let is_mark = |info: &&header::TensorInfo| info.dtype == Dtype::U8 && info.name.ends_with(MARK_SUFFIX);
    for info in header.tensors.iter().filter(is_mark) {
        let Ok(length) = usize::try_from(info.bytes()) else { continue };
        if length > MARK_BYTES_MAX || info.bytes() > left {
            continue;
        }
        left -= info.bytes();
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, info.range.start).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => CheckpointError::Changed { path: file.path().to_owned() },
            _ => CheckpointError::Io { path: file.path().to_owned(), source },
        })?;
        marks.insert(info.name.clone(), bytes.into());
    }
    Ok(marks)
}

fn open_shard(shard: &ShardFile, may: &MayBlock<'_>) -> Result<OpenShard, CheckpointError> {
    let mut open = open_file(shard.path.clone(), Format::of(&shard.name), may)?;
    if *open.file.identity() != shard.identity {
        return Err(CheckpointError::Changed { path: shard.path.clone() });
    }
    if matches!(shard.content, ContentKey::File(_)) {
        may.alive();
        let error = |source| CheckpointError::Io { path: shard.path.clone(), source };
        open.clone = open.file.cloned(may).map_err(error)?;
    }
    Ok(open)
}

/// Reads bytes of a header.
fn read(file: &HeldFile, buffer: &mut [u8], offset: u64) -> Result<(), CheckpointError> {
    let path = file.path();
    file.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
        // Shorter than it was a moment ago.
        io::ErrorKind::UnexpectedEof => CheckpointError::Changed { path: path.to_owned() },
        _ => CheckpointError::Io { path: path.to_owned(), source },
    })
}

fn read_header(file: &HeldFile) -> Result<Header, CheckpointError> {
    let path = file.path();
    let length = file.identity().length;
    let bad = |source: HeaderError| CheckpointError::Header { path: path.to_owned(), source: source.into() };
    if length < PREFIX_BYTES {
        return Err(bad(HeaderError::FileTooShort { found: length }));
    }
    let mut prefix = [0; 8];
    read(file, &mut prefix, 0)?;
    let json_length = header::header_length(prefix, length).map_err(bad)?;
    in_turn(file.identity().device, json_length as u64, || {
        let mut json = vec![0; json_length];
        read(file, &mut json, PREFIX_BYTES)?;
        Header::parse(&json, length).map_err(bad)
    })
}

/// Reads the header of a GGUF file, which shows its own length only at its end: each time twice as much.
fn read_gguf_header(file: &HeldFile) -> Result<Header, CheckpointError> {
    let length = file.identity().length;
    let bad = |source: GgufError| CheckpointError::Header { path: file.path().to_owned(), source: source.into() };
    let more = |bytes: &mut Vec<u8>, wanted: u64| -> Result<Parsed, CheckpointError> {
        let have = bytes.len();
        bytes.resize(usize::try_from(wanted).expect("no longer than a header that is read"), 0);
        read(file, &mut bytes[have..], have as u64)?;
        gguf::parse(bytes, length).map_err(bad)
    };
    let mut bytes = Vec::new();
    let mut wanted = gguf::FIRST_BYTES.min(length);
    let mut parsed = more(&mut bytes, wanted)?;
    if let Parsed::Header(header) = parsed {
        return Ok(header);
    }
    // Vocabularies take tens of megabytes, so they are read one after the other.
    in_turn(file.identity().device, gguf::HEADER_BYTES_MAX, move || {
        loop {
            match parsed {
                Parsed::Header(header) => return Ok(header),
                Parsed::More(needed) => wanted = needed.max(2 * wanted).min(length),
            }
            parsed = more(&mut bytes, wanted)?;
        }
    })
}
