//! Decides what is dropped, what is kept, and why: pure functions from facts and `now` to decisions. A dry run shows the
//! same decisions.

use std::time::{Duration, Instant};

use crate::identity::ComponentId;

/// How long components stay warm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAliveLimits {
    /// Granted when none is asked for.
    pub default: Duration,
    /// The longest that is granted.
    pub max: Duration,
}

impl KeepAliveLimits {
    /// The keep-alive that a caller who asks for `asked` gets.
    #[must_use]
    pub fn grant(&self, asked: Option<Duration>) -> Duration {
        asked.unwrap_or(self.default).min(self.max)
    }
}

/// What the policy knows of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which.
    pub id: ComponentId,
    /// Leases on it.
    pub leases: usize,
    /// Until when it stays warm, by the wishes of its past holders.
    pub warm_until: Instant,
}

impl Facts {
    /// When it is dropped if nobody asks for it; `None` while it is leased.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        (self.leases == 0).then_some(self.warm_until)
    }
}

/// What is to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// What has outlived its keep-alive.
    Expired,
    /// Everything that nobody holds.
    All,
    /// One component, if nobody holds it.
    One(ComponentId),
}

/// What happens to a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes.
    Dropped,
    /// It stays.
    Kept,
}

/// What happens to a component, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub id: ComponentId,
    /// What happens.
    pub fate: Fate,
    /// Why.
    pub reason: String,
}

/// Decides about every component that `wish` concerns. A leased component is never dropped.
#[must_use]
pub fn decide(facts: &[Facts], wish: Wish, now: Instant) -> Vec<Decision> {
    let is_concerned = |fact: &&Facts| match wish {
        Wish::Expired | Wish::All => true,
        Wish::One(id) => fact.id == id,
    };
    facts.iter().filter(is_concerned).map(|fact| decide_one(fact, wish, now)).collect()
}

/// Decides about one component that `wish` concerns.
#[must_use]
pub fn decide_one(fact: &Facts, wish: Wish, now: Instant) -> Decision {
    let (fate, reason) = match (fact.expires(), wish) {
        (None, _) => (Fate::Kept, format!("held by {} lease(s)", fact.leases)),
        (Some(at), Wish::Expired) if at > now => (Fate::Kept, "still within its keep-alive".to_owned()),
        (Some(_), Wish::Expired) => (Fate::Dropped, "idle beyond its keep-alive".to_owned()),
        (Some(_), Wish::All | Wish::One(_)) => (Fate::Dropped, "asked for, and nobody holds it".to_owned()),
    };
    Decision { id: fact.id, fate, reason }
}

/// What idle components take together, or may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Idle {
    /// Components.
    pub components: usize,
    /// Files that they hold open.
    pub files: usize,
    /// Bytes of the daemon's own memory that describe them.
    pub memory_bytes: u64,
}

impl Idle {
    /// Which of `bounds` it exceeds, in words.
    #[must_use]
    pub fn exceeds(&self, bounds: &Self) -> Option<String> {
        if self.components > bounds.components {
            return Some(format!("{} idle components are kept, of {} allowed", self.components, bounds.components));
        }
        if self.files > bounds.files {
            return Some(format!("idle components hold {} files open, of {} allowed", self.files, bounds.files));
        }
        let memory = self.memory_bytes > bounds.memory_bytes;
        memory.then(|| {
            let (taken, allowed) = (self.memory_bytes, bounds.memory_bytes);
            format!("idle components take {taken} bytes of the daemon's memory, of {allowed} allowed")
        })
    }

    fn less(self, other: Self) -> Self {
        Self {
            components: self.components.saturating_sub(other.components),
            files: self.files.saturating_sub(other.files),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
        }
    }
}

/// What the policy knows of an idle component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleFacts {
    /// Which.
    pub id: ComponentId,
    /// When it was last held.
    pub used: Instant,
    /// What it takes.
    pub takes: Idle,
}

