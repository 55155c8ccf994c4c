//! The result of the first half of a load: which component is meant, and which files it is made of.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use weightsd_core::{
    derive::Conversion,
    identity::{ComponentId, ContentKey, IdentityInputs},
    ingredients::{Ingredients, Role},
};

use super::{Request, Trip};
use crate::{
    assembly::Recipe,
    checkpoint::OpenShard,
    derive::{FoundEngine, Provenance},
    resolve::ResolvedModel,
    snapshot::{ComponentFiles, HashCandidate, ShardFile},
};

/// A resolved request: which component is meant, and which files it is made of. All of these files are on this machine. Weight
/// files without a config are open already, because their headers told what they are; no other has been opened yet.
#[derive(Debug)]
pub struct Prepared {
    /// Identity of the component.
    pub id: ComponentId,
    /// What was asked for.
    pub request: Request,
    /// The files of each ingredient. A base has no weights here.
    pub files: Ingredients<Arc<ComponentFiles>>,
    /// When the last look at the files began.
    pub looked: SystemTime,
    pub(super) recipe: Recipe,
    pub(super) conversion: Conversion,
    /// What computes; `None` where nothing can have to be computed.
    pub(super) engine: Option<FoundEngine>,
    /// The trip that found it, with the disks that its files lie on.
    pub trip: Arc<Trip>,
    /// When the load began.
    pub(super) started: Instant,
    /// How long the first half took.
    pub(super) took: Duration,
    /// Ingredients whose commit has small files that are not on this machine. They may change the answer when they come.
    pub(super) provisional: Vec<Role>,
    /// Weight files that are open already. They are held until the component has them, so that no header is read twice.
    pub(super) open: Vec<Arc<OpenShard>>,
}

impl Prepared {
    pub(super) fn new(
        request: Request,
        files: Ingredients<Arc<ComponentFiles>>,
        recipe: Recipe,
        engine: Option<FoundEngine>,
        provisional: Vec<Role>,
        (started, looked, trip): (Instant, SystemTime, Arc<Trip>),
    ) -> Self {
        let conversion = request.treatment.of(recipe.family, &request.component, request.layout);
        let computed = computed(&conversion, engine.as_ref(), &files);
        let id = identity(&request, &files, &recipe, &computed);
        let took = started.elapsed();
        let devices = files.iter().flat_map(|(_, files)| files.shards.iter().map(|shard| shard.identity.device));
        let trip = trip.with(&devices.collect());
        Self {
            id,
            request,
            files,
            looked,
            recipe,
            conversion,
            engine,
            trip,
            started,
            took,
            provisional,
            open: Vec::new(),
        }
    }

    /// Holds those of the files open that the component is made of.
    pub(super) fn holding(mut self, mut open: Vec<Arc<OpenShard>>) -> Self {
        open.retain(|open| self.files.own.shards.iter().any(|shard| shard.identity == *open.file.identity()));
        self.open = open;
        self
    }

    /// The component's name.
    #[must_use]
    pub fn component(&self) -> &str {
        &self.request.component
    }

    /// The model whose component it is.
    #[must_use]
    pub fn model(&self) -> &Arc<ResolvedModel> {
        &self.files.own.model
    }

    /// Whether small files are missing that may change the answer when they come.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        !self.provisional.is_empty()
    }

    /// The weight files of all ingredients, in the order in which they are opened.
    pub fn shards(&self) -> impl Iterator<Item = &ShardFile> {
        self.files.iter().flat_map(|(_, files)| &files.shards)
    }

    /// The weight files, to be compared with their hashes.
    #[must_use]
    pub fn candidates(&self) -> Vec<HashCandidate> {
        self.shards().map(ShardFile::candidate).collect()
    }

    /// The paths that the answer rests on.
    pub fn dependencies(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().flat_map(|(_, files)| files.dependencies.iter().map(PathBuf::as_path))
    }

    /// What an image of the component is made from, in words.
    pub(super) fn provenance(&self) -> Provenance {
        let laid_over = |(role, files): (Role, &Arc<ComponentFiles>)| match role {
            Role::Own | Role::Base => Vec::new(),
            Role::Overlay | Role::Adapter(_) => {
                files.shards.iter().map(|shard| format!(" + {}", shard.path.display())).collect()
            }
        };
        let source = |shard: &ShardFile| {
            shard.expected.as_ref().map_or_else(|| shard.path.display().to_string(), ToString::to_string)
        };
        Provenance {
            component: self.component().to_owned(),
            made_from: std::iter::once(self.model().to_string()).chain(self.files.iter().flat_map(laid_over)).collect(),
            conversion: self.conversion_in_words(),
            sources: self.shards().map(source).collect(),
        }
    }

    /// What is done to the tensors, in words.
    pub(super) fn conversion_in_words(&self) -> String {
        let layout = format!("layout {}", self.request.layout.name());
        let conversion = Some(self.conversion.summary()).filter(|summary| !summary.is_empty());
        let adapters = self.files.adapters.iter();
        let adapters = adapters.map(|adapter| format!("{} x {}", adapter.it.site.name, adapter.scale.get()));
        std::iter::once(layout).chain(conversion).chain(adapters).collect::<Vec<_>>().join(", ")
    }
}

/// What is computed, and by which MLX.
fn computed(
    conversion: &Conversion,
    engine: Option<&FoundEngine>,
    files: &Ingredients<Arc<ComponentFiles>>,
) -> Vec<u8> {
    let mut computed = serde_json::to_vec(conversion).expect("names and numbers have a form in JSON");
    let engine = engine.and_then(FoundEngine::engine).map_or_else(|| "no MLX".to_owned(), ToString::to_string);
    computed.extend_from_slice(format!("\n{engine}\n").as_bytes());
    for adapter in &files.adapters {
        let config = adapter.it.config.as_ref().map(|config| config.bytes.as_slice()).unwrap_or_default();
        computed.extend_from_slice(format!("adapter {} {}\n", adapter.scale.get().to_bits(), config.len()).as_bytes());
        computed.extend_from_slice(config);
    }
    computed
}

fn identity(
    request: &Request,
    files: &Ingredients<Arc<ComponentFiles>>,
    recipe: &Recipe,
    computed: &[u8],
) -> ComponentId {
    let named = |(role, files): (Role, &Arc<ComponentFiles>)| -> Vec<(String, ContentKey)> {
        let prefix = match role {
            Role::Own | Role::Base => "",
            Role::Overlay => "overlay ",
            Role::Adapter(_) => "adapter ",
        };
        files.shards.iter().map(|shard| (format!("{prefix}{}", shard.name), shard.content.clone())).collect()
    };
    let shards: Vec<_> = files.iter().flat_map(named).collect();
    ComponentId::of(&IdentityInputs {
        family: recipe.family.id(),
        component: &request.component,
        layout: request.layout,
        policy: request.policy,
        config: &recipe.fingerprint(),
        conversion: computed,
        shards: &shards,
    })
}
