//! Requests, parsed once at the edge into types that cannot be wrong.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use weightsd_core::{
    card::CardId,
    catalogue::AuditPolicy,
    derive::{Float, Form, LayerFilter, Merged, Packing},
    handoff::Given,
    identity::ComponentId,
    ingredients::{Adapter, Ingredients, Scale},
    place::Layout,
    quantisation::Scheme,
    shown::shown,
};
use weightsd_proto::v1::{self, LoadComponentRequest, ModelSelector};

use super::{Failure, messages};
use crate::{
    cache::Residency,
    pipeline::{FloatWish, Request, Treatment, Verification},
    resolve::{Choice, Network, Selector},
};

/// Longest name of a component.
const COMPONENT_BYTES_MAX: usize = 256;
/// Most patterns in a request.
const PATTERNS_MAX: usize = 64;
/// Most adapters in a request.
const ADAPTERS_MAX: usize = 32;
/// Longest pattern, or variant.
const PATTERN_BYTES_MAX: usize = 256;
/// Characters of a client's name that are kept.
const CLIENT_NAME_MAX: usize = 64;

/// How long a load is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// As long as the stream.
    Stream,
    /// Not at all.
    None,
}

/// A parsed `LoadComponentRequest`.
#[derive(Debug)]
pub(super) struct LoadRequest {
    pub(super) request: Request,
    pub(super) hold: Hold,
    pub(super) keep_alive: Option<Duration>,
    pub(super) client_name: String,
    pub(super) given: Given,
    pub(super) takes_sheet: bool,
    pub(super) residency: Residency,
    /// The component that the caller has and wants another lease on.
    pub(super) again: Option<ComponentId>,
    /// The card in whose memory the component is wanted.
    pub(super) card: Option<CardId>,
}

pub(super) fn load(request: LoadComponentRequest) -> Result<LoadRequest, Failure> {
    let (layout, policy) = (layout(request.layout)?, policy(request.audit_policy)?);
    let float = match v1::FloatType::try_from(request.dtype).map_err(|_| unknown("dtype"))? {
        v1::FloatType::Unspecified => FloatWish::Usual,
        v1::FloatType::AsStored => FloatWish::AsStored,
        v1::FloatType::Bf16 => FloatWish::All(Float::Bf16),
        v1::FloatType::F16 => FloatWish::All(Float::F16),
        v1::FloatType::F32 => FloatWish::All(Float::F32),
    };
    let merged = match v1::MergedLayers::try_from(request.merged_layers).map_err(|_| unknown("merged_layers"))? {
        v1::MergedLayers::Unspecified | v1::MergedLayers::Requantised => Merged::Requantised,
        v1::MergedLayers::Plain => Merged::Plain,
    };
    let form = form(request.form)?;
    let packing = match (request.quantise, request.dequantise) {
        (Some(_), true) => {
            let hint = "leave out one of them: layers that are quantised otherwise are quantised anew";
            return Err(Failure::invalid("dequantise", "contradicts `quantise`", hint));
        }
        (Some(quantise), false) => packing(quantise)?,
        (None, true) => Packing::Plain,
        (None, false) => Packing::AsStored,
    };
    let verification = v1::Verification::try_from(request.verification).map_err(|_| unknown("verification"))?;
    let verification = match verification {
        v1::Verification::Unspecified | v1::Verification::Afterwards => Verification::Afterwards,
        v1::Verification::Before => Verification::Before,
    };
    let hold = hold(request.hold)?;
    let card = card(&request.device, form)?;
    // A client that opens paths, or has others open them, finds the originals there.
    let takes_clones = request.takes_clones && hold == Hold::Stream && form == Form::Segments;
    let keep_alive = request.keep_alive.map(keep_alive).transpose()?;
    let again = again(&request.lease_again)?;
    let residency = residency(request.residency)?;
    Ok(LoadRequest {
        request: Request {
            models: Ingredients {
                own: selector(request.model)?,
                base: request.base.map(|base| selector(Some(base))).transpose()?,
                overlay: request.overlay.map(|overlay| selector(Some(overlay))).transpose()?,
                adapters: adapters(request.adapters)?,
            },
            component: component(request.component)?,
            layout,
            treatment: Treatment { float, packing, merged, form },
            policy,
            verification,
        },
        hold,
        keep_alive,
        client_name: client_name(&request.client_name),
        given: if takes_clones { Given::Clones } else { Given::Originals },
        takes_sheet: request.takes_sheet && hold == Hold::Stream,
        residency,
        again,
        card,
    })
}

