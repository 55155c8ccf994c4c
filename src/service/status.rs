//! `ListComponents`, `GetComponent` and `GetStatus`: what is loaded, who holds it, and how the daemon fares.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use weightsd_core::{
    explain::{Explanation, Reason},
    handoff::Given,
    header::HEADER_BYTES_MAX,
    identity::ComponentId,
};
use weightsd_proto::v1::{
    CardStatus, DepartedComponent, GetComponentRequest, GetComponentResponse, GetStatusResponse, Holder, Limits,
    ListComponentsRequest, ListComponentsResponse, LoadedComponent, RunningDownload, RunningLoad,
};

use super::{
    Context, Failure,
    messages::{self, Loaded},
};
use crate::{
    cache::{Cache, CardEntry, CardReport, Entry, leases},
    component::{Component, Segment},
    lanes::{Kind, MayBlock, Task},
};

/// How long measuring one component may take.
const MEASURING_MAX: Duration = Duration::from_secs(5);
/// Loads, and downloads, that the status lists.
const LISTED_MAX: usize = 64;
/// Digits of an id that name it.
const ID_DIGITS_MIN: usize = 8;
/// Digits that an id has.
const ID_DIGITS_MAX: usize = 64;

pub(super) async fn list_components(
    context: &Context,
    request: ListComponentsRequest,
) -> Result<ListComponentsResponse, Failure> {
    let images = if request.images {
        let cache = Arc::clone(&context.cache);
        let list = move |may: &MayBlock<'_>| {
            let stored = cache.config().images.list(may);
            stored.iter().map(|stored| messages::stored(stored, loaded(&cache, stored.id))).collect()
        };
        context.cache.with_images("listing images", list).await.map_err(|error| Failure::from(&error))?
    } else {
        Vec::new()
    };
    let entries = context.cache.entries();
    let resident = match request.residency {
        true => residency(context, &entries).await,
        false => vec![0; entries.len()],
    };
    let in_files = entries.iter().zip(resident).map(|(entry, resident)| describe(entry, resident));
    let on_cards = context.cache.card_entries();
    let components = in_files.chain(on_cards.iter().map(|entry| describe_on_card(entry))).collect();
    Ok(ListComponentsResponse { components, images })
}

/// Bytes of each component that are in memory; 0 where its disk does not answer.
async fn residency(context: &Context, entries: &[Arc<Entry>]) -> Vec<u64> {
    let measure = async |entry: &Arc<Entry>| {
        let component = Arc::clone(&entry.component);
        let (subject, disks) = (entry.component.id.to_string(), entry.component.disks());
        let (kind, limit) = (Kind::Look, Some(MEASURING_MAX));
        let task = Task { operation: "measuring residency", subject: &subject, disks: &disks, kind, limit };
        let resident = context.daemon.lanes().run(task, move |may| resident_bytes(&component, may)).await;
        resident.unwrap_or_default()
    };
    // Each in its own lane: components on a disk that hangs do not hide those on the others.
    futures_util::future::join_all(entries.iter().map(measure)).await
}

/// A file that cannot be measured counts as 0; it is still lent.
fn resident_bytes(component: &Component, may: &MayBlock<'_>) -> u64 {
    let measure = |segment: &Segment| {
        may.alive();
        segment.given(Given::Clones).resident_bytes().ok()
    };
    component.segments.iter().filter_map(measure).sum()
}

pub(super) async fn get_component(
    context: &Context,
    request: GetComponentRequest,
) -> Result<GetComponentResponse, Failure> {
    let entry = find(&context.cache, &request.id)?;
    let resident = residency(context, std::slice::from_ref(&entry)).await;
    Ok(GetComponentResponse {
        component: Some(describe(&entry, resident.iter().sum())),
        audit: Some(messages::component_audit(&entry.component)),
        config_json: entry.component.config_json.clone(),
    })
}

/// The beginning of an id, in lower case.
pub(super) fn digits(digits: &str) -> Result<String, Failure> {
    let length = ID_DIGITS_MIN..=ID_DIGITS_MAX;
    if !length.contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let shown: String = digits.chars().take(ID_DIGITS_MAX).collect();
        let problem =
            format!("is {shown:?}, expected {ID_DIGITS_MIN} to {ID_DIGITS_MAX} hex digits of a component's id");
        return Err(Failure::invalid("id", &problem, "`weightsd ls` lists the ids"));
    }
    Ok(digits.to_ascii_lowercase())
}

/// The loaded component whose id begins with `digits`.
pub(super) fn find(cache: &Cache, digits: &str) -> Result<Arc<Entry>, Failure> {
    let digits = self::digits(digits)?;
    let mut entries = cache.entries();
    entries.retain(|entry| entry.component.id.to_string().starts_with(&digits));
    match entries.pop() {
        Some(entry) if entries.is_empty() => Ok(entry),
        Some(_) => Err(Failure::invalid("id", "is the beginning of several ids", "give more digits")),
        None => {
            let message = format!("no component with id {digits} is loaded");
            Err(Failure::new(message, Explanation::new(Reason::NotLoaded, digits, "`weightsd ls` lists the ids")))
        }
    }
}

