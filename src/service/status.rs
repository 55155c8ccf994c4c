//! `ListComponents`, `GetComponent` and `GetStatus`: what is loaded, who holds it, and how the daemon fares.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use weightsd_core::{
    explain::{Explanation, Reason},
    header::HEADER_BYTES_MAX,
    identity::ComponentId,
};
use weightsd_proto::v1::{
    GetComponentRequest, GetComponentResponse, GetStatusResponse, Holder, Limits, ListComponentsRequest,
    ListComponentsResponse, LoadedComponent, RunningDownload, RunningLoad,
};
use weightsd_segment::MemoryUse;

use super::{
    Context, Failure,
    messages::{self, Loaded},
};
use crate::{
    cache::{Cache, Entry},
    pipeline::blocking,
};

/// Digits of an id that name it.
const ID_DIGITS_MIN: usize = 8;
/// Digits that an id has.
const ID_DIGITS_MAX: usize = 64;

pub(super) async fn list_components(
    context: &Context,
    request: ListComponentsRequest,
) -> Result<ListComponentsResponse, Failure> {
    let entries = context.cache.entries();
    let residency = if request.residency { Residency::Measured } else { Residency::NotAsked };
    let describe = move || entries.iter().map(|entry| describe(entry, residency)).collect();
    let images = if request.images {
        let cache = Arc::clone(&context.cache);
        let list = move || {
            let stored = cache.config().images.list();
            stored.iter().map(|stored| messages::stored(stored, loaded(&cache, stored.id))).collect()
        };
        blocking("listing images", list).await.map_err(|error| Failure::from(&error))?
    } else {
        Vec::new()
    };
    let components = match residency {
        Residency::NotAsked => describe(),
        Residency::Measured => {
            blocking("measuring residency", describe).await.map_err(|error| Failure::from(&error))?
        }
    };
    Ok(ListComponentsResponse { components, images })
}

pub(super) async fn get_component(
    context: &Context,
    request: GetComponentRequest,
) -> Result<GetComponentResponse, Failure> {
    let entry = find(&context.cache, &request.id)?;
    let answer = move || GetComponentResponse {
        component: Some(describe(&entry, Residency::Measured)),
        audit: Some(messages::component_audit(&entry.component)),
        config_json: entry.component.config_json.clone(),
    };
    blocking("measuring residency", answer).await.map_err(|error| Failure::from(&error))
}

/// The loaded component whose id begins with `digits`.
pub(super) fn find(cache: &Cache, digits: &str) -> Result<Arc<Entry>, Failure> {
    let length = ID_DIGITS_MIN..=ID_DIGITS_MAX;
    if !length.contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let shown: String = digits.chars().take(ID_DIGITS_MAX).collect();
        let problem =
            format!("is {shown:?}, expected {ID_DIGITS_MIN} to {ID_DIGITS_MAX} hex digits of a component's id");
        return Err(Failure::invalid("id", &problem, "`weightsd ls` lists the ids"));
    }
    let digits = digits.to_ascii_lowercase();
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

fn loaded(cache: &Cache, id: ComponentId) -> Loaded {
    if cache.is_loaded(id) { Loaded::Yes } else { Loaded::No }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Residency {
    Measured,
    NotAsked,
}

fn describe(entry: &Entry, residency: Residency) -> LoadedComponent {
    let component = &entry.component;
    let resident = match residency {
        Residency::NotAsked => 0,
        // A file that cannot be measured shows as 0; it is still lent.
        Residency::Measured => {
            component.segments.iter().filter_map(|segment| segment.file().resident_bytes().ok()).sum()
        }
    };
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
        resident_bytes: resident,
        holders: holders.collect(),
        loaded: Some(entry.loaded.into()),
        expires: usage.holders.is_empty().then(|| wall_clock(usage.warm_until).into()),
        segments: component.segments.iter().map(messages::segment).collect(),
        requests: usage.requests,
        image: messages::image(component),
    }
}

fn wall_clock(at: Instant) -> SystemTime {
    let now = Instant::now();
    SystemTime::now() + at.checked_duration_since(now).unwrap_or(Duration::ZERO)
}

pub(super) async fn get_status(context: &Context) -> GetStatusResponse {
    let cache = &context.cache;
    let config = cache.config();
    // The wire's names for the source of ids.
    let hub = config.places.sources.of_ids();
    let entries = cache.entries();
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
        components: count(entries.len()),
        leases: count(entries.iter().map(|entry| entry.usage().holders.len()).sum()),
        tensor_bytes: entries.iter().map(|entry| entry.component.tensor_bytes()).sum(),
        memory_bytes: MemoryUse::of_self().map(|memory| memory.resident).unwrap_or_default(),
        loads: cache.flights().into_iter().map(load).collect(),
        downloads: cache.tools().fetcher.reports().into_iter().map(download).collect(),
        hub_endpoint: hub.map(|hub| hub.address()).unwrap_or_default(),
        offline: config.places.sources.is_offline(),
        protocol: weightsd_proto::PROTOCOL,
        has_hub_token: match hub {
            Some(hub) => context.token.has_credentials(hub).await,
            None => false,
        },
        connections: count(context.connections.load(Ordering::Relaxed)),
        limits: Some(Limits {
            keep_alive_default: messages::duration(config.keep_alive.default),
            keep_alive_max: messages::duration(config.keep_alive.max),
            connections: count(context.connections_max),
            header_bytes: HEADER_BYTES_MAX,
            load_deadline: messages::duration(config.load_deadline),
            free_space_floor: config.free_space_floor,
            image_budget: config.image_budget,
            image_bytes: config.images.bytes(),
        }),
        hub_cache: config.places.hub_cache.as_deref().map(messages::path).unwrap_or_default(),
    }
}
