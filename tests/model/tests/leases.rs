//! What the lease table promises, in many orders in which requests, clients, the janitor and eviction may run: nothing is
//! dropped while somebody holds it, no lease is lost, every keep-alive is kept, and what nobody wants goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use shuttle::{
    check_dfs, check_pct, check_random,
    future::{block_on, spawn, yield_now},
};
use weightsd_core::{handoff::Given, identity::ComponentId, policy::Wish};
use weightsd_model::{
    leases::{Holder, Lease, LeaseEvent, LeaseTable, TO_FIRST_LEASE},
    sync::{now, pass_until, reset_clock},
};

/// Schedules that are tried where there are too many to try all.
const SCHEDULES: usize = 20_000;
/// Changes of priority in one schedule of `check_pct`: most faults need three at most.
const DEPTH: usize = 3;

const MINUTE: Duration = Duration::from_secs(60);

/// What the table lends here: the number of the load that made it.
type Loaded = usize;

/// A table, with what it told of its leases.
#[derive(Clone)]
struct Stage {
    table: Arc<LeaseTable<Loaded>>,
    began: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
}

fn id() -> ComponentId {
    "ab".repeat(32).parse().unwrap()
}

fn holder(keep_alive: Duration) -> Holder {
    Holder { pid: 1, name: String::new(), since: SystemTime::UNIX_EPOCH, keep_alive, given: Given::Originals, takes_sheet: false }
}

