//! Graphics cards: what they are called, where the tensors of a component lie in their memory, and which components go when
//! there is no room. Pure; nothing here speaks to a driver.

use std::{fmt, str::FromStr, time::Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    identity::ComponentId,
    policy::{Decision, Fate},
};

/// Every tensor begins at a multiple of this, in bytes. Kernels of all libraries may rely on it: CUDA's own allocator
/// promises the same.
pub const ALIGNMENT: u64 = 256;
/// Cards give memory in multiples of this, in bytes. What a card really gives is known once it was asked.
pub const GRANULE: u64 = 2 << 20;

/// The UUID of a card: the same in every process. Its index is not, because each process may see other cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CardId(pub [u8; 16]);

/// A text that is no UUID of a card.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no UUID of a card, expected the form GPU-8a2f71c4-0b3d-4e5f-8899-aabbccddeeff")]
pub struct NotACard(pub String);

impl fmt::Display for CardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for part in [&self.0[..4], &self.0[4..6], &self.0[6..8], &self.0[8..10], &self.0[10..]] {
            write!(f, "-{}", hex::encode(part))?;
        }
        Ok(())
    }
}

impl FromStr for CardId {
    type Err = NotACard;

    fn from_str(text: &str) -> Result<Self, NotACard> {
        let wrong = || NotACard(text.chars().take(64).collect());
        let digits = text.strip_prefix("GPU-").ok_or_else(wrong)?;
        let parts: Vec<&str> = digits.split('-').collect();
        if !parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(parts.concat(), &mut bytes).map_err(|_| wrong())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for CardId {
    type Error = NotACard;

    fn try_from(text: String) -> Result<Self, NotACard> {
        text.parse()
    }
}

impl From<CardId> for String {
    fn from(card: CardId) -> Self {
        card.to_string()
    }
}

/// Where tensors lie in one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrangement {
    /// The first byte of each tensor.
    pub offsets: Vec<u64>,
    /// Bytes that the allocation needs.
    pub bytes: u64,
}

/// Lays tensors of these lengths one after the other, each at a multiple of [`ALIGNMENT`]. `None` when no allocation could be
/// so long.
#[must_use]
pub fn arrange(lengths: impl IntoIterator<Item = u64>) -> Option<Arrangement> {
    let (mut offsets, mut end) = (Vec::new(), 0_u64);
    for length in lengths {
        let start = end.checked_next_multiple_of(ALIGNMENT)?;
        offsets.push(start);
        end = start.checked_add(length)?;
    }
    // An allocation of no bytes is none.
    let bytes = end.max(1).checked_next_multiple_of(GRANULE)?;
    Some(Arrangement { offsets, bytes })
}

/// What is known of a component in a card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardFacts {
    /// Which.
    pub id: ComponentId,
    /// Bytes of its allocation.
    pub bytes: u64,
    /// When it was last held; `None` while somebody holds it.
    pub idle_since: Option<Instant>,
}

/// Why a component has no room in a card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{needed} bytes of the card's memory are needed, `vram_budget` is {budget} bytes, {held} of them are held, and {departed} \
     are kept by processes that still have evicted components mapped"
)]
pub struct NoVram {
    /// What is needed.
    pub needed: u64,
    /// The budget.
    pub budget: u64,
    /// Bytes of components that somebody holds.
    pub held: u64,
    /// Bytes of components that were dropped, and that processes keep.
    pub departed: u64,
}

/// The components that go so that one of `needed` bytes fits into `budget`: those that nobody holds, the least recently used
/// first, and no more than it takes. `departed` are bytes that dropping frees no more.
///
/// # Errors
/// When there is no room even without all components that nobody holds. Then none should be dropped.
pub fn make_room(loaded: &[CardFacts], departed: u64, needed: u64, budget: u64) -> Result<Vec<Decision>, NoVram> {
    let held: u64 = loaded.iter().filter(|facts| facts.idle_since.is_none()).map(|facts| facts.bytes).sum();
    let fits = |taken: u64| taken.checked_add(needed).is_some_and(|sum| sum <= budget);
    if !held.checked_add(departed).is_some_and(fits) {
        return Err(NoVram { needed, budget, held, departed });
    }
    let mut taken = loaded.iter().fold(departed, |sum, facts| sum.saturating_add(facts.bytes));
    let mut decisions = Vec::new();
    for facts in idle(loaded) {
        if fits(taken) {
            break;
        }
        taken -= facts.bytes;
        let reason = "the least recently used on its card, and `vram_budget` is spent".to_owned();
        decisions.push(Decision { id: facts.id, fate: Fate::Dropped, reason });
    }
    Ok(decisions)
}

