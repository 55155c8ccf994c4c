//! `Evict`: carries out what the policy decides, or only reports it.

use std::{collections::HashMap, sync::Arc};

use weightsd_core::{
    card::CardId,
    explain::{Explanation, Reason},
    identity::ComponentId,
    policy::{Decision, Fate, Wish},
};
use weightsd_proto::v1::{DerivedImage, EvictOutcome, EvictRequest, EvictResponse};

use super::{
    Context, Failure,
    messages::{self, Loaded},
    status,
};
use crate::{cache::Cache, component::Component, lanes::MayBlock};

pub(super) async fn evict(context: &Context, request: &EvictRequest) -> Result<EvictResponse, Failure> {
    let cache = &context.cache;
    let known = known(cache);
    let wish = match request.id.as_str() {
        "" => Wish::All,
        id => Wish::One(status::find_id(cache, id)?),
    };
    if request.images && !request.id.is_empty() {
        let hint = "leave out the id to delete the images that no loaded component lies in";
        return Err(Failure::invalid("images", "goes without an id", hint));
    }
    let decide = || decided(cache.decide(wish), cache.decide_on_cards(wish));
    // One that somebody holds, in files or on a card, stays whole.
    let mut decisions = decide();
    if !request.dry_run && (wish == Wish::All || held(&decisions).is_none()) {
        decisions = decided(cache.evict(wish), cache.evict_from_cards(wish));
    }
    if let (Wish::One(id), Some(decision)) = (wish, held(&decisions)) {
        let message = format!("component {id} is not dropped: {}", decision.reason);
        let hint = "`weightsd ls` shows who holds it; it can be dropped when they have let go";
        return Err(Failure::new(message, Explanation::new(Reason::InUse, id.to_string(), hint)));
    }
    let outcome = |(card, decision): (Option<CardId>, Decision)| {
        let component = known.get(&decision.id);
        EvictOutcome {
            id: decision.id.to_string(),
            name: component.map(|component| component.name.clone()).unwrap_or_default(),
            evicted: decision.fate == Fate::Dropped,
            reason: decision.reason,
            tensor_bytes: component.map(|component| component.tensor_bytes()).unwrap_or_default(),
            device: card.map(|card| card.to_string()).unwrap_or_default(),
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

/// The components that are loaded, in files or on cards.
fn known(cache: &Cache) -> HashMap<ComponentId, Arc<Component>> {
    let in_files = cache.entries().into_iter().map(|entry| Arc::clone(&entry.component));
    let on_cards = cache.card_entries().into_iter().map(|entry| Arc::clone(&entry.component.component));
    in_files.chain(on_cards).map(|component| (component.id, component)).collect()
}

/// Decisions about components in files, and about those on cards.
fn decided(in_files: Vec<Decision>, on_cards: Vec<(CardId, Decision)>) -> Vec<(Option<CardId>, Decision)> {
    let in_files = in_files.into_iter().map(|decision| (None, decision));
    in_files.chain(on_cards.into_iter().map(|(card, decision)| (Some(card), decision))).collect()
}

/// The first that stays.
fn held(decisions: &[(Option<CardId>, Decision)]) -> Option<&Decision> {
    decisions.iter().map(|(_, decision)| decision).find(|decision| decision.fate == Fate::Kept)
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
