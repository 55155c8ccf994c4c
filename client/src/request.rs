//! The request for a load. Fills in the facts about this process that the daemon cannot see.

use std::{
    env,
    path::{self, Path},
    time::Duration,
};

use weightsd_core::{hub_env, places};
use weightsd_proto::v1::{
    Adapter, AuditPolicy, FloatType, Hold, Layout, LoadComponentRequest, MergedLayers, ModelSelector, Quantisation,
    Residency, Verification,
};
use weightsd_segment::environment;

/// The longest time that google.protobuf.Duration allows: ten thousand years.
const LONGEST: Duration = Duration::from_secs(315_576_000_000);

/// How this process gets the segments' files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Handoff {
    /// As descriptors from the daemon. They stay the same file even if the path changes.
    #[default]
    Descriptors,
    /// By opening the daemon's paths and comparing the identity of each file.
    Path,
}

/// What becomes of the descriptors of the segments' files once they are mapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Files {
    /// They are closed: the mappings need none.
    #[default]
    Closed,
    /// [`Component::take_files`](crate::Component::take_files) gives them away, for callers that map the files in a way of their own.
    Kept,
}

/// What to load, and how.
#[derive(Debug, Clone)]
#[must_use]
pub struct LoadRequest {
    pub(crate) message: LoadComponentRequest,
    pub(crate) handoff: Handoff,
    pub(crate) files: Files,
    pub(crate) deadline: Duration,
}

impl LoadRequest {
    /// Component `component` of the model that `spec` names. Fills in the current directory, the Hugging Face cache if
    /// the environment names one, and the program's name, because the daemon cannot see them.
    pub fn new(spec: impl Into<String>, component: impl Into<String>) -> LoadRequest {
        LoadRequest {
            message: LoadComponentRequest {
                model: Some(selector(spec)),
                component: component.into(),
                client_name: program_name(),
                ..LoadComponentRequest::default()
            },
            handoff: Handoff::default(),
            files: Files::default(),
            deadline: Duration::from_secs(120),
        }
    }

    /// A request that was put together elsewhere: nothing is filled in.
    pub fn of(message: LoadComponentRequest) -> LoadRequest {
        LoadRequest {
            message,
            handoff: Handoff::default(),
            files: Files::default(),
            deadline: Duration::from_secs(120),
        }
    }

    /// Revision (branch, tag or commit) of a Hugging Face id.
    pub fn revision(mut self, revision: impl Into<String>) -> LoadRequest {
        self.model().revision = revision.into();
        self
    }

    /// The Hugging Face cache to look in. A relative path is taken from the current directory.
    pub fn hub_cache(mut self, cache: impl AsRef<Path>) -> LoadRequest {
        let cache = absolute(cache.as_ref());
        self.selectors().for_each(|selector| selector.hub_cache.clone_from(&cache));
        self
    }

    /// The directory that a relative path in a spec starts from.
    pub fn working_directory(mut self, directory: impl AsRef<Path>) -> LoadRequest {
        let directory = absolute(directory.as_ref());
        self.selectors().for_each(|selector| selector.working_directory.clone_from(&directory));
        self
    }

