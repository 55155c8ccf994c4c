//! A model that is inspected on the hub: its listing, its small JSON files and the headers of its weights are fetched,
//! a few hundred kilobytes at any size, and nothing is kept.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::try_join_all;
use weightsd_core::{
    explain::{Explain, Explanation},
    family::{CONFIG_BYTES_MAX, ComponentSite},
    gguf::{self, GgufError, Parsed},
    header::{self, Header, HeaderError, PREFIX_BYTES},
    index::{INDEX_BYTES_MAX, Index},
    listing::{Listed, Listing},
    select::WeightFiles,
    weight_name::Format,
};

use super::{
    FetchError, Fetcher, Snapshot, SnapshotError,
    fetch::Place,
    hash::{BlobHasher, Hashed},
};
use crate::{
    lanes::{Kind, MayBlock},
    resolve::{Choice, Pin, RepoAddress},
    source::ByteRange,
};

/// Bytes of a weight file that are asked for first: most headers fit.
const FIRST_BYTES: u64 = 128 * 1024;

/// A commit that is not on this machine, or not as a whole.
#[derive(Debug)]
pub struct Remote {
    /// Its files, by the listing and the small JSON files.
    pub snapshot: Arc<Snapshot>,
    address: RepoAddress,
    pin: Pin,
    listing: Arc<Listing>,
    place: Place,
}

/// A component that is not on this machine, or not as a whole.
#[derive(Debug)]
pub struct RemoteComponent {
    /// Where it is.
    pub site: ComponentSite,
    /// The index, when there is one.
    pub index: Option<Index>,
    /// Its weight files, in shard order.
    pub shards: Vec<(String, Listed)>,
}

/// Why the headers of a remote component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It does not come.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file that breaks the format.
    #[error("`{file}` of `{repo}` is not a usable safetensors file")]
    Header {
        /// The file.
        file: String,
        /// The repository.
        repo: String,
        /// The rule that it breaks.
        #[source]
        source: HeaderError,
    },
    /// A GGUF file that breaks the format.
    #[error("`{file}` of `{repo}` is not a usable GGUF file")]
    GgufHeader {
        /// The file.
        file: String,
        /// The repository.
        repo: String,
        /// The rule that it breaks.
        #[source]
        source: GgufError,
    },
}

impl Explain for RemoteError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Fetch(error) => error.explain(),
            Self::Header { file, source, .. } => Explanation { resource: file.clone(), ..source.explain() },
            Self::GgufHeader { file, source, .. } => Explanation { resource: file.clone(), ..source.explain() },
        }
    }
}

impl From<SnapshotError> for RemoteError {
    fn from(error: SnapshotError) -> Self {
        Self::Fetch(error.into())
    }
}

impl Remote {
    /// Looks at a commit.
    ///
    /// # Errors
    /// When the source gives no listing or a small file of it, or when they do not describe a model.
    pub async fn look(
        fetcher: &Fetcher,
        address: &RepoAddress,
        pin: &Pin,
        choice: &Choice,
    ) -> Result<Self, FetchError> {
        let listing = fetcher.listing(address, &pin.commit).await?;
        let (address, pin) = (address.clone(), pin.clone());
        let place = fetcher.place(&address, None).await?;
        let snapshot = |documents| list((&address, &place), &pin, choice, &listing, documents);
        let missing = snapshot(BTreeMap::new()).await?.missing_documents;
        let fetch = async |name: &String| {
            let listed = listing.get(name).filter(|listed| listed.bytes <= CONFIG_BYTES_MAX);
            match listed {
                Some(listed) => Ok(Some((name.clone(), small_file((&address, &place), &pin, name, listed).await?))),
                None => Ok::<_, FetchError>(None),
            }
        };
        let documents = try_join_all(missing.iter().map(fetch)).await?.into_iter().flatten().collect();
        let snapshot = Arc::new(snapshot(documents).await?);
        Ok(Self { snapshot, address, pin, listing, place })
    }

    /// The files of a component.
    ///
    /// # Errors
    /// When the model has no such component, when its weights cannot be chosen, and when its index does not come or
    /// lists a file that the commit does not have.
    pub async fn component(&self, name: &str) -> Result<RemoteComponent, FetchError> {
        let site = self.snapshot.site(name)?.clone();
        let (index, names) = match self.snapshot.select(&site)? {
            WeightFiles::Files(names) => (None, names),
            WeightFiles::Index(chosen) => {
                let path = chosen.path.clone();
                let listed = self.listed(&path, &site, &[])?;
                if listed.bytes > INDEX_BYTES_MAX {
                    let (found, max) = (listed.bytes, INDEX_BYTES_MAX);
                    return Err(SnapshotError::TooLarge { path: path.into(), found, max }.into());
                }
                let bytes = small_file((&self.address, &self.place), &self.pin, &path, &listed).await?;
                let index = Index::parse(&bytes, &site.folder);
                let index = index.map_err(|source| SnapshotError::Index { path: path.into(), source })?;
                chosen.settle(&index).map_err(SnapshotError::from)?;
                for rival in chosen.rivals(Snapshot::expectation(&site)) {
                    let Some(listed) = self.listing.get(rival).filter(|listed| listed.bytes <= INDEX_BYTES_MAX) else {
                        continue;
                    };
                    let bytes = small_file((&self.address, &self.place), &self.pin, rival, listed).await?;
                    let other = Index::parse(&bytes, &site.folder);
                    let other = other.map_err(|source| SnapshotError::Index { path: rival.into(), source })?;
                    chosen.agree(&index, rival, &other).map_err(SnapshotError::from)?;
                }
                let names = index.shards().into_iter().map(str::to_owned).collect();
                (Some(index), names)
            }
        };
        let shard = |name: &String| Ok::<_, FetchError>((name.clone(), self.listed(name, &site, &names)?));
        let shards = names.iter().map(shard).collect::<Result<_, _>>()?;
        Ok(RemoteComponent { site, index, shards })
    }

