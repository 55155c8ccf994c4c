//! A model as a folder that any program opens: links to the shared files, with configs that match them. Nothing is copied
//! but configs that have to say something else.

mod config;
mod contents;
mod write;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use weightsd_core::explain::Tier;
use weightsd_proto::v1::{
    ComponentFiles, Form, LoadComponentRequest, ModelKind, ModelSelector, Progress, PullRequest, ResolveResponse,
};
use weightsd_segment::environment;

use self::{
    config::Config,
    contents::{Contents, Weights},
};
use crate::{
    Client, ClientError, Component, Layout, LoadRequest,
    folder_error::{FolderError, FolderFormat},
};

/// A folder that is wanted.
#[derive(Debug, Clone)]
#[must_use]
pub struct FolderRequest {
    request: LoadRequest,
    format: Option<FolderFormat>,
    root: Option<PathBuf>,
}

impl FolderRequest {
    /// The model of `request`, treated as it says. Its layout, form and component are left aside; its quantisation,
    /// adapters and overlay are for its component, or where it names none for `transformer`.
    pub fn new(request: LoadRequest) -> FolderRequest {
        FolderRequest { request, format: None, root: None }
    }

    /// The programs that it is for. Without it a model with a `model_index.json` is for diffusers, and another one for
    /// transformers.
    pub fn format(mut self, format: FolderFormat) -> FolderRequest {
        self.format = Some(format);
        self
    }

    /// Where folders are kept; by default in weightsd's own cache.
    pub fn root(mut self, root: impl Into<PathBuf>) -> FolderRequest {
        self.root = Some(root.into());
        self
    }
}

/// A folder on the disk, and the leases on the files it links to. What was computed for it may be deleted when no lease
/// holds it and the budget of images is spent.
#[derive(Debug)]
#[must_use = "dropping a model folder ends its leases"]
pub struct ModelFolder {
    /// Absolute path.
    pub path: PathBuf,
    /// The leases, in the order of the components.
    pub components: Vec<Component>,
    /// What the caller should know, such as that the hub could not be asked for small files.
    pub warnings: Vec<String>,
}

/// The small files that programs want beside the weights.
const SMALL_FILES: [&str; 6] = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py"];

/// The component of a pipeline that adapters, overlays and quantisation are for, where nothing else is said.
const MAIN: &str = "transformer";

