//! What shared work promises, in many orders in which its sides may run: no waiter sleeps for ever, all waiters get the
//! one output, and work that nobody waits for learns of it. A waiter that is never woken is a deadlock, which shuttle
//! reports with the schedule that leads to it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use shuttle::{
    check_dfs, check_pct, check_random,
    future::{block_on, spawn, yield_now},
};
use weightsd_model::flight::{Joined, SharedWork, Waiter, Work, WorkContext};

/// Schedules that are tried where there are too many to try all.
const SCHEDULES: usize = 20_000;
/// Changes of priority in one schedule of `check_pct`: most faults need three at most.
const DEPTH: usize = 3;

#[derive(Debug, Clone)]
struct Parcel;

impl Work for Parcel {
    type Key = u8;
    type Step = usize;
    type Output = usize;
    type Error = &'static str;

    fn died() -> Self::Error {
        "died"
    }
}

type Shared = Arc<SharedWork<Parcel>>;

/// How often work was done, and its output for those who come when it is over.
#[derive(Default)]
struct Done {
    times: AtomicUsize,
    output: AtomicUsize,
}

impl Done {
    fn output(&self) -> Option<usize> {
        Some(self.output.load(Ordering::SeqCst)).filter(|output| *output != 0)
    }
}

/// Joins as the daemon does; `work` runs in a task of its own when this caller is the first.
fn join<F>(shared: &Shared, done: &Done, work: impl FnOnce(WorkContext<Parcel>) -> F) -> Result<Waiter<Parcel>, usize>
where
    F: Future<Output = Result<usize, &'static str>> + Send + 'static,
{
    match shared.join(1, || done.output()) {
        Joined::Done(output) => Err(output),
        Joined::Waiting(waiter) => Ok(waiter),
        Joined::First(waiter, leader) => {
            let work = work(leader.context());
            drop(spawn(leader.run(work)));
            Ok(waiter)
        }
    }
}

async fn deliver(context: WorkContext<Parcel>, done: Arc<Done>) -> Result<usize, &'static str> {
    context.report(1);
    yield_now().await;
    done.times.fetch_add(1, Ordering::SeqCst);
    done.output.store(7, Ordering::SeqCst);
    Ok(7)
}

fn everybody_gets_the_one_output(callers: usize) {
    let (shared, done) = (Shared::default(), Arc::<Done>::default());
    let ask = move |shared: Shared, done: Arc<Done>| async move {
        let work = Arc::clone(&done);
        match join(&shared, &done, |context| deliver(context, work)) {
            Ok(waiter) => waiter.wait(|_, _| {}).await,
            Err(output) => Ok(output),
        }
    };
    block_on(async move {
        let asked: Vec<_> = (0..callers).map(|_| spawn(ask(Arc::clone(&shared), Arc::clone(&done)))).collect();
        for caller in asked {
            assert_eq!(caller.await.unwrap(), Ok(7));
        }
        assert_eq!(done.times.load(Ordering::SeqCst), 1, "the work was done more than once");
        assert!(shared.reports(usize::MAX).is_empty(), "a key is not free");
    });
}

#[test]
fn two_callers_get_the_one_output_whatever_the_order() {
    check_dfs(|| everybody_gets_the_one_output(2), Some(SCHEDULES));
}

#[test]
fn four_callers_get_the_one_output() {
    check_random(|| everybody_gets_the_one_output(4), SCHEDULES);
    check_pct(|| everybody_gets_the_one_output(4), SCHEDULES, DEPTH);
}

/// The first leader is dropped at some moment of its work, as by a panic. A caller that hears of it asks again.
fn a_leader_that_dies_wakes_everybody(callers: usize) {
    let (shared, done, deaths) = (Shared::default(), Arc::<Done>::default(), Arc::new(AtomicUsize::new(0)));
    let ask = |shared: Shared, done: Arc<Done>, deaths: Arc<AtomicUsize>| async move {
        loop {
            let waiter = match shared.join(1, || done.output()) {
                Joined::Done(output) => return output,
                Joined::Waiting(waiter) => waiter,
                Joined::First(waiter, leader) => {
                    let dies = deaths.fetch_add(1, Ordering::SeqCst) == 0;
                    let work = deliver(leader.context(), Arc::clone(&done));
                    let task = spawn(async move {
                        if dies {
                            leader.context().report(1);
                            yield_now().await;
                            drop(leader);
                        } else {
                            leader.run(work).await;
                        }
                    });
                    drop(task);
                    waiter
                }
            };
            match waiter.wait(|_, _| {}).await {
                Ok(output) => return output,
                Err(error) => assert_eq!(error, "died"),
            }
        }
    };
    block_on(async move {
        let again = || spawn(ask(Arc::clone(&shared), Arc::clone(&done), Arc::clone(&deaths)));
        let asked: Vec<_> = (0..callers).map(|_| again()).collect();
        for caller in asked {
            assert_eq!(caller.await.unwrap(), 7);
        }
        assert_eq!(deaths.load(Ordering::SeqCst), 2, "one leader died and one lived");
    });
}

#[test]
fn a_leader_that_dies_wakes_two_callers_whatever_the_order() {
    check_dfs(|| a_leader_that_dies_wakes_everybody(2), Some(SCHEDULES));
}