/// What goes when idle components exceed `bounds`: the least recently used, until an eighth of each bound is free, so that
/// the next component does not ask again at once.
#[must_use]
pub fn surplus(mut idle: Vec<IdleFacts>, bounds: Idle) -> Vec<Decision> {
    let mut taken = idle.iter().fold(Idle::default(), |sum, fact| Idle {
        components: sum.components + fact.takes.components,
        files: sum.files + fact.takes.files,
        memory_bytes: sum.memory_bytes.saturating_add(fact.takes.memory_bytes),
    });
    let Some(why) = taken.exceeds(&bounds) else { return Vec::new() };
    let wanted = Idle {
        components: bounds.components - bounds.components / 8,
        files: bounds.files - bounds.files / 8,
        memory_bytes: bounds.memory_bytes - bounds.memory_bytes / 8,
    };
    idle.sort_by_key(|fact| (fact.used, fact.id));
    let goes = |fact: IdleFacts| {
        taken.exceeds(&wanted)?;
        taken = taken.less(fact.takes);
        let reason = format!("{why}; it was used least recently");
        Some(Decision { id: fact.id, fate: Fate::Dropped, reason })
    };
    idle.into_iter().map_while(goes).collect()
}

/// When [`Wish::Expired`] next has something to drop.
#[must_use]
pub fn next_expiry(facts: &[Facts]) -> Option<Instant> {
    facts.iter().filter_map(Facts::expires).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalogue::AuditPolicy, identity::IdentityInputs, place::Layout};

    fn id(component: &str) -> ComponentId {
        ComponentId::of(&IdentityInputs {
            family: "",
            component,
            layout: Layout::Source,
            policy: AuditPolicy::Strict,
            config: b"",
            conversion: b"",
            shards: &[],
        })
    }

    #[test]
    fn leased_things_stay_and_idle_things_go_in_time() {
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        let fact = |name, leases, warm| Facts { id: id(name), leases, warm_until: start + warm };
        let facts = [fact("held", 1, Duration::ZERO), fact("warm", 0, minute), fact("cold", 0, Duration::ZERO)];
        let evicted = |wish, now| -> Vec<bool> {
            decide(&facts, wish, now).iter().map(|decision| decision.fate == Fate::Dropped).collect()
        };
        assert_eq!(evicted(Wish::Expired, start), [false, false, true]);
        assert_eq!(evicted(Wish::Expired, start + minute), [false, true, true]);
        assert_eq!(evicted(Wish::All, start), [false, true, true]);
        assert_eq!(evicted(Wish::One(id("held")), start), [false]);
        assert_eq!(next_expiry(&facts), Some(start));
        assert_eq!(next_expiry(&facts[..1]), None);
    }

    #[test]
    fn what_is_idle_goes_when_there_is_too_much_of_it_and_the_least_recently_used_goes_first() {
        let start = Instant::now();
        let takes = Idle { components: 1, files: 2, memory_bytes: 100 };
        let fact =
            |number: u64| IdleFacts { id: id(&number.to_string()), used: start + Duration::from_secs(number), takes };
        let idle = || (0..20).rev().map(fact).collect::<Vec<_>>();
        let bounds = Idle { components: 100, files: 1000, memory_bytes: 100_000 };
        assert_eq!(surplus(idle(), bounds), []);
        // Each bound alone, and an eighth of it stays free: of 16 components 14 stay.
        for bounds in
            [Idle { components: 16, ..bounds }, Idle { files: 32, ..bounds }, Idle { memory_bytes: 1600, ..bounds }]
        {
            let gone: Vec<_> = surplus(idle(), bounds).into_iter().map(|decision| decision.id).collect();
            assert_eq!(gone, (0..6).map(|number| fact(number).id).collect::<Vec<_>>(), "{bounds:?}");
        }
        assert!(surplus(idle(), Idle { files: 32, ..bounds })[0].reason.contains("40 files open, of 32 allowed"));
        assert_eq!(surplus(idle(), Idle::default()).len(), 20, "nothing may be idle");
    }

    #[test]
    fn keep_alive_is_clamped() {
        let limits = KeepAliveLimits { default: Duration::from_secs(5), max: Duration::from_secs(10) };
        assert_eq!(limits.grant(None), Duration::from_secs(5));
        assert_eq!(limits.grant(Some(Duration::from_secs(99))), Duration::from_secs(10));
        assert_eq!(limits.grant(Some(Duration::ZERO)), Duration::ZERO);
    }
}