fn residency(asked: i32) -> Result<Residency, Failure> {
    Ok(match v1::Residency::try_from(asked).map_err(|_| unknown("residency"))? {
        v1::Residency::Unspecified | v1::Residency::Prefetch => Residency::Prefetch,
        v1::Residency::Lazy => Residency::Lazy,
        v1::Residency::Pinned => Residency::Pinned,
    })
}

fn again(id: &str) -> Result<Option<ComponentId>, Failure> {
    if id.is_empty() {
        return Ok(None);
    }
    let hint = "give the id of the component that you have, all 64 digits of it, or leave it out";
    id.parse().map(Some).map_err(|_| Failure::invalid("lease_again", "is no id of a component", hint))
}

fn layout(asked: i32) -> Result<Layout, Failure> {
    Ok(match v1::Layout::try_from(asked).map_err(|_| unknown("layout"))? {
        v1::Layout::Unspecified | v1::Layout::Mlx => Layout::Mlx,
        v1::Layout::Source => Layout::Source,
        v1::Layout::Mflux => Layout::Mflux,
    })
}

fn policy(asked: i32) -> Result<AuditPolicy, Failure> {
    Ok(match v1::AuditPolicy::try_from(asked).map_err(|_| unknown("audit_policy"))? {
        v1::AuditPolicy::Unspecified | v1::AuditPolicy::Strict => AuditPolicy::Strict,
        v1::AuditPolicy::ReportOnly => AuditPolicy::ReportOnly,
    })
}

fn hold(asked: i32) -> Result<Hold, Failure> {
    Ok(match v1::Hold::try_from(asked).map_err(|_| unknown("hold"))? {
        v1::Hold::Unspecified | v1::Hold::Stream => Hold::Stream,
        v1::Hold::None => Hold::None,
    })
}

