//! One piece of work for everyone who asks for the same thing at the same time.
//!
//! The work runs in a task of its own, so it does not end with the request that began it. Whatever happens to it,
//! everyone who waits is woken: with the result, with the error, or with the news that the task died. Whoever joins
//! late is told at once how far it is. When nobody waits any more, the work is told to stop.

use std::{
    future::Future,
    hash::Hash,
    sync::{Arc, Weak},
};

use dashmap::{DashMap, mapref::entry::Entry as Slot};
use tokio::sync::watch;

/// What travels: how far the work is, what comes out, and why nothing did.
pub trait Cargo: Clone + Send + Sync + 'static {
    /// What the work is known by.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// How far it is.
    type Step: Clone + Default + Send + Sync + 'static;
    /// What comes out.
    type Goods: Clone + Send + Sync + 'static;
    /// Why nothing came out.
    type Error: Clone + Send + Sync + 'static;

    /// The error for those whose work died without a word.
    fn died() -> Self::Error;
}

#[derive(Debug, Clone)]
enum State<C: Cargo> {
    Running(C::Step),
    Ended(Result<C::Goods, C::Error>),
}

/// Work under way, by key.
pub struct Flights<C: Cargo> {
    by_key: DashMap<C::Key, Arc<watch::Sender<State<C>>>>,
}

fn running<C: Cargo>(state: &State<C>) -> Option<C::Step> {
    match state {
        State::Running(step) => Some(step.clone()),
        State::Ended(_) => None,
    }
}

impl<C: Cargo> Default for Flights<C> {
    fn default() -> Self {
        Self { by_key: DashMap::new() }
    }
}

impl<C: Cargo> std::fmt::Debug for Flights<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.by_key.len()).finish()
    }
}

/// A place in a flight. Dropping it is giving up waiting.
pub struct Passenger<C: Cargo> {
    sender: Weak<watch::Sender<State<C>>>,
    state: watch::Receiver<State<C>>,
}

/// The side of the work. Dropping it, in whatever way, takes the flight off the list and wakes everyone.
pub struct Pilot<C: Cargo> {
    flights: Arc<Flights<C>>,
    key: C::Key,
    state: Arc<watch::Sender<State<C>>>,
}

/// What the work itself sees of its flight.
pub struct Cockpit<C: Cargo> {
    state: Arc<watch::Sender<State<C>>>,
}

/// Where a request for work ends up.
pub enum Boarding<C: Cargo> {
    /// The work is under way.
    Joined(Passenger<C>),
    /// Whoever gets the pilot must see to it that the work is done.
    First(Passenger<C>, Pilot<C>),
    /// The result is there already.
    Arrived(C::Goods),
}

impl<C: Cargo> Flights<C> {
    /// Joins the flight for `key` or begins it. `arrived` looks whether a flight that landed in this moment has left
    /// its result; nobody else can begin one for `key` meanwhile.
    pub fn board(self: &Arc<Self>, key: C::Key, arrived: impl FnOnce() -> Option<C::Goods>) -> Boarding<C> {
        match self.by_key.entry(key) {
            Slot::Occupied(flight) => Boarding::Joined(Passenger::new(flight.get())),
            Slot::Vacant(slot) => {
                if let Some(goods) = arrived() {
                    return Boarding::Arrived(goods);
                }
                let state = Arc::new(watch::Sender::new(State::Running(C::Step::default())));
                let pilot = Pilot { flights: Arc::clone(self), key: slot.key().clone(), state: Arc::clone(&state) };
                let passenger = Passenger::new(&state);
                slot.insert(state);
                Boarding::First(passenger, pilot)
            }
        }
    }

    /// Keys, steps and numbers of passengers of what is under way.
    pub fn reports(&self) -> Vec<(C::Key, C::Step, usize)> {
        let report = |flight: &watch::Sender<State<C>>| Some((running(&flight.borrow())?, flight.receiver_count()));
        let keyed = self.by_key.iter().filter_map(|flight| Some((flight.key().clone(), report(&flight)?)));
        keyed.map(|(key, (step, passengers))| (key, step, passengers)).collect()
    }
}

impl<C: Cargo> Passenger<C> {
    fn new(sender: &Arc<watch::Sender<State<C>>>) -> Self {
        Self { sender: Arc::downgrade(sender), state: sender.subscribe() }
    }

    /// How far the work is; `None` when it has ended.
    #[must_use]
    pub fn step(&self) -> Option<C::Step> {
        running(&self.sender.upgrade()?.borrow())
    }

    /// The same for whoever only looks on, and does not count as one who waits.
    pub fn watcher(&self) -> impl Fn() -> Option<C::Step> + Send + Sync + use<C> {
        let sender = Weak::clone(&self.sender);
        move || running(&sender.upgrade()?.borrow())
    }