#[test]
fn a_leader_that_dies_wakes_four_callers() {
    check_random(|| a_leader_that_dies_wakes_everybody(4), SCHEDULES);
    check_pct(|| a_leader_that_dies_wakes_everybody(4), SCHEDULES, DEPTH);
}

/// Work that stops when nobody waits, as every piece of the daemon's does.
async fn deliver_if_wanted(context: WorkContext<Parcel>, done: Arc<Done>) -> Result<usize, &'static str> {
    let context = Arc::new(context);
    let mut abandoned = pin!(context.abandoned());
    let mut work = pin!(async {
        for _ in 0..3 {
            yield_now().await;
        }
        done.output.store(7, Ordering::SeqCst);
        Ok(7)
    });
    poll_fn(|task| match abandoned.as_mut().poll(task) {
        Poll::Ready(()) => Poll::Ready(Err("abandoned")),
        Poll::Pending => work.as_mut().poll(task),
    })
    .await
}

/// One caller gives up at some moment. Those who join before, while or after that get the output all the same: from this
/// work, or, when they are told that it was abandoned, from work of their own.
fn patient_callers_get_the_output(patient: usize) {
    let (shared, done) = (Shared::default(), Arc::<Done>::default());
    let begin = move || {
        let wanted = Arc::clone(&done);
        join(&shared, &done, |context| deliver_if_wanted(context, wanted))
    };
    let ask = |begin: Arc<dyn Fn() -> Result<Waiter<Parcel>, usize> + Send + Sync>| async move {
        loop {
            match begin() {
                Err(output) => return output,
                Ok(waiter) => match waiter.wait(|_, _| {}).await {
                    Ok(output) => return output,
                    Err(error) => assert_eq!(error, "abandoned"),
                },
            }
        }
    };
    let begin: Arc<dyn Fn() -> Result<Waiter<Parcel>, usize> + Send + Sync> = Arc::new(begin);
    block_on(async move {
        let hasty = Arc::clone(&begin);
        let hasty = spawn(async move {
            let waiter = hasty();
            yield_now().await;
            drop(waiter);
        });
        let asked: Vec<_> = (0..patient).map(|_| spawn(ask(Arc::clone(&begin)))).collect();
        for caller in asked {
            assert_eq!(caller.await.unwrap(), 7);
        }
        hasty.await.unwrap();
    });
}

#[test]
fn patient_callers_get_the_output_of_work_that_others_gave_up() {
    check_dfs(|| patient_callers_get_the_output(1), Some(SCHEDULES));
    check_random(|| patient_callers_get_the_output(2), SCHEDULES);
    check_pct(|| patient_callers_get_the_output(2), SCHEDULES, DEPTH);
}

/// Nobody waits any more: the work is told, and its key is free.
fn work_that_nobody_waits_for_ends() {
    let shared = Shared::default();
    block_on(async move {
        let Joined::First(waiter, leader) = shared.join(1, || None) else { panic!("nobody else asks") };
        let context = leader.context();
        let work = spawn(leader.run(async move {
            context.abandoned().await;
            assert!(context.is_abandoned());
            Err("abandoned")
        }));
        drop(waiter);
        work.await.unwrap();
        assert!(matches!(shared.join(1, || None), Joined::First(..)));
    });
}

#[test]
fn work_that_nobody_waits_for_ends_whatever_the_order() {
    check_dfs(work_that_nobody_waits_for_ends, Some(SCHEDULES));
}

/// A caller that was told of an error and asks again must not be given the old error by the work that has ended.
fn an_error_is_not_given_to_those_who_ask_after_it() {
    let shared = Shared::default();
    block_on(async move {
        let begin = |shared: &Shared, error: &'static str| match shared.join(1, || None) {
            Joined::First(waiter, leader) => {
                drop(spawn(leader.run(async move { Err(error) })));
                Some(waiter)
            }
            Joined::Waiting(_) | Joined::Done(_) => None,
        };
        let waiter = begin(&shared, "old").expect("nobody else asks");
        assert_eq!(waiter.wait(|_, _| {}).await, Err("old"));
        let waiter = begin(&shared, "new").expect("the key is free when the error is told");
        assert_eq!(waiter.wait(|_, _| {}).await, Err("new"));
    });
}

#[test]
fn an_error_is_told_after_its_key_is_free_whatever_the_order() {
    check_dfs(an_error_is_not_given_to_those_who_ask_after_it, Some(SCHEDULES));
}

/// A thread that works for the flight may report its step when the flight has ended already: a download that was given
/// up hashes on for a moment.
fn a_late_report_takes_nothing_back() {
    let shared = Shared::default();
    block_on(async move {
        let Joined::First(waiter, leader) = shared.join(1, || None) else { panic!("nobody else asks") };
        let context = leader.context();
        let thread = spawn(async move { context.report(3) });
        let work = spawn(leader.run(async { Ok(7) }));
        assert_eq!(waiter.wait(|_, _| {}).await, Ok(7));
        work.await.unwrap();
        thread.await.unwrap();
    });
}

#[test]
fn a_report_after_the_end_takes_nothing_back() {
    check_random(a_late_report_takes_nothing_back, SCHEDULES);
    check_pct(a_late_report_takes_nothing_back, SCHEDULES, DEPTH);
}
