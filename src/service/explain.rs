//! `Explain`: why a component or an image is here, how long it stays, and what would push it out. The sentences are made from
//! what the policy and the budget decide by.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use humansize::{DECIMAL, format_size};
use weightsd_core::{
    budget::{self, Standing},
    explain::{Explanation, Reason},
    identity::ComponentId,
    policy::Wish,
};
use weightsd_proto::v1::ExplainResponse;

use super::{
    Context, Failure,
    messages::{self, Loaded},
    status,
};
use crate::{
    cache::{Cache, Entry},
    derive::StoredImage,
    lanes::MayBlock,
};

/// Holders that are named one by one.
const HOLDERS_MAX: usize = 16;

/// What is said of a component or an image.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    why: Vec<String>,
    stays: Vec<String>,
    pushed_out_by: Vec<String>,
}

pub(super) async fn explain(context: &Context, digits: &str) -> Result<ExplainResponse, Failure> {
    let digits = status::digits(digits)?;
    let cache = Arc::clone(&context.cache);
    let look = move |may: &MayBlock<'_>| {
        let images = cache.config().images.list(may);
        let room = cache.config().images.folder().map(|folder| cache.room(folder, may));
        (images, room)
    };
    let looked = context.cache.with_images("listing images", look).await;
    let (images, room) = looked.map_err(|error| Failure::from(&error))?;
    let id = the_one(&context.cache, &images, &digits)?;
    let entry = context.cache.entries().into_iter().find(|entry| entry.component.id == id);
    let image = images.iter().find(|image| image.id == id);
    let standing = room.and_then(|room| budget::standing(&context.cache.image_facts(&images), id, room));
    let mut words = Words::default();
    if let Some(entry) = &entry {
        words.of_component(entry, &context.cache);
    }
    if let (Some(image), Some(standing)) = (image, standing) {
        words.of_image(image, standing, SystemTime::now());
    }
    Ok(ExplainResponse {
        id: id.to_string(),
        component: entry.as_ref().map(|entry| status::describe(entry, 0)),
        image: image.map(|image| messages::stored(image, if entry.is_some() { Loaded::Yes } else { Loaded::No })),
        why: words.why,
        stays: words.stays,
        pushed_out_by: words.pushed_out_by,
        spares: match standing {
            Some(Standing::InTurn { spares, .. }) => spares,
            Some(Standing::Held) | None => None,
        },
    })
}

/// The only id of a component or an image that begins with `digits`.
fn the_one(cache: &Cache, images: &[StoredImage], digits: &str) -> Result<ComponentId, Failure> {
    let loaded = cache.entries().into_iter().map(|entry| entry.component.id);
    let mut ids: Vec<_> = loaded.chain(images.iter().map(|image| image.id)).collect();
    ids.retain(|id| id.to_string().starts_with(digits));
    ids.sort_unstable();
    ids.dedup();
    match *ids.as_slice() {
        [id] => Ok(id),
        [] => {
            let message = format!("no component with id {digits} is loaded, and no image with it is on the disk");
            let hint = "`weightsd ls --images` lists the ids of both";
            Err(Failure::new(message, Explanation::new(Reason::NotLoaded, digits, hint)))
        }
        _ => Err(Failure::invalid("id", "is the beginning of several ids", "give more digits")),
    }
}