impl Client {
    /// Makes a folder that a program opens as a model, all of whose weight files are shared files. Two requests for the
    /// same get the same folder.
    ///
    /// # Errors
    /// When a component cannot be loaded, when the format cannot express what is asked for, and when the folder cannot be
    /// written.
    pub async fn model_folder(
        &self,
        wanted: FolderRequest,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<ModelFolder, ClientError> {
        let FolderRequest { request, format, root } = wanted;
        let root = match root {
            Some(root) => root,
            None => default_root().ok_or(FolderError::NoCache)?,
        };
        let message = request.message();
        // Configs and tokenizers are those of the base, where there is one.
        let selector = message.base.clone().or_else(|| message.model.clone()).unwrap_or_default();
        let mut warnings = Vec::new();
        warnings.extend(self.fetch_small_files(&selector, &mut on_progress).await?);
        let skeleton = self.resolve(selector).await?;
        let own = match &message.base {
            Some(_) => self.resolve(message.model.clone().unwrap_or_default()).await?,
            None => skeleton.clone(),
        };
        let place = folder_of(&skeleton)?;
        let format = format.unwrap_or_else(|| usual(&place));
        contents::check(format, &place, message)?;

        let mut components = Vec::new();
        for site in wanted_components(&skeleton, format)? {
            let of_own = own.components.iter().any(|own| own.name == site.name && !own.files.is_empty());
            let request = load_request(&request, &site.name, format, of_own);
            components.push((site.clone(), self.load(request, &mut on_progress).await?));
        }
        let treated = contents::is_treated(message);
        let path = assemble(format, &place, &components, treated, &root)?;
        let components = components.into_iter().map(|(_, component)| component).collect();
        Ok(ModelFolder { path, components, warnings })
    }

    /// Brings the small files of a model on the hub; they are no part of any component. Says why not, when the hub is away.
    async fn fetch_small_files(
        &self,
        model: &ModelSelector,
        on_progress: impl FnMut(&Progress),
    ) -> Result<Option<String>, ClientError> {
        let known = self.resolve(model.clone()).await?;
        if model.offline || known.model.is_none_or(|model| model.kind() != ModelKind::Hub) {
            return Ok(None);
        }
        let patterns = SMALL_FILES.map(str::to_owned).to_vec();
        let model = ModelSelector { patterns, ..model.clone() };
        let request = PullRequest { model: Some(model), whole_repository: true, ..PullRequest::default() };
        match self.pull(request, on_progress).await {
            Ok(_) => Ok(None),
            // The model was found, so what is here may do. If not, the load says what is missing.
            Err(error) if error.tier() == Tier::Unavailable || error.daemon().is_some() => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }
}

/// Folders are kept beside the daemon's images.
fn default_root() -> Option<PathBuf> {
    let platform = weightsd_core::places::Platform::current();
    weightsd_core::places::own_cache(&environment::variable, platform).map(|cache| cache.join("folders"))
}

/// Where the small files lie.
fn folder_of(skeleton: &ResolveResponse) -> Result<PathBuf, FolderError> {
    let model = skeleton.model.clone().unwrap_or_default();
    match model.kind() {
        ModelKind::File => Err(FolderError::NoFolder { path: model.path.into() }),
        ModelKind::Directory | ModelKind::Hub | ModelKind::Unspecified => Ok(model.path.into()),
    }
}

fn usual(place: &Path) -> FolderFormat {
    if place.join("model_index.json").is_file() { FolderFormat::Diffusers } else { FolderFormat::Transformers }
}

/// The components whose weights the folder needs.
fn wanted_components(skeleton: &ResolveResponse, format: FolderFormat) -> Result<Vec<ComponentFiles>, FolderError> {
    let is_root = |site: &ComponentFiles| site.files.iter().all(|file| !file.path.contains('/'));
    let wanted = |site: &&ComponentFiles| !site.files.is_empty() && (format.is_pipeline() || is_root(site));
    let found: Vec<_> = skeleton.components.iter().filter(wanted).cloned().collect();
    if found.is_empty() {
        let names = skeleton.components.iter().map(|site| site.name.clone()).collect();
        return Err(FolderError::NoComponent { format, names });
    }
    Ok(found)
}

/// The request for one component.
fn load_request(wanted: &LoadRequest, component: &str, format: FolderFormat, of_own: bool) -> LoadRequest {
    let mut request = wanted.clone();
    let message = &mut request.message;
    let main = if message.component.is_empty() && format.is_pipeline() { MAIN } else { message.component.as_str() };
    if format.is_pipeline() && component != main {
        *message = LoadComponentRequest { quantise: None, adapters: Vec::new(), overlay: None, ..message.clone() };
    }
    // What the model lacks is the base's.
    if !of_own && message.base.is_some() {
        message.model = message.base.take();
    }
    component.clone_into(&mut message.component);
    message.layout = Layout::Source.into();
    message.form = Form::Files.into();
    request
}

fn assemble(
    format: FolderFormat,
    place: &Path,
    components: &[(ComponentFiles, Component)],
    treated: bool,
    root: &Path,
) -> Result<PathBuf, FolderError> {
    let mut contents = Contents::of(place)?;
    for (site, component) in components {
        let folder = site.files.first().and_then(|file| Path::new(&file.path).parent()).unwrap_or(Path::new(""));
        let mut config = Config::read(&place.join(folder).join("config.json"))?;
        let own: Vec<_> = site.files.iter().map(|file| place.join(&file.path)).collect();
        contents.add_weights(Weights::of(component, &own, folder, config.stem(format))?)?;
        if treated && config.adapt(component, format)? {
            contents.write(folder.join("config.json"), config.text());
        }
    }
    write::folder(root, contents.into_entries())
}

/// What is in a folder: for each path below it a link, or text.
type Entries = BTreeMap<PathBuf, Entry>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// Absolute path of the file.
    Link(PathBuf),
    /// The content.
    Text(String),
}