/// The component that goes when the card itself says that it is full: the least recently used one that nobody holds.
#[must_use]
pub fn next_to_go(loaded: &[CardFacts]) -> Option<Decision> {
    let reason = || "the least recently used on its card, and the card is full".to_owned();
    idle(loaded).first().map(|facts| Decision { id: facts.id, fate: Fate::Dropped, reason: reason() })
}

/// Those that nobody holds, the least recently used first.
fn idle(loaded: &[CardFacts]) -> Vec<CardFacts> {
    let mut idle: Vec<CardFacts> = loaded.iter().filter(|facts| facts.idle_since.is_some()).copied().collect();
    idle.sort_by_key(|facts| (facts.idle_since, facts.id));
    idle
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_card_is_named_as_its_driver_names_it() {
        let text = "GPU-26c4b9f4-82ee-1fe4-2def-40a33a4a968c";
        let card: CardId = text.parse().unwrap();
        assert_eq!((card.0[0], card.0[15], card.to_string().as_str()), (0x26, 0x8c, text));
        assert_eq!(serde_json::from_str::<CardId>(&serde_json::to_string(&card).unwrap()).unwrap(), card);
        let wrong =
            ["", "cuda", "0", &text[4..], &text[..39], "GPU-26c4b9f482ee1fe42def40a33a4a968c", "GPU-x", &text[..40]];
        for wrong in wrong.iter().filter(|wrong| **wrong != text) {
            assert!(wrong.parse::<CardId>().is_err(), "{wrong}");
        }
        assert!(format!("GPU-{}", "z".repeat(36)).parse::<CardId>().is_err());
    }

    #[test]
    fn tensors_begin_at_aligned_places_and_the_whole_is_what_cards_give() {
        let Arrangement { offsets, bytes } = arrange([1, 256, 257, 0, 5]).unwrap();
        assert_eq!((offsets, bytes), (vec![0, 256, 512, 1024, 1024], GRANULE));
        assert_eq!(arrange([]).unwrap().bytes, GRANULE);
        assert_eq!(arrange([GRANULE, 1]).unwrap().bytes, 2 * GRANULE);
        assert_eq!(arrange([u64::MAX - 10, 100]), None);
        assert_eq!(arrange([u64::MAX - 10]), None);
    }

    fn facts(number: u8, bytes: u64, is_held: bool) -> CardFacts {
        // Moments only differ by their distance.
        let start = *START.get_or_init(Instant::now);
        let idle_since = (!is_held).then(|| start + Duration::from_secs(number.into()));
        CardFacts { id: format!("{number:064x}").parse().unwrap(), bytes, idle_since }
    }
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    #[test]
    fn the_least_recently_used_go_and_no_more_than_it_takes() {
        let loaded = [facts(3, 30, false), facts(1, 10, false), facts(2, 20, true), facts(4, 40, false)];
        let gone = |needed, departed, budget| {
            let decisions = make_room(&loaded, departed, needed, budget)?;
            Ok(decisions.iter().map(|decision| loaded.iter().find(|it| it.id == decision.id).unwrap().bytes).collect())
        };
        let none: Result<Vec<u64>, NoVram> = Ok(vec![]);
        assert_eq!(gone(50, 0, 150), none);
        assert_eq!(gone(50, 0, 149), Ok(vec![10]));
        assert_eq!(gone(50, 1, 150), Ok(vec![10]));
        assert_eq!(gone(50, 0, 139), Ok(vec![10, 30]));
        assert_eq!(gone(50, 0, 70), Ok(vec![10, 30, 40]));
        assert_eq!(gone(50, 0, 69), Err(NoVram { needed: 50, budget: 69, held: 20, departed: 0 }));
        assert_eq!(gone(50, 1, 70), Err(NoVram { needed: 50, budget: 70, held: 20, departed: 1 }));
        assert_eq!(
            gone(u64::MAX, 7, u64::MAX),
            Err(NoVram { needed: u64::MAX, budget: u64::MAX, held: 20, departed: 7 })
        );
        assert_eq!(next_to_go(&loaded).unwrap().id, loaded[1].id);
        assert_eq!(next_to_go(&loaded[2..3]), None);
    }
}
