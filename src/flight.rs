//! Single flight: requests for the same thing at the same time share one piece of work.
//!
//! ```text
//! SharedWork::join(key) -> Joined::First(Waiter, Leader)   the caller spawns `Leader::run`, then waits like the others
//!                       -> Joined::Waiting(Waiter)         the work is under way
//!                       -> Joined::Done(output)            the output was there already
//! ```
//!
//! The work runs in a task of its own, so it does not end with the request that began it. However it ends, every waiter
//! is woken: with the output, with the error, or with the news that the task died. A waiter that joins late learns the
//! present step at once. When the last waiter is dropped, the work is told to stop ([`WorkContext::abandoned`]).

use std::{
    future::Future,
    hash::Hash,
    sync::{Arc, Weak},
};

use dashmap::{DashMap, mapref::entry::Entry as Slot};
use tokio::sync::watch;

/// The types of one kind of work.
pub trait Work: Clone + Send + Sync + 'static {
    /// Requests with equal keys share the work.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// Progress.
    type Step: Clone + Default + Send + Sync + 'static;
    /// The result.
    type Output: Clone + Send + Sync + 'static;
    /// Why there is no result.
    type Error: Clone + Send + Sync + 'static;

    /// The error that waiters get when the task ends without a result, for instance in a panic.
    fn died() -> Self::Error;
}

#[derive(Debug, Clone)]
enum State<W: Work> {
    Running(W::Step),
    Ended(Result<W::Output, W::Error>),
}

/// The work of one kind that is under way, by key.
pub struct SharedWork<W: Work> {
    by_key: DashMap<W::Key, Arc<watch::Sender<State<W>>>>,
}

fn running<W: Work>(state: &State<W>) -> Option<W::Step> {
    match state {
        State::Running(step) => Some(step.clone()),
        State::Ended(_) => None,
    }
}

impl<W: Work> Default for SharedWork<W> {
    fn default() -> Self {
        Self { by_key: DashMap::new() }
    }
}

impl<W: Work> std::fmt::Debug for SharedWork<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedWork").field("under_way", &self.by_key.len()).finish()
    }
}

/// One request's share in the work. Dropping it gives up waiting.
pub struct Waiter<W: Work> {
    sender: Weak<watch::Sender<State<W>>>,
    state: watch::Receiver<State<W>>,
}

/// The side that does the work. Dropping it, also in a panic, takes the work off the list and wakes all waiters.
#[must_use = "the waiters are told that the work died when it is dropped"]
pub struct Leader<W: Work> {
    shared: Arc<SharedWork<W>>,
    key: W::Key,
    state: Arc<watch::Sender<State<W>>>,
}

/// What the work itself sees of its waiters: it reports to them, and learns when none is left.
pub struct WorkContext<W: Work> {
    state: Arc<watch::Sender<State<W>>>,
}

/// What [`SharedWork::join`] found.
pub enum Joined<W: Work> {
    /// The work is under way.
    Waiting(Waiter<W>),
    /// Nobody does the work yet: the caller must see to it that the leader runs.
    First(Waiter<W>, Leader<W>),
    /// The output is there already.
    Done(W::Output),
}

impl<W: Work> SharedWork<W> {
    /// Joins the work for `key` or begins it. Before it begins, `finished` may find the output of work that ended in
    /// this moment; nobody else can begin work for `key` meanwhile.
    pub fn join(self: &Arc<Self>, key: W::Key, finished: impl FnOnce() -> Option<W::Output>) -> Joined<W> {
        match self.by_key.entry(key) {
            Slot::Occupied(work) => Joined::Waiting(Waiter::new(work.get())),
            Slot::Vacant(slot) => {
                if let Some(output) = finished() {
                    return Joined::Done(output);
                }
                let (sender, receiver) = watch::channel(State::Running(W::Step::default()));
                let state = Arc::new(sender);
                let leader = Leader { shared: Arc::clone(self), key: slot.key().clone(), state: Arc::clone(&state) };
                let waiter = Waiter { sender: Arc::downgrade(&state), state: receiver };
                slot.insert(state);
                Joined::First(waiter, leader)
            }
        }
    }

    /// Key, step and number of waiters of work under way, of `max` pieces of it at most.
    pub fn reports(&self, max: usize) -> Vec<(W::Key, W::Step, usize)> {
        let report = |work: &watch::Sender<State<W>>| Some((running(&work.borrow())?, work.receiver_count()));
        let keyed = self.by_key.iter().filter_map(|work| Some((work.key().clone(), report(&work)?)));
        keyed.map(|(key, (step, waiters))| (key, step, waiters)).take(max).collect()
    }
}

impl<W: Work> Waiter<W> {
    fn new(sender: &Arc<watch::Sender<State<W>>>) -> Self {
        Self { sender: Arc::downgrade(sender), state: sender.subscribe() }
    }

    /// The present step; `None` when the work has ended.
    #[must_use]
    pub fn step(&self) -> Option<W::Step> {
        running(&self.sender.upgrade()?.borrow())
    }

    /// Like [`Self::step`], through a weak reference: an observer does not keep the work alive.
    pub fn observer(&self) -> impl Fn() -> Option<W::Step> + Send + Sync + use<W> {
        let sender = Weak::clone(&self.sender);
        move || running(&sender.upgrade()?.borrow())
    }