impl Stage {
    fn new() -> Self {
        reset_clock();
        let (began, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (begins, ends) = (Arc::clone(&began), Arc::clone(&ended));
        let table = LeaseTable::new(Box::new(move |event, _, _| {
            let count = match event {
                LeaseEvent::Began => &begins,
                LeaseEvent::Ended => &ends,
            };
            count.fetch_add(1, Ordering::SeqCst);
        }));
        Self { table, began, ended, loads: Arc::default() }
    }

    /// A load that has ended.
    fn load(&self) -> Arc<Loaded> {
        Arc::new(self.loads.fetch_add(1, Ordering::SeqCst))
    }

    /// Leases as the daemon does: the component that is kept, or one that is loaded now.
    fn acquire(&self, keep_alive: Duration) -> Lease<Loaded> {
        let holder = holder(keep_alive);
        self.table.lease(id(), &holder).unwrap_or_else(|| {
            let loaded = self.load();
            self.table.keep(id(), Arc::clone(&loaded));
            self.table.lease_or_keep(id(), loaded, &holder)
        })
    }

    /// What holds for as long as a lease does, unless the component was withdrawn.
    fn assert_held(&self, lease: &Lease<Loaded>) {
        let kept = self.table.get(id()).expect("what is held is in the table");
        assert!(Arc::ptr_eq(&kept, lease.entry()), "another component took the place of one that is held");
        self.assert_counted(lease);
    }

    fn assert_counted(&self, lease: &Lease<Loaded>) {
        assert!(lease.entry().usage().holders.contains_key(&lease.number()), "a lease is lost");
        let redeemed = self.table.redeem(lease.ticket()).expect("the ticket of a lease is good");
        assert!(Arc::ptr_eq(&redeemed.component, lease.component()));
    }

    /// What holds when all leases are over.
    fn assert_settled(&self, leases: usize) {
        assert_eq!(self.began.load(Ordering::SeqCst), leases);
        assert_eq!(self.ended.load(Ordering::SeqCst), leases, "a lease did not end");
        assert_eq!(self.table.held(), 0, "a lease that ended counts");
        for entry in self.table.entries() {
            assert!(entry.usage().holders.is_empty(), "a holder is left over");
        }
    }

    /// A client that holds the component for some time, and looks at it again and again.
    async fn client(self, keep_alive: Duration) {
        let lease = self.acquire(keep_alive);
        for _ in 0..2 {
            self.assert_held(&lease);
            yield_now().await;
        }
        self.assert_held(&lease);
        let ticket = lease.ticket();
        drop(lease);
        assert!(self.table.redeem(ticket).is_none(), "a ticket outlives its lease");
    }

    /// Drops what nobody holds, as the call `Evict` does. Nothing that it drops is held.
    fn evict(&self, wish: Wish) {
        for (_, dropped) in self.table.evict(wish) {
            if let Some(entry) = dropped {
                assert!(entry.usage().holders.is_empty(), "what was dropped is held");
            }
        }
    }
}

fn nothing_that_is_held_is_evicted(clients: usize) {
    let stage = Stage::new();
    block_on(async move {
        let holding: Vec<_> = (0..clients).map(|_| spawn(stage.clone().client(Duration::ZERO))).collect();
        let evicting = spawn({
            let stage = stage.clone();
            async move {
                for wish in [Wish::All, Wish::One(id()), Wish::Expired] {
                    stage.evict(wish);
                    yield_now().await;
                }
            }
        });
        for client in holding {
            client.await.unwrap();
        }
        evicting.await.unwrap();
        stage.assert_settled(clients);
        // Nobody holds it, so it can go.
        stage.evict(Wish::All);
        assert!(stage.table.entries().is_empty());
    });
}

#[test]
fn nothing_that_is_held_is_evicted_whatever_the_order() {
    check_dfs(|| nothing_that_is_held_is_evicted(1), Some(SCHEDULES));
    check_random(|| nothing_that_is_held_is_evicted(3), SCHEDULES);
    check_pct(|| nothing_that_is_held_is_evicted(3), SCHEDULES, DEPTH);
}

/// An image is deleted, which drops the component in it unless somebody holds that.
fn an_image_that_is_held_is_not_deleted() {
    let stage = Stage::new();
    block_on(async move {
        let client = spawn(stage.clone().client(MINUTE));
        let deleting = spawn({
            let stage = stage.clone();
            async move {
                stage.table.drop_unheld(id());
            }
        });
        client.await.unwrap();
        deleting.await.unwrap();
        stage.assert_settled(1);
    });
}

#[test]
fn an_image_that_is_held_is_not_deleted_whatever_the_order() {
    check_dfs(an_image_that_is_held_is_not_deleted, Some(SCHEDULES));
}

/// A client dies at some moment: its stream is dropped, and with it the lease, wherever the task stands.
fn the_lease_of_a_client_that_dies_ends() {
    let stage = Stage::new();
    block_on(async move {
        let dying = spawn({
            let stage = stage.clone();
            async move {
                let lease = stage.acquire(Duration::ZERO);
                stage.assert_held(&lease);
                std::future::pending::<()>().await;
            }
        });
        let living = spawn(stage.clone().client(Duration::ZERO));
        yield_now().await;
        dying.abort();
        let _ = dying.await;
        living.await.unwrap();
        let begun = stage.began.load(Ordering::SeqCst);
        stage.assert_settled(begun);
        stage.evict(Wish::All);
        assert!(stage.table.entries().is_empty(), "a dead client holds it");
    });
}

#[test]
fn the_lease_of_a_client_that_dies_ends_whatever_the_order() {
    check_random(the_lease_of_a_client_that_dies_ends, SCHEDULES);
    check_pct(the_lease_of_a_client_that_dies_ends, SCHEDULES, DEPTH);
}

/// A file changed: the component is withdrawn while clients hold it. They keep what they have, and requests from then on
/// get another one, whose leases those of the old one do not touch.
fn a_withdrawn_component_is_lent_to_nobody_else() {
    let stage = Stage::new();
    block_on(async move {
        let old = stage.acquire(Duration::ZERO);
        let changed = Arc::clone(old.entry());
        let withdrawing = spawn({
            let (stage, changed) = (stage.clone(), Arc::clone(&changed));
            async move {
                // It may be gone already, if its holder let go and it was evicted.
                stage.table.withdraw(&changed);
                let new = stage.acquire(Duration::ZERO);
                assert!(!Arc::ptr_eq(new.entry(), &changed), "a changed component is lent");
                for _ in 0..2 {
                    stage.assert_held(&new);
                    yield_now().await;
                }
            }
        });
        let evicting = spawn({
            let stage = stage.clone();
            async move { stage.evict(Wish::All) }
        });
        yield_now().await;
        stage.assert_counted(&old);
        drop(old);
        withdrawing.await.unwrap();
        evicting.await.unwrap();
        stage.assert_settled(2);
        assert!(changed.usage().holders.is_empty());
    });
}

#[test]
fn a_withdrawn_component_is_lent_to_nobody_else_whatever_the_order() {
    check_dfs(a_withdrawn_component_is_lent_to_nobody_else, Some(SCHEDULES));
    check_random(a_withdrawn_component_is_lent_to_nobody_else, SCHEDULES);
}

/// The janitor, as the daemon runs it. Its sleep ends at any time, and the clock is then where it should be.
async fn janitor(stage: Stage) {
    let sleep_until = |moment| async move {
        yield_now().await;
        pass_until(moment);
    };
    let evict = || {
        for (_, dropped) in stage.table.evict(Wish::Expired) {
            let Some(entry) = dropped else { continue };
            let usage = entry.usage();
            assert!(usage.holders.is_empty(), "what was dropped is held");
            assert!(usage.warm_until <= now(), "what was dropped is to stay warm");
        }
    };
    stage.table.when_due(sleep_until, evict).await;
}

/// Clients come, hold and go, with keep-alives of their own, and a load that nobody waits for ends meanwhile. The janitor
/// drops the component, but not before the longest keep-alive is over, and it never sleeps through an expiry.
fn what_nobody_wants_goes_when_its_keep_alive_is_over(clients: usize) {
    let stage = Stage::new();
    let start = now();
    block_on(async move {
        let cleaning = spawn(janitor(stage.clone()));
        let client = |keep_alive: Duration| {
            let stage = stage.clone();
            async move {
                let lease = stage.acquire(keep_alive);
                let entry = Arc::clone(lease.entry());
                yield_now().await;
                stage.assert_held(&lease);
                let released = now();
                drop(lease);
                assert!(entry.usage().warm_until >= released + keep_alive, "a keep-alive is lost");
            }
        };
        let wishes = [MINUTE, Duration::ZERO, MINUTE].into_iter().take(clients);
        let holding: Vec<_> = wishes.map(|wish| spawn(client(wish))).collect();
        stage.table.keep(id(), stage.load());
        for client in holding {
            client.await.unwrap();
        }
        stage.assert_settled(clients);
        // For ever, and so too long for shuttle, if the janitor misses an expiry.
        while !stage.table.entries().is_empty() {
            yield_now().await;
        }
        assert!(now() >= start + TO_FIRST_LEASE, "it did not wait for its first lease");
        cleaning.abort();
    });
}

#[test]
fn what_nobody_wants_goes_when_its_keep_alive_is_over_whatever_the_order() {
    check_random(|| what_nobody_wants_goes_when_its_keep_alive_is_over(1), SCHEDULES);
    check_random(|| what_nobody_wants_goes_when_its_keep_alive_is_over(3), SCHEDULES);
    check_pct(|| what_nobody_wants_goes_when_its_keep_alive_is_over(3), SCHEDULES, DEPTH);
}