/// What lists and logs show.
fn client_name(said: &str) -> String {
    let shown = |character: &char| !character.is_control();
    let name: String = said.chars().filter(shown).take(CLIENT_NAME_MAX).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

fn card(device: &str, form: Form) -> Result<Option<CardId>, Failure> {
    if device.is_empty() {
        return Ok(None);
    }
    let hint = "`nvidia-smi -L` lists the UUIDs; clients find that of `cuda` and `cuda:1` by themselves";
    let card = device.parse().map_err(|error| Failure::invalid("device", &format!("cannot be used: {error}"), hint))?;
    if form == Form::Files {
        let hint = "leave out the device: programs that open files copy them onto a card by themselves";
        return Err(Failure::invalid("device", "does not go together with FORM_FILES", hint));
    }
    Ok(Some(card))
}

fn form(asked: i32) -> Result<Form, Failure> {
    Ok(match v1::Form::try_from(asked).map_err(|_| unknown("form"))? {
        v1::Form::Unspecified | v1::Form::Segments => Form::Segments,
        v1::Form::Files => Form::Files,
    })
}

fn unknown(field: &str) -> Failure {
    Failure::invalid(field, "has a value that this version does not know", "see the .proto")
}

fn packing(asked: v1::Quantisation) -> Result<Packing, Failure> {
    let mode = v1::QuantisationMode::try_from(asked.mode).ok().and_then(messages::asked_mode);
    let mode = mode.ok_or_else(|| unknown("quantise.mode"))?;
    let number = |number: u32| (number > 0).then(|| u64::from(number));
    let scheme = Scheme::new(mode, number(asked.bits), number(asked.group_size)).map_err(|error| {
        let hint = "leave out bits and group_size for the mode's own";
        Failure::invalid("quantise", &format!("cannot be done: {error}"), hint)
    })?;
    let selection = LayerFilter {
        only: globs("quantise.only", asked.only)?,
        except: globs("quantise.excluding", asked.excluding)?,
    };
    Ok(Packing::Quantised(scheme, selection))
}

fn adapters(asked: Vec<v1::Adapter>) -> Result<Vec<Adapter<Selector>>, Failure> {
    if asked.len() > ADAPTERS_MAX {
        let problem = format!("has {} entries, at most {ADAPTERS_MAX} are added", asked.len());
        return Err(Failure::invalid("adapters", &problem, "merge some of them before"));
    }
    let adapter = |adapter: v1::Adapter| {
        let scale = adapter.scale.unwrap_or(1.0);
        let scale = Scale::new(scale).ok_or_else(|| {
            let problem = format!("has the scale {scale}");
            Failure::invalid("adapters", &problem, "give a number other than 0, or leave the adapter out")
        })?;
        Ok(Adapter { it: selector(adapter.model)?, scale })
    };
    asked.into_iter().map(adapter).collect()
}

/// By hand, because `prost_types` negates what is negative, and panics over the least number where sums are checked.
fn keep_alive(asked: prost_types::Duration) -> Result<Duration, Failure> {
    let nanos = u32::try_from(asked.nanos).ok().filter(|&nanos| nanos < 1_000_000_000);
    match u64::try_from(asked.seconds).ok().zip(nanos) {
        Some((seconds, nanos)) => Ok(Duration::new(seconds, nanos)),
        None => {
            let hint = "give seconds, 0 for not keeping it at all";
            Err(Failure::invalid("keep_alive", "is negative or malformed", hint))
        }
    }
}

pub(super) fn selector(model: Option<ModelSelector>) -> Result<Selector, Failure> {
    let model = model.ok_or_else(|| {
        Failure::invalid("model", "is missing", "set `model.spec` to a path or to a Hugging Face id such as `org/repo`")
    })?;
    let path = |field: &str, text: String| {
        if text.len() > weightsd_core::spec::SPEC_BYTES_MAX || text.chars().any(char::is_control) {
            let problem = "is too long or has control characters";
            return Err(Failure::invalid(field, problem, "give an absolute path"));
        }
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    };
    if model.hub_cache.contains(char::REPLACEMENT_CHARACTER) {
        let problem = format!("is `{}`, and the caller's path is not UTF-8", shown(&model.hub_cache));
        let hint =
            "give the cache another name, such as a link's, with `--hub-cache` or HF_HUB_CACHE: a request holds UTF-8";
        return Err(Failure::invalid("model.hub_cache", &problem, hint));
    }
    let selector = Selector {
        spec: model.spec,
        revision: (!model.revision.is_empty()).then_some(model.revision),
        hub_cache: path("model.hub_cache", model.hub_cache)?,
        working_directory: path("model.working_directory", model.working_directory)?,
        choice: choice(model.patterns, model.variant)?,
        network: if model.offline { Network::Forbidden } else { Network::Allowed },
    };
    Ok(selector.with_variant_of_spec())
}

fn is_odd(text: &str) -> bool {
    text.len() > PATTERN_BYTES_MAX || text.chars().any(char::is_control)
}

fn globs(field: &str, patterns: Vec<String>) -> Result<Vec<String>, Failure> {
    if patterns.len() > PATTERNS_MAX {
        let problem = format!("has {} entries, at most {PATTERNS_MAX} are read", patterns.len());
        return Err(Failure::invalid(field, &problem, "`*` and `{a,b}` stand for many names"));
    }
    if patterns.iter().any(|pattern| pattern.is_empty() || is_odd(pattern)) {
        let problem = "has an entry that is empty, too long, or has control characters";
        return Err(Failure::invalid(field, problem, "give globs such as `transformer/*`"));
    }
    Ok(patterns)
}

fn choice(patterns: Vec<String>, variant: String) -> Result<Choice, Failure> {
    let patterns = globs("model.patterns", patterns)?;
    if is_odd(&variant) || variant.contains(['/', '*']) {
        return Err(Failure::invalid("model.variant", "is no variant", "give a word such as `fp16`"));
    }
    Ok(Choice { patterns, variant: (!variant.is_empty()).then_some(variant), ..Choice::default() })
}

pub(super) fn components(names: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut names = names.into_iter().map(component).collect::<Result<Vec<_>, _>>()?;
    // One component named a thousand times is still one.
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

pub(super) fn component(name: String) -> Result<String, Failure> {
    let hint = "`Resolve` lists the components of a model";
    if name.is_empty() {
        return Err(Failure::invalid("component", "is missing", hint));
    }
    if name.len() > COMPONENT_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Failure::invalid("component", "is too long or has control characters", hint));
    }
    Ok(name)
}