impl Words {
    fn of_component(&mut self, entry: &Entry, cache: &Cache) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let usage = entry.usage();
        let (holders, requests, warm_until) = (usage.holders.clone(), usage.requests, usage.warm_until);
        drop(usage);
        let times = if requests == 1 { "once".to_owned() } else { format!("{requests} times") };
        self.why.push(format!(
            "it was loaded {} ago, for a request for {}, and asked for {times}",
            span(age(entry.loaded, clock)),
            entry.component.model
        ));
        for holder in holders.values().take(HOLDERS_MAX) {
            self.why.push(format!(
                "{} ({}) holds it since {}",
                holder.name,
                holder.pid,
                span(age(holder.since, clock))
            ));
        }
        if let Some(more) = holders.len().checked_sub(HOLDERS_MAX).filter(|&more| more > 0) {
            self.why.push(format!("and {more} more hold it"));
        }
        let idle = warm_until.saturating_duration_since(now);
        match holders.values().map(|holder| holder.keep_alive).max() {
            Some(keep_alive) => {
                self.stays.push(format!("while it is held, and then {} more", span(keep_alive.max(idle))));
                self.pushed_out_by.push(
                    "nothing: what is held is never dropped; when its files change, it is no longer lent to others"
                        .to_owned(),
                );
            }
            None => {
                let decided = cache.decide(Wish::Expired).into_iter().find(|it| it.id == entry.component.id);
                let reason = decided.map(|decision| format!(": it is {}", decision.reason)).unwrap_or_default();
                self.stays.push(format!("{} more, unless somebody asks for it{reason}", span(idle)));
                self.pushed_out_by.push("`weightsd evict`, and a change of its files".to_owned());
            }
        }
    }

    fn of_image(&mut self, image: &StoredImage, standing: Standing, now: SystemTime) {
        let made = span(age(image.made, now));
        self.why.push(match &image.provenance {
            Some(from) => format!(
                "its tensors were computed {made} ago from {} ({}), and take {}",
                from.made_from,
                from.conversion,
                size(image.bytes)
            ),
            None => format!("its tensors were computed {made} ago, and take {}", size(image.bytes)),
        });
        let used = span(age(image.used, now));
        match standing {
            Standing::Held => {
                self.stays.push("its image stays while somebody holds it".to_owned());
            }
            Standing::InTurn { before, bytes, spares } => {
                self.stays.push(format!(
                    "its image was used {used} ago, and stays until its room is needed: {before} images with {} go before it",
                    size(bytes)
                ));
                self.pushed_out_by.push(match spares {
                    Some(spares) => format!(
                        "a new image of more than {}, by the budget and the free space of now; and `weightsd evict --images`",
                        size(spares)
                    ),
                    None => "any new image: the budget or the disk is overdrawn; and `weightsd evict --images`".to_owned(),
                });
            }
        }
    }
}

fn age(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

/// Whole seconds.
fn span(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

fn size(bytes: u64) -> String {
    format_size(bytes, DECIMAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::Provenance;

    #[test]
    fn an_image_says_what_would_push_it_out() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100_000);
        let image = StoredImage {
            id: "ab".repeat(32).parse().unwrap(),
            path: "/images/a".into(),
            bytes: 12_300_000_000,
            provenance: Some(Provenance {
                component: "transformer".to_owned(),
                made_from: "org/repo@0123456789ab".to_owned(),
                conversion: "bf16".to_owned(),
                sources: Vec::new(),
            }),
            made: now - Duration::from_secs(7200),
            used: now - Duration::from_secs(300),
        };
        let say = |standing| {
            let mut words = Words::default();
            words.of_image(&image, standing, now);
            words
        };
        let why = "its tensors were computed 2h ago from org/repo@0123456789ab (bf16), and take 12.30 GB".to_owned();
        let words = say(Standing::InTurn { before: 2, bytes: 40_000_000_000, spares: Some(90_000_000_000) });
        assert_eq!(words.why, [why]);
        let stays = "its image was used 5m ago, and stays until its room is needed: 2 images with 40 GB go before it";
        assert_eq!(words.stays, [stays]);
        assert!(words.pushed_out_by[0].starts_with("a new image of more than 90 GB"), "{words:?}");
        assert!(
            say(Standing::InTurn { before: 0, bytes: 0, spares: None }).pushed_out_by[0].starts_with("any new image")
        );
        let held = say(Standing::Held);
        assert_eq!((held.stays.len(), held.pushed_out_by.len()), (1, 0));
    }
}
