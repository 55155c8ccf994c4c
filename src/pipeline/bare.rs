//! Weights without configs, such as one file, or the folders that mflux saves: their tensors tell which components they
//! are. Reads headers.

use std::{collections::BTreeMap, sync::Arc};

use weightsd_core::{
    family::{self, ComponentSite},
    llama_cpp,
    parts::Located,
    resemblance::Resemblance,
    source::{SourceId, Sources},
    table::{Shard, TENSORS_MAX, Table},
};

use super::LoadError;
use crate::{
    checkpoint::{self, OpenShard, ShardPool, SourceFile},
    lanes::MayBlock,
    progress::Unwatched,
    snapshot::{Snapshot, Told},
};

/// Folders whose headers are read. A model of more folders without configs is none that a family has.
const FOLDERS_MAX: usize = 16;

/// Weights without a config, as far as names and headers go.
struct Bare {
    folder: String,
    file: Option<String>,
    table: Table,
    metadata: BTreeMap<String, String>,
    open: Vec<Arc<OpenShard>>,
}

/// Tells `snapshot` what its weights without configs are: of the family of `base` if they are called so, else what the
/// metadata of a GGUF file say, else of the family that their shapes show. Returns the files whose headers were read: as
/// long as they are held, the pool has them.
///
/// # Errors
/// When the root has several files without a word, or the file that is the model cannot be opened. Files of folders that
/// cannot be used are said when they are loaded.
pub(super) fn tell(
    snapshot: &mut Snapshot,
    base: Option<&Snapshot>,
    pool: &ShardPool,
    may: &MayBlock<'_>,
) -> Result<Vec<Arc<OpenShard>>, LoadError> {
    let mut found = Vec::new();
    if let Some(file) = snapshot.bare_file()? {
        let open = pool.get_or_open(&file, may)?;
        let header = open.header.clone();
        let metadata = header.metadata.clone();
        let shard = Shard { source: SourceId::default(), name: &file.name, header };
        let (table, _) = checkpoint::merge(&file.name, vec![shard], None)?;
        found.push(Bare { folder: String::new(), file: Some(file.name), table, metadata, open: vec![open] });
    }
    let sites: Vec<ComponentSite> = snapshot.bare_sites().cloned().collect();
    if sites.len() <= FOLDERS_MAX {
        let others = sites.iter().filter(|site| found.iter().all(|bare| bare.folder != site.folder));
        let others: Vec<_> = others.collect();
        let mut tensors = 0;
        for site in others {
            // What strangers' files can cost is bounded for all folders together, as it is for one component.
            let Some(bare) = of_folder(snapshot, site, pool, may) else { continue };
            tensors += bare.table.tensors().len();
            if tensors > TENSORS_MAX {
                break;
            }
            found.push(bare);
        }
    }
    let open = found.iter().flat_map(|bare| bare.open.clone()).collect();
    let tables: Vec<&Table> = found.iter().map(|bare| &bare.table).collect();
    let of_base = base.and_then(|base| Some((base.family, family::locate_as(&tables, base.family)?)));
    let described =
        || found.iter().filter(|bare| bare.folder.is_empty()).find_map(|bare| config(&bare.table, &bare.metadata));
    if of_base.is_none()
        && let Some(config) = described()
    {
        snapshot.describe(config)?;
        return Ok(open);
    }
    match of_base.or_else(|| family::locate_all(&tables)) {
        Some((family, located)) => {
            let told = found.into_iter().zip(located).filter(|(bare, located)| is_clear(&bare.folder, located));
            let told = told.map(|(Bare { folder, file, .. }, located)| Told { folder, file, located }).collect();
            snapshot.adopt(family, told);
        }
        None if found.iter().any(|bare| bare.file.is_some()) => {
            snapshot.note_resemblance(Resemblance::of(tables[0]));
        }
        None => {}
    }
    Ok(open)
}

/// The same for one folder of a model that is looked at elsewhere: what its tensors tell, if they are one component's.
pub(super) fn told(
    snapshot: &Snapshot,
    site: &ComponentSite,
    table: &Table,
    metadata: &BTreeMap<String, String>,
    base: Option<&Snapshot>,
) -> Option<Snapshot> {
    snapshot.bare_sites().find(|bare| *bare == site)?;
    let mut snapshot = snapshot.clone();
    let of_base = base.and_then(|base| Some((base.family, family::locate_as(&[table], base.family)?)));
    let described = || config(table, metadata).filter(|_| site.folder.is_empty());
    if of_base.is_none()
        && let Some(config) = described()
    {
        return snapshot.describe(config).is_ok().then_some(snapshot);
    }
    let (family, mut located) = of_base.or_else(|| family::locate_all(&[table]))?;
    let located = located.swap_remove(0);
    if located.parts.len() != 1 {
        return None;
    }
    let folder = site.folder.clone();
    snapshot.adopt(family, vec![Told { folder, file: None, located }]);
    Some(snapshot)
}

/// The `config.json` that the metadata of a file make.
fn config(table: &Table, metadata: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    llama_cpp::config(table, metadata).map(|config| config.to_string().into_bytes())
}

/// Whether the parts can be components: a folder of several would be one component under several names.
fn is_clear(folder: &str, located: &Located) -> bool {
    folder.is_empty() || located.parts.len() == 1
}

/// The tensors of a folder whose files are all here, fit together, and are no more than a component may have.
fn of_folder(snapshot: &Snapshot, site: &ComponentSite, pool: &ShardPool, may: &MayBlock<'_>) -> Option<Bare> {
    let files = Arc::new(snapshot.component(&site.name).ok()?);
    let mut sources: Sources<SourceFile> = Sources::default();
    let opened = checkpoint::open(&files, pool, &Unwatched, &mut sources, may).ok()?;
    let open = sources.iter().map(|source| Arc::clone(&source.open)).collect();
    Some(Bare { folder: site.folder.clone(), file: None, table: opened.table, metadata: opened.metadata, open })
}
