//! `Evict`: carries out what the policy decides, or only reports it.

use std::{collections::HashMap, sync::Arc};

use weightsd_core::{
    explain::{Explanation, Reason},
    policy::{Fate, Wish},
};
use weightsd_proto::v1::{DerivedImage, EvictOutcome, EvictRequest, EvictResponse};

use super::{
    Context, Failure,
    messages::{self, Loaded},
    status,
};
use crate::{cache::Cache, lanes::MayBlock};

pub(super) async fn evict(context: &Context, request: &EvictRequest) -> Result<EvictResponse, Failure> {
    let cache = &context.cache;
    let known: HashMap<_, _> = cache.entries().into_iter().map(|entry| (entry.component.id, entry)).collect();
    let wish = match request.id.as_str() {
        "" => Wish::All,
        id => Wish::One(status::find(cache, id)?.component.id),
    };
    if request.images && !request.id.is_empty() {
        let hint = "leave out the id to delete the images that no loaded component lies in";
        return Err(Failure::invalid("images", "goes without an id", hint));
    }
    let decisions = if request.dry_run { cache.decide(wish) } else { cache.evict(wish) };
    if let (Wish::One(id), Some(decision)) = (wish, decisions.first().filter(|decision| decision.fate == Fate::Kept)) {
        let message = format!("component {id} is not dropped: {}", decision.reason);
        let hint = "`weightsd ls` shows who holds it; it can be dropped when they have let go";
        return Err(Failure::new(message, Explanation::new(Reason::InUse, id.to_string(), hint)));
    }
    let outcome = |decision: weightsd_core::policy::Decision| {
        let component = known.get(&decision.id).map(|entry| &entry.component);
        EvictOutcome {
            id: decision.id.to_string(),
            name: component.map(|component| component.name.clone()).unwrap_or_default(),
            evicted: decision.fate == Fate::Dropped,
            reason: decision.reason,
            tensor_bytes: component.map(|component| component.tensor_bytes()).unwrap_or_default(),
        }
    };
    let outcomes = decisions.into_iter().map(outcome).collect();
    let images = if request.images {
        let (deleting, doing) = (Arc::clone(cache), if request.dry_run { Doing::Telling } else { Doing::Deleting });
        cache
            .with_images("deleting images", move |may| delete_images(&deleting, doing, may))
            .await
            .map_err(|error| Failure::from(&error))??
    } else {
        Vec::new()
    };
    Ok(EvictResponse { outcomes, images })
}

/// Whether images are deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Deleting,
    /// They are only listed.
    Telling,
}

/// Deletes the images that no loaded component lies in, or only lists them.
fn delete_images(cache: &Cache, doing: Doing, may: &MayBlock<'_>) -> Result<Vec<DerivedImage>, Failure> {
    let mut gone = Vec::new();
    // Components that nobody holds have just been dropped, or would be.
    for stored in cache.unheld_images(may) {
        // Somebody may have leased it since.
        let is_gone = doing == Doing::Telling
            || cache.delete_image(stored.id, "asked for, and nobody holds it", may).map_err(|error| {
                let hint = "see the daemon's log, and who may write to its cache";
                Failure::new(error.to_string(), Explanation::new(Reason::OwnFiles, stored.id.to_string(), hint))
            })?;
        if is_gone {
            gone.push(messages::stored(&stored, Loaded::No));
        }
    }
    Ok(gone)
}