/// The id of the loaded component, in files or on cards, that begins with `digits`.
pub(super) fn find_id(cache: &Cache, digits: &str) -> Result<ComponentId, Failure> {
    let whole = self::digits(digits)?;
    let in_files = cache.entries().into_iter().map(|entry| entry.id());
    let on_cards = cache.card_entries().into_iter().map(|entry| entry.id());
    let ids: BTreeSet<_> = in_files.chain(on_cards).filter(|id| id.to_string().starts_with(&whole)).collect();
    match ids.len() {
        1 => Ok(*ids.first().expect("there is one")),
        // Says what is wrong with the digits.
        0 => find(cache, digits).map(|entry| entry.id()),
        _ => Err(Failure::invalid("id", "is the beginning of several ids", "give more digits")),
    }
}

fn loaded(cache: &Cache, id: ComponentId) -> Loaded {
    if cache.is_loaded(id) { Loaded::Yes } else { Loaded::No }
}

pub(super) fn describe(entry: &Entry, resident: u64) -> LoadedComponent {
    let component = &entry.component;
    let segments = component.segments.iter().map(|segment| messages::segment(segment, Given::Originals)).collect();
    LoadedComponent { resident_bytes: resident, segments, ..described(component, entry) }
}

fn describe_on_card(entry: &CardEntry) -> LoadedComponent {
    let on_card = &entry.component;
    let (card, segments) = (Some(messages::card_memory(on_card)), vec![messages::card_segment(on_card)]);
    LoadedComponent { card, segments, ..described(&on_card.component, entry) }
}

/// What is the same of a component wherever it lies, and of its holders.
fn described<C>(component: &Component, entry: &leases::Entry<C>) -> LoadedComponent {
    let usage = entry.usage();
    let holders = usage.holders.iter().map(|(&lease, holder)| Holder {
        lease,
        pid: holder.pid,
        name: holder.name.clone(),
        since: Some(holder.since.into()),
    });
    LoadedComponent {
        id: component.id.to_string(),
        name: component.name.clone(),
        family: component.family.to_owned(),
        layout: messages::layout(component.layout).into(),
        model: Some(messages::model(&component.model)),
        tensor_count: u32::try_from(component.tensors.len()).unwrap_or(u32::MAX),
        tensor_bytes: component.tensor_bytes(),
        holders: holders.collect(),
        loaded: Some(entry.loaded.into()),
        expires: usage.holders.is_empty().then(|| wall_clock(usage.warm_until).into()),
        requests: usage.requests,
        image: messages::image(component),
        ..LoadedComponent::default()
    }
}

/// The cards that components are on, or were.
fn cards(cache: &Cache) -> Vec<CardStatus> {
    let budget = cache.config().vram_budget.get();
    let departed =
        |(id, name, bytes): (ComponentId, String, u64)| DepartedComponent { id: id.to_string(), name, bytes };
    let card = |report: CardReport| CardStatus {
        device: report.card.to_string(),
        loaded_bytes: report.loaded,
        budget: (budget != u64::MAX).then_some(budget),
        leases: u32::try_from(report.leases).unwrap_or(u32::MAX),
        departed: report.departed.into_iter().map(departed).collect(),
    };
    cache.cards().into_iter().map(card).collect()
}

fn wall_clock(at: Instant) -> SystemTime {
    let now = Instant::now();
    SystemTime::now() + at.checked_duration_since(now).unwrap_or(Duration::ZERO)
}

pub(super) async fn get_status(context: &Context) -> GetStatusResponse {
    let cache = &context.cache;
    let config = cache.config();
    let keep_alive = config.keep_alive.get();
    // The wire's names for the source of ids.
    let hub = config.places.sources.of_ids();
    cache.recount_images();
    let seen = context.probe.look(&context.daemon, hub).await;
    let (components, leases, tensor_bytes) = cache.totals();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let load = |flight: crate::cache::FlightReport| RunningLoad {
        progress: Some(messages::progress(&flight.step, flight.sharers)),
        component: flight.component,
        spec: flight.spec,
    };
    let download = |(what, step, waiting): (String, crate::progress::Step, usize)| RunningDownload {
        what,
        progress: Some(messages::progress(&step, waiting)),
    };
    GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        socket: messages::path(&context.socket),
        started: Some(context.started.into()),
        components: count(components),
        leases: count(leases),
        tensor_bytes,
        memory_bytes: seen.memory_bytes,
        loads: cache.flights(LISTED_MAX).into_iter().map(load).collect(),
        downloads: cache.tools().fetcher.reports(LISTED_MAX).into_iter().map(download).collect(),
        hub_endpoint: hub.map(|hub| hub.address()).unwrap_or_default(),
        offline: config.places.sources.is_offline(),
        protocol: weightsd_proto::PROTOCOL,
        has_hub_token: seen.has_token,
        log_lines_lost: context.daemon.losses().lines(),
        connections: count(context.connections.len()),
        limits: Some(Limits {
            keep_alive_default: messages::duration(keep_alive.default),
            keep_alive_max: messages::duration(keep_alive.max),
            connections: count(context.connections.limit()),
            header_bytes: HEADER_BYTES_MAX,
            load_deadline: messages::duration(config.load_deadline),
            free_space_floor: config.free_space_floor.get(),
            image_budget: config.image_budget.get(),
            image_bytes: config.images.bytes(),
        }),
        pinned_bytes: context.cache.pinned_bytes(),
        cards: cards(cache),
        oldest_image_used: config.images.oldest_used().map(Into::into),
        hub_cache: config.places.hub_cache.as_deref().map(messages::path).unwrap_or_default(),
    }
}