    /// Waits for the end. `progress` is called with each step, the present one first, and with the number of waiters.
    ///
    /// # Errors
    /// When the work fails, and when its task dies.
    pub async fn wait(mut self, mut progress: impl FnMut(&W::Step, usize)) -> Result<W::Output, W::Error> {
        loop {
            let now = self.state.borrow_and_update().clone();
            match now {
                State::Running(step) => {
                    progress(&step, self.sender.upgrade().map_or(1, |sender| sender.receiver_count()));
                }
                State::Ended(result) => return result,
            }
            if self.state.changed().await.is_err() {
                return Err(W::died());
            }
        }
    }
}

impl<W: Work> Leader<W> {
    /// What the work reports to.
    #[must_use]
    pub fn context(&self) -> WorkContext<W> {
        WorkContext { state: Arc::clone(&self.state) }
    }

    /// Does the work and gives its result to all waiters.
    pub async fn run(self, work: impl Future<Output = Result<W::Output, W::Error>>) {
        let result = work.await;
        // First off the list: a request that comes after a waiter learned of the end begins work of its own, and does
        // not get an old error.
        self.leave_the_list();
        self.state.send_replace(State::Ended(result));
    }

    fn leave_the_list(&self) {
        self.shared.by_key.remove_if(&self.key, |_, state| Arc::ptr_eq(state, &self.state));
    }
}

impl<W: Work> Drop for Leader<W> {
    fn drop(&mut self) {
        self.leave_the_list();
        self.state.send_if_modified(|state| {
            let running = matches!(state, State::Running(_));
            if running {
                *state = State::Ended(Err(W::died()));
            }
            running
        });
    }
}

impl<W: Work> WorkContext<W> {
    /// Tells the waiters the present step. Does nothing when the work has ended: a thread of its own may report late,
    /// and must not take the result back.
    pub fn report(&self, step: W::Step) {
        self.state.send_if_modified(|state| {
            let running = matches!(state, State::Running(_));
            if running {
                *state = State::Running(step);
            }
            running
        });
    }

    /// Whether no waiter is left.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.state.receiver_count() == 0
    }

    /// Returns when no waiter is left.
    pub async fn abandoned(&self) {
        self.state.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone)]
    struct Parcel;

    impl Work for Parcel {
        type Key = u8;
        type Step = usize;
        type Output = &'static str;
        type Error = &'static str;

        fn died() -> Self::Error {
            "died"
        }
    }

    fn first(shared: &Arc<SharedWork<Parcel>>) -> (Waiter<Parcel>, Leader<Parcel>) {
        match shared.join(1, || None) {
            Joined::First(waiter, leader) => (waiter, leader),
            _ => panic!("not the first"),
        }
    }

    #[tokio::test]
    async fn all_who_join_get_the_one_result_and_the_present_step() {
        let shared = Arc::new(SharedWork::<Parcel>::default());
        let (one, leader) = first(&shared);
        let context = leader.context();
        context.report(7);
        let Joined::Waiting(two) = shared.join(1, || panic!("it is under way")) else { panic!() };
        assert_eq!((two.step(), shared.reports(9)), (Some(7), vec![(1, 7, 2)]));
        let mut steps = Vec::new();
        let (result, other, ()) = tokio::join!(
            two.wait(|step, sharers| steps.push((*step, sharers))),
            one.wait(|_, _| {}),
            leader.run(async { Ok("x") })
        );
        assert_eq!((result, other), (Ok("x"), Ok("x")));
        assert_eq!(steps[0], (7, 2));
        assert!(shared.reports(9).is_empty());
        assert!(matches!(shared.join(1, || Some("kept")), Joined::Done("kept")));
    }

    #[tokio::test]
    async fn a_request_after_the_end_does_not_get_an_old_error() {
        let shared = Arc::new(SharedWork::<Parcel>::default());
        let (waiter, leader) = first(&shared);
        let mut state = waiter.state.clone();
        let again = async {
            state.wait_for(|state| matches!(state, State::Ended(_))).await.unwrap();
            // The leader may not have come any further than to say so.
            drop(first(&shared));
        };
        let work = std::pin::pin!(leader.run(async { Err("old") }));
        let (waited, (), ()) = tokio::join!(waiter.wait(|_, _| {}), again, work);
        assert_eq!(waited, Err("old"));
    }

    #[tokio::test]
    async fn a_dead_leader_wakes_everyone_and_frees_the_key() {
        let shared = Arc::new(SharedWork::<Parcel>::default());
        let (waiter, leader) = first(&shared);
        drop(leader);
        assert_eq!(waiter.wait(|_, _| {}).await, Err("died"));
        drop(first(&shared));
    }

    #[tokio::test]
    async fn the_work_learns_that_nobody_waits() {
        let shared = Arc::new(SharedWork::<Parcel>::default());
        let (waiter, leader) = first(&shared);
        let context = leader.context();
        assert!(!context.is_abandoned());
        drop(waiter);
        context.abandoned().await;
        assert!(context.is_abandoned());
    }
}