    /// Waits for the end. `progress` is called with each step, the present one first, and with the number of those who
    /// wait.
    ///
    /// # Errors
    /// The error of the work.
    pub async fn land(mut self, mut progress: impl FnMut(&C::Step, usize)) -> Result<C::Goods, C::Error> {
        loop {
            let now = self.state.borrow_and_update().clone();
            match now {
                State::Running(step) => {
                    progress(&step, self.sender.upgrade().map_or(1, |sender| sender.receiver_count()));
                }
                State::Ended(result) => return result,
            }
            if self.state.changed().await.is_err() {
                return Err(C::died());
            }
        }
    }
}

impl<C: Cargo> Pilot<C> {
    /// What the work reports to.
    #[must_use]
    pub fn cockpit(&self) -> Cockpit<C> {
        Cockpit { state: Arc::clone(&self.state) }
    }

    /// Does the work and tells everyone.
    pub async fn fly(self, work: impl Future<Output = Result<C::Goods, C::Error>>) {
        let result = work.await;
        // First off the list: whoever asks after somebody was told of the end gets work of its own, not an old error.
        self.take_off_the_list();
        self.state.send_replace(State::Ended(result));
    }

    fn take_off_the_list(&self) {
        self.flights.by_key.remove_if(&self.key, |_, state| Arc::ptr_eq(state, &self.state));
    }
}

impl<C: Cargo> Drop for Pilot<C> {
    fn drop(&mut self) {
        self.take_off_the_list();
        self.state.send_if_modified(|state| {
            let running = matches!(state, State::Running(_));
            if running {
                *state = State::Ended(Err(C::died()));
            }
            running
        });
    }
}

impl<C: Cargo> Cockpit<C> {
    /// Tells how far the work is.
    pub fn report(&self, step: C::Step) {
        self.state.send_replace(State::Running(step));
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.state.receiver_count() == 0
    }

    /// Ends when nobody waits any more.
    pub async fn abandoned(&self) {
        self.state.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone)]
    struct Parcel;

    impl Cargo for Parcel {
        type Key = u8;
        type Step = usize;
        type Goods = &'static str;
        type Error = &'static str;

        fn died() -> Self::Error {
            "died"
        }
    }

    fn first(flights: &Arc<Flights<Parcel>>) -> (Passenger<Parcel>, Pilot<Parcel>) {
        match flights.board(1, || None) {
            Boarding::First(passenger, pilot) => (passenger, pilot),
            _ => panic!("not the first"),
        }
    }

    #[tokio::test]
    async fn all_who_join_get_the_one_result_and_the_present_step() {
        let flights = Arc::new(Flights::<Parcel>::default());
        let (one, pilot) = first(&flights);
        let cockpit = pilot.cockpit();
        cockpit.report(7);
        let Boarding::Joined(two) = flights.board(1, || panic!("it is under way")) else { panic!() };
        assert_eq!((two.step(), flights.reports()), (Some(7), vec![(1, 7, 2)]));
        let mut steps = Vec::new();
        let (result, other, ()) = tokio::join!(
            two.land(|step, sharers| steps.push((*step, sharers))),
            one.land(|_, _| {}),
            pilot.fly(async { Ok("x") })
        );
        assert_eq!((result, other), (Ok("x"), Ok("x")));
        assert_eq!(steps[0], (7, 2));
        assert!(flights.reports().is_empty());
        assert!(matches!(flights.board(1, || Some("kept")), Boarding::Arrived("kept")));
    }

    #[tokio::test]
    async fn whoever_comes_after_the_end_does_not_get_an_old_error() {
        let flights = Arc::new(Flights::<Parcel>::default());
        let (passenger, pilot) = first(&flights);
        let mut state = passenger.state.clone();
        let again = async {
            state.wait_for(|state| matches!(state, State::Ended(_))).await.unwrap();
            // The pilot may not have come any further than to say so.
            drop(first(&flights));
        };
        let flight = std::pin::pin!(pilot.fly(async { Err("old") }));
        let (landed, (), ()) = tokio::join!(passenger.land(|_, _| {}), again, flight);
        assert_eq!(landed, Err("old"));
    }

    #[tokio::test]
    async fn a_dead_pilot_wakes_everyone_and_frees_the_key() {
        let flights = Arc::new(Flights::<Parcel>::default());
        let (passenger, pilot) = first(&flights);
        drop(pilot);
        assert_eq!(passenger.land(|_, _| {}).await, Err("died"));
        drop(first(&flights));
    }

    #[tokio::test]
    async fn the_work_learns_that_nobody_waits() {
        let flights = Arc::new(Flights::<Parcel>::default());
        let (passenger, pilot) = first(&flights);
        let cockpit = pilot.cockpit();
        assert!(!cockpit.is_abandoned());
        drop(passenger);
        cockpit.abandoned().await;
        assert!(cockpit.is_abandoned());
    }
}