    /// The tensors of a component, from the headers of its files.
    ///
    /// # Errors
    /// When a header does not come, or is not that of a safetensors file.
    pub async fn headers(&self, component: &RemoteComponent) -> Result<Vec<(String, Header)>, RemoteError> {
        let one = async |(name, listed): &(String, Listed)| Ok((name.clone(), self.header(name, listed).await?));
        try_join_all(component.shards.iter().map(one)).await
    }

    async fn header(&self, file: &str, listed: &Listed) -> Result<Header, RemoteError> {
        if Format::of(file) == Format::Gguf {
            return self.gguf_header(file, listed).await;
        }
        let bad = |source| RemoteError::Header { file: file.to_owned(), repo: self.address.repo.to_string(), source };
        if listed.bytes < PREFIX_BYTES {
            return Err(bad(HeaderError::FileTooShort { found: listed.bytes }));
        }
        let mut bytes = self.range(file, 0, listed.bytes.min(FIRST_BYTES)).await?;
        let prefix = bytes.first_chunk().copied().unwrap_or_default();
        let json_length = header::header_length(prefix, listed.bytes).map_err(bad)?;
        let end = PREFIX_BYTES + json_length as u64;
        if end > bytes.len() as u64 {
            bytes.extend(self.range(file, bytes.len() as u64, end).await?);
        }
        let length = listed.bytes;
        let json = bytes.get(8..8 + json_length).unwrap_or_default().to_vec();
        // No disk has part in this, but it takes a thread for a while.
        let parse =
            move |_: &MayBlock<'_>| Ok(crate::turn::in_turn(0, json_length as u64, || Header::parse(&json, length)));
        self.place.run("reading a header", Kind::Load, parse).await?.map_err(bad)
    }

    /// Reads the header of a GGUF file, which shows its own length only at its end: each time twice as much.
    async fn gguf_header(&self, file: &str, listed: &Listed) -> Result<Header, RemoteError> {
        let bad =
            |source| RemoteError::GgufHeader { file: file.to_owned(), repo: self.address.repo.to_string(), source };
        let length = listed.bytes;
        let mut bytes = Vec::new();
        let mut wanted = gguf::FIRST_BYTES.min(length);
        loop {
            if wanted > bytes.len() as u64 {
                bytes.extend(self.range(file, bytes.len() as u64, wanted).await?);
            }
            let parse = move |_: &MayBlock<'_>| {
                let parsed = crate::turn::in_turn(0, bytes.len() as u64, || gguf::parse(&bytes, length));
                Ok((parsed, bytes))
            };
            let (parsed, read) = self.place.run("reading a header", Kind::Load, parse).await?;
            bytes = read;
            match parsed.map_err(bad)? {
                Parsed::Header(header) => return Ok(header),
                Parsed::More(needed) => wanted = needed.max(2 * wanted).min(length),
            }
        }
    }

    async fn range(&self, file: &str, from: u64, to: u64) -> Result<Vec<u8>, FetchError> {
        let range = ByteRange { from, to: Some(to), validator: None };
        let got = self.address.source.bytes(&self.address.repo, &self.pin.commit, file, Some(range), to - from).await;
        got.map_err(|source| FetchError::File { file: file.to_owned(), source })
    }

    /// A file of a component by the listing; `all` are all that its index lists.
    fn listed(&self, name: &str, site: &ComponentSite, all: &[String]) -> Result<Listed, FetchError> {
        let absent = || -> Vec<String> {
            let missing = all.iter().filter(|name| self.listing.get(name).is_none()).cloned().collect::<Vec<_>>();
            if missing.is_empty() { vec![name.to_owned()] } else { missing }
        };
        let missing = || self.snapshot.incomplete(site, absent(), all, all.len().max(1));
        Ok(self.listing.get(name).cloned().ok_or_else(missing)?)
    }
}

async fn list(
    (address, place): (&RepoAddress, &Place),
    pin: &Pin,
    choice: &Choice,
    listing: &Arc<Listing>,
    documents: BTreeMap<String, Vec<u8>>,
) -> Result<Snapshot, FetchError> {
    let (model, store) = (address.at(pin), Arc::clone(&address.store));
    let (choice, listing) = (choice.clone(), Arc::clone(listing));
    let list = move |_: &MayBlock<'_>| Ok(Snapshot::remote(model, &choice, store, listing, documents)?);
    place.run("listing a model", Kind::Load, list).await
}

/// The content of a small file: the blob on this machine, or what the source sends, compared with its hash.
async fn small_file(
    (address, place): (&RepoAddress, &Place),
    pin: &Pin,
    name: &str,
    listed: &Listed,
) -> Result<Vec<u8>, FetchError> {
    let path = address.store.blob(&listed.blob);
    let read = move |_: &MayBlock<'_>| Ok(std::fs::read(path));
    if let Ok(bytes) = place.run("reading a small file", Kind::Look, read).await?
        && bytes.len() as u64 == listed.bytes
    {
        return Ok(bytes);
    }
    let file = || name.to_owned();
    let bytes = address.source.bytes(&address.repo, &pin.commit, name, None, listed.bytes).await;
    let bytes = bytes.map_err(|source| FetchError::File { file: file(), source })?;
    let mut hasher = BlobHasher::new(&listed.blob, listed.bytes);
    hasher.update(&bytes);
    let Hashed { is_expected, found } = hasher.finish();
    if is_expected {
        return Ok(bytes);
    }
    Err(FetchError::Corrupt { file: file(), kind: listed.blob.kind(), expected: listed.blob.clone(), found })
}