    /// Globs over the paths of weight files, such as `transformer/*`; only weights that match one count.
    pub fn patterns(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> LoadRequest {
        self.model().patterns = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// Variant of the weights, such as `fp16`.
    pub fn variant(mut self, variant: impl Into<String>) -> LoadRequest {
        self.model().variant = variant.into();
        self
    }

    /// Whether the daemon must not ask the hub. The default is that of [`hub_env::is_offline`].
    pub fn offline(mut self, offline: bool) -> LoadRequest {
        self.selectors().for_each(|selector| selector.offline = offline);
        self
    }

    /// When the daemon hashes files that were here before.
    pub fn verification(mut self, verification: Verification) -> LoadRequest {
        self.message.verification = verification.into();
        self
    }

    /// The base: its configs count for weights that have none.
    pub fn base(mut self, spec: impl Into<String>) -> LoadRequest {
        self.message.base = Some(beside(self.model(), spec));
        self
    }

    /// The overlay: its tensors replace all or some of the component's.
    pub fn overlay(mut self, spec: impl Into<String>) -> LoadRequest {
        self.message.overlay = Some(beside(self.model(), spec));
        self
    }

    /// The dtype of floats that are not part of a quantised layer.
    pub fn dtype(mut self, dtype: FloatType) -> LoadRequest {
        self.message.dtype = dtype.into();
        self
    }

    /// Quantises layers.
    pub fn quantise(mut self, quantisation: Quantisation) -> LoadRequest {
        self.message.quantise = Some(quantisation);
        self
    }

    /// Lends quantised layers as plain ones.
    pub fn dequantise(mut self) -> LoadRequest {
        self.message.dequantise = true;
        self
    }

    /// Adds a LoRA, LoKr or LoHa to the weights, after those that were named before. `scale` is 1 for all of it.
    pub fn adapter(mut self, spec: impl Into<String>, scale: f64) -> LoadRequest {
        let model = Some(beside(self.model(), spec));
        self.message.adapters.push(Adapter { model, scale: Some(scale) });
        self
    }

    /// Like `adapter`, for a model with several files: takes the one whose path matches the glob.
    pub fn adapter_file(mut self, spec: impl Into<String>, pattern: impl Into<String>, scale: f64) -> LoadRequest {
        let model = ModelSelector { patterns: vec![pattern.into()], ..beside(self.model(), spec) };
        self.message.adapters.push(Adapter { model: Some(model), scale: Some(scale) });
        self
    }

    /// What the daemon does with quantised layers after it merged adapters into them.
    pub fn merged_layers(mut self, fused: MergedLayers) -> LoadRequest {
        self.message.merged_layers = fused.into();
        self
    }

    /// Names and memory order of the tensors.
    pub fn layout(mut self, layout: Layout) -> LoadRequest {
        self.message.layout = layout.into();
        self
    }

    /// How the component's bytes come into memory. The default is that the daemon reads ahead while they are already mapped.
    pub fn residency(mut self, residency: Residency) -> LoadRequest {
        self.message.residency = residency.into();
        self
    }

    /// What a failed audit does.
    pub fn audit_policy(mut self, policy: AuditPolicy) -> LoadRequest {
        self.message.audit_policy = policy.into();
        self
    }

    /// The card in whose memory the component is lent, by its UUID: for [`Client::load_on_card`](crate::Client::load_on_card).
    pub fn device(mut self, uuid: impl Into<String>) -> LoadRequest {
        self.message.device = uuid.into();
        self
    }

    /// Whether the component is leased. With [`Hold::None`] there is no ticket for descriptors, so the client opens the
    /// files by path. From a daemon of another user, which tells no paths, there always is a lease.
    pub fn hold(mut self, hold: Hold) -> LoadRequest {
        self.message.hold = hold.into();
        self
    }

    /// How long the component should stay warm after the last lease. The daemon limits it.
    pub fn keep_alive(mut self, keep_alive: Duration) -> LoadRequest {
        let keep_alive = keep_alive.min(LONGEST);
        self.message.keep_alive = prost_types::Duration::try_from(keep_alive).ok();
        self
    }

    /// This client's name in lists and logs; the default is the program's name.
    pub fn client_name(mut self, name: impl Into<String>) -> LoadRequest {
        self.message.client_name = name.into();
        self
    }

    /// How this process gets the files.
    pub fn handoff(mut self, handoff: Handoff) -> LoadRequest {
        self.handoff = handoff;
        self
    }

    /// Whether the descriptors of the files stay open.
    pub fn files(mut self, files: Files) -> LoadRequest {
        self.files = files;
        self
    }

    /// How long the daemon may stay silent; two minutes by default. During a download it reports its progress.
    pub fn deadline(mut self, deadline: Duration) -> LoadRequest {
        self.deadline = deadline;
        self
    }

    /// The message to send.
    #[must_use]
    pub fn message(&self) -> &LoadComponentRequest {
        &self.message
    }

    fn selectors(&mut self) -> impl Iterator<Item = &mut ModelSelector> {
        let LoadComponentRequest { model, base, overlay, adapters, .. } = &mut self.message;
        let adapters = adapters.iter_mut().filter_map(|adapter| adapter.model.as_mut());
        [model, base, overlay].into_iter().flatten().chain(adapters)
    }

    fn model(&mut self) -> &mut ModelSelector {
        self.message.model.get_or_insert_default()
    }
}

/// A model selector with facts about this process that the daemon cannot see: current directory, Hugging Face cache if
/// the environment names one, and whether the environment forbids asking the hub.
pub fn selector(spec: impl Into<String>) -> ModelSelector {
    // A name that is not UTF-8 is sent with marks, and the daemon refuses it: another cache would be a guess.
    let env = environment::variable_lossy;
    let named = places::hub_cache_is_named(&env).then(|| places::hub_cache(&env)).flatten();
    ModelSelector {
        spec: spec.into(),
        revision: String::new(),
        hub_cache: named.map(|cache| absolute(&cache)).unwrap_or_default(),
        working_directory: env::current_dir().map(|directory| text(&directory)).unwrap_or_default(),
        offline: hub_env::is_offline(&env),
        ..ModelSelector::default()
    }
}

/// A base, overlay or adapter that the daemon looks up in the same cache and folder as `model`.
pub fn beside(model: &ModelSelector, spec: impl Into<String>) -> ModelSelector {
    ModelSelector {
        spec: spec.into(),
        hub_cache: model.hub_cache.clone(),
        working_directory: model.working_directory.clone(),
        offline: model.offline,
        ..ModelSelector::default()
    }
}

fn absolute(path: &Path) -> String {
    path::absolute(path).map_or_else(|_| text(path), |path| text(&path))
}

/// Replaces bytes that are not UTF-8, which the wire cannot carry. The daemon refuses such a cache, and finds nothing at
/// such a path.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn program_name() -> String {
    let program = env::args_os().next().unwrap_or_default();
    Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_where_it_comes_from() {
        let request = LoadRequest::new("org/repo", "vae").revision("v1").hub_cache("cache");
        let model = request.message().model.as_ref().unwrap();
        let here = env::current_dir().unwrap();
        assert_eq!((model.spec.as_str(), model.revision.as_str()), ("org/repo", "v1"));
        assert_eq!(Path::new(&model.working_directory), here);
        assert_eq!(Path::new(&model.hub_cache), here.join("cache"));
        assert!(request.message().client_name.starts_with("weightsd_client"));
    }

    #[test]
    fn the_models_of_a_request_are_looked_up_in_one_place() {
        let request = LoadRequest::new("file.safetensors", "vae").base("org/base").hub_cache("cache").offline(true);
        let request = request.overlay("other.safetensors");
        let LoadComponentRequest { model, base, overlay, .. } = request.message().clone();
        let [model, base, overlay] = [model, base, overlay].map(Option::unwrap);
        assert_eq!((base.spec.as_str(), overlay.spec.as_str()), ("org/base", "other.safetensors"));
        for other in [base, overlay] {
            assert_eq!(other, ModelSelector { spec: other.spec.clone(), ..model.clone() });
            assert!(other.offline && other.hub_cache.ends_with("cache"));
        }
    }

    #[test]
    fn an_endless_keep_alive_is_sent_as_the_longest() {
        let request = LoadRequest::new("a", "b").keep_alive(Duration::MAX);
        assert_eq!(request.message().keep_alive.unwrap().seconds, 315_576_000_000);
    }
}
