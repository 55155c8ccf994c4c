use std::sync::mpsc;

use super::*;

const HUNG: u64 = 1;
const HEALTHY: u64 = 2;

fn lanes() -> Arc<Lanes> {
    Arc::new(Lanes::new(CancellationToken::new()))
}

fn task<'a>(disks: &'a Disks, subject: &'a str, limit: Duration) -> Task<'a> {
    Task { operation: "a test", subject, disks, kind: Kind::Load, limit: Some(limit) }
}

type Work = Box<dyn FnOnce(&MayBlock<'_>) + Send>;

/// Work that waits until the sender is dropped.
fn hang() -> (mpsc::Sender<()>, impl Fn() -> Work) {
    let (release, hung) = mpsc::channel::<()>();
    let hung = Arc::new(Mutex::new(hung));
    let work = move || {
        let hung = Arc::clone(&hung);
        let wait = move |_: &MayBlock<'_>| {
            let _ = hung.lock().unwrap().recv();
        };
        Box::new(wait) as Work
    };
    (release, work)
}

#[tokio::test]
async fn a_disk_that_hangs_fills_its_own_lane_with_a_bounded_number_of_threads() {
    let lanes = lanes();
    let (hung, healthy) = (Disks::from_iter([HUNG]), Disks::from_iter([HEALTHY]));
    let (release, work) = hang();
    let short = Duration::from_millis(1500);
    for round in 0..8 {
        let subject = format!("model {round}");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..Kind::Load.berths() {
            let (lanes, hung, subject, work) = (Arc::clone(&lanes), hung.clone(), subject.clone(), work());
            tasks.spawn(async move { lanes.run(task(&hung, &subject, short), work).await });
        }
        // Meanwhile the other disk is served.
        assert_eq!(lanes.run(task(&healthy, "model", short), |_| 7).await.unwrap(), 7);
        while let Some(result) = tasks.join_next().await {
            let error = result.unwrap().unwrap_err();
            assert!(matches!(error, LaneError::Late { .. }), "{error}");
        }
    }
    let lane = lanes.lane(&task(&hung, "", short));
    let running = lanes.running().len();
    assert_eq!((lane.stuck(), running), (16, Kind::Load.berths()), "stuck, and holding the last berths");
    drop(release);
    // The lane is whole again when its threads are back.
    while lanes.lanes.get(&(hung.clone(), Kind::Load)).unwrap().stuck() > 0 || !lanes.running().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(lanes.run(task(&hung, "model 0", short), |_| 7).await.unwrap(), 7);
    assert_eq!(lanes.berths[Kind::Load as usize].available_permits(), Kind::Load.berths_in_all());
}

#[tokio::test]
async fn one_subject_that_hangs_does_not_close_its_disk() {
    let lanes = lanes();
    let disk = Disks::from_iter([HUNG]);
    let (_release, work) = hang();
    let short = Duration::from_millis(1200);
    for _ in 0..8 {
        let run = lanes.run(task(&disk, "the model that hangs", short), work());
        run.await.unwrap_err();
    }
    assert_eq!(lanes.lane(&task(&disk, "", short)).stuck(), 4);
    assert_eq!(lanes.run(task(&disk, "another model", short), |_| 7).await.unwrap(), 7);
}

#[tokio::test]
async fn work_that_says_that_it_is_alive_keeps_its_berth() {
    let lanes = lanes();
    let disk = Disks::from_iter([HUNG]);
    let long = Duration::from_secs(60);
    let slow = |may: &MayBlock<'_>| {
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(100));
            may.alive();
        }
    };
    let many = (0..=Kind::Load.berths()).map(|_| lanes.run(task(&disk, "a model", long), slow));
    for result in futures_util::future::join_all(many).await {
        result.unwrap();
    }
    assert_eq!(lanes.lane(&task(&disk, "a model", long)).stuck(), 0);
}

#[tokio::test]
async fn callers_are_let_go_when_the_daemon_stops_and_a_panic_gives_its_berth_back() {
    let stopping = CancellationToken::new();
    let lanes = Arc::new(Lanes::new(stopping.clone()));
    let disk = Disks::from_iter([HUNG]);
    let long = Duration::from_secs(60);
    for _ in 0..=Kind::Load.berths() {
        let died = lanes.run(task(&disk, "x", long), |_| panic!("work that panics")).await;
        assert!(matches!(died, Err::<(), _>(LaneError::Died { .. })), "{died:?}");
    }
    let (_release, work) = hang();
    let waiting = lanes.run(task(&disk, "x", long), work());
    let (result, ()) = tokio::join!(waiting, async { stopping.cancel() });
    assert!(matches!(result, Err(LaneError::Stopping)), "{result:?}");
}
