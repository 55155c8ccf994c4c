//! Components in the memory of cards, with a stand-in for the driver: filled once, lent to many, never half, and free again when
//! the last who has it is gone.

use std::{fs, path::PathBuf};

use weightsd_client::{
    Client, ClientError, ErrorReason, Hold, Layout,
    proto::{CardStatus, EventKind, EvictRequest, ListComponentsRequest, LoadedComponent},
};
use weightsd_core::card::CardId;
use weightsd_gpu_stand_in::{CONTEXTS, FAULT, FOLDER, library, used, uuid};

use crate::{
    client_process::checksum,
    harness::{Daemon, Home, events, eventually, until},
    vram_reader::Reader,
};

const REPO: &str = "test/z-image";
const GRANULE: u64 = 2 << 20;

/// A home with two cards and a model.
struct Machine {
    home: Home,
    cards: PathBuf,
}

fn card(number: u8) -> String {
    CardId(uuid(number)).to_string()
}

impl Machine {
    fn new() -> Self {
        let home = Home::new();
        home.tiny(REPO);
        let cards = home.path().join("cards");
        fs::create_dir(&cards).unwrap();
        Self { home, cards }
    }

    fn daemon(&self, arguments: &[&str]) -> Daemon {
        self.daemon_on(arguments, &library())
    }

    fn daemon_on(&self, arguments: &[&str], driver: &std::path::Path) -> Daemon {
        let mut command = self.home.command();
        command.arg("serve").args(arguments).env(FOLDER, &self.cards).env(weightsd_gpu::LIBRARY, driver);
        self.home.ready(self.home.start(command))
    }

    fn used(&self, card: u8) -> u64 {
        used(&self.cards, card).unwrap()
    }

    /// Sets what goes wrong in processes that start from now on.
    fn fault(&self, fault: &str) {
        fs::write(self.cards.join(FAULT), fault).unwrap();
    }

    fn well(&self) {
        fs::remove_file(self.cards.join(FAULT)).unwrap();
    }

    /// Process ids and cards of the contexts that were made.
    fn contexts(&self) -> Vec<(u32, u8)> {
        let text = fs::read_to_string(self.cards.join(CONTEXTS)).unwrap_or_default();
        let line = |line: &str| {
            let (pid, card) = line.split_once(' ').unwrap();
            (pid.parse().unwrap(), card.parse().unwrap())
        };
        text.lines().map(line).collect()
    }

    fn reader(&self, component: &str, device: &str) -> Reader {
        Reader::start(&self.home, &self.cards, REPO, component, device)
    }

    /// Loads onto the first card without holding it.
    async fn load(&self, client: &Client, component: &str) -> Result<(), ClientError> {
        let request = self.home.request(REPO, component).layout(Layout::Source).hold(Hold::None);
        client.load_on_card(request.device(card(0)), |_| ()).await.map(drop)
    }

    /// The checksum of the component's bytes in its files.
    async fn expected(&self, client: &Client, component: &str) -> String {
        let request = self.home.request(REPO, component).layout(Layout::Source);
        let component = client.load(request, |_| ()).await.unwrap();
        checksum(component.tensors().map(|tensor| tensor.bytes())).to_string()
    }
}

async fn on_cards(client: &Client) -> Vec<LoadedComponent> {
    let list = client.list(ListComponentsRequest::default()).await.unwrap();
    list.components.into_iter().filter(|component| component.card.is_some()).collect()
}

async fn cards(client: &Client) -> Vec<CardStatus> {
    client.status().await.unwrap().cards
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_gets_the_one_memory_with_the_bytes_of_the_files() {
    let machine = Machine::new();
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    let expected = machine.expected(&client, "transformer").await;
    let mut readers: Vec<Reader> = (0..3).map(|_| machine.reader("transformer", "cuda")).collect();
    for reader in &mut readers {
        assert_eq!(reader.said(), expected);
    }
    let bytes = machine.used(0);
    assert_eq!(bytes % GRANULE, 0);
    let listed = on_cards(&client).await;
    assert_eq!((listed.len(), listed[0].holders.len(), listed[0].requests), (1, 3, 3));
    let memory = listed[0].card.as_ref().unwrap();
    assert_eq!((memory.device.as_str(), memory.bytes, memory.granularity), (card(0).as_str(), bytes, GRANULE));
    // The same content has the same id, wherever it lies.
    let in_files = machine.home.request(REPO, "transformer").layout(Layout::Source);
    assert_eq!(client.load(in_files, |_| ()).await.unwrap().id(), listed[0].id);

    assert_eq!(readers[0].does("write"), "cuMemcpyHtoDAsync failed: CUDA_ERROR_INVALID_VALUE");
    assert_eq!(readers[1].does("read"), expected);
    let pids: Vec<u32> = machine.contexts().iter().map(|(pid, _)| *pid).collect();
    assert!(!pids.contains(&daemon.pid()), "the daemon has no context");
    let loader = pids.iter().find(|pid| readers.iter().all(|reader| reader.pid() != **pid)).unwrap();
    eventually("the loader ends", || !PathBuf::from(format!("/proc/{loader}")).exists());

    let shown = |arguments: &[&str]| {
        let output = machine.home.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shown(&["ls"]).contains(&format!("in the memory of card {}", card(0))), "{}", shown(&["ls"]));
    assert!(shown(&["status"]).contains(&format!("card {}: ", card(0))), "{}", shown(&["status"]));
    let loaded =
        shown(&["load", REPO, "transformer", "--layout", "source", "--dtype", "as-stored", "--device", &card(0)]);
    assert!(loaded.contains("on a card, was loaded"), "{loaded}");

    readers.into_iter().for_each(Reader::kill);
    until("the leases are gone", async || on_cards(&client).await[0].holders.is_empty()).await;
    assert_eq!(machine.used(0), bytes, "it stays warm");
    client.evict(EvictRequest::default()).await.unwrap();
    eventually("the memory is free", || machine.used(0) == 0);
    assert!(daemon.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_that_fails_or_is_killed_leaves_nothing() {
    let machine = Machine::new();
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    let faults = [
        ("cuInit fail", ErrorReason::NoCard, "cuInit failed"),
        ("cuInit kill", ErrorReason::CardFailed, "ended without a result (signal: 9"),
        ("cuDevicePrimaryCtxRetain fail", ErrorReason::CardFailed, "cuDevicePrimaryCtxRetain failed"),
        ("cuMemCreate kill", ErrorReason::CardFailed, "ended without a result"),
        ("cuMemCreate fail", ErrorReason::CardFailed, "cuMemCreate failed: CUDA_ERROR_UNKNOWN"),
        ("cuMemCreate full", ErrorReason::NoVram, "bytes free of"),
        ("cuMemAddressReserve kill", ErrorReason::CardFailed, "ended without a result"),
        ("cuMemMap kill", ErrorReason::CardFailed, "ended without a result"),
        ("cuMemSetAccess fail", ErrorReason::CardFailed, "cuMemSetAccess failed"),
        ("cuStreamCreate kill", ErrorReason::CardFailed, "ended without a result"),
        ("cuMemcpyHtoDAsync_v2 kill 2", ErrorReason::CardFailed, "ended without a result"),
        ("cuMemcpyHtoDAsync_v2 fail 2", ErrorReason::CardFailed, "cuMemcpyHtoDAsync failed"),
        ("cuMemcpyHtoDAsync_v2 flip 2", ErrorReason::CardFailed, "what is on the card differs from what was read"),
        ("cuMemcpyDtoHAsync_v2 kill", ErrorReason::CardFailed, "ended without a result"),
        ("cuStreamSynchronize fail", ErrorReason::CardFailed, "cuStreamSynchronize failed"),
        ("cuMemExportToShareableHandle kill", ErrorReason::CardFailed, "ended without a result"),
        ("cuMemExportToShareableHandle fail", ErrorReason::CardFailed, "cuMemExportToShareableHandle failed"),
    ];
    for (fault, reason, words) in faults {
        machine.fault(fault);
        let error = machine.load(&client, "transformer").await.unwrap_err();
        assert_eq!(error.reason(), Some(reason), "{fault}: {error}");
        assert!(error.to_string().contains(words) && error.hint().is_some(), "{fault}: {error}");
        assert!(on_cards(&client).await.is_empty(), "{fault}");
        eventually(&format!("{fault}: the memory is free"), || machine.used(0) == 0);
    }
    // Pages that the driver does not take are copied all the same.
    machine.fault("cuMemHostRegister_v2 fail");
    machine.load(&client, "transformer").await.unwrap();
    machine.well();
    client.evict(EvictRequest::default()).await.unwrap();
    machine.load(&client, "transformer").await.unwrap();
    assert!(machine.used(0) > 0);
    let failed = events(&client, EventKind::LoadFailed).await;
    assert!(failed[0].message.contains(&card(0)), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_leaves_readers_reading_and_nothing_half_filled() {
    let machine = Machine::new();
    let daemon = machine.daemon(&[]);
    let expected = machine.expected(&daemon.client().await, "transformer").await;
    let mut reader = machine.reader("transformer", "cuda");
    assert_eq!(reader.said(), expected);
    let bytes = machine.used(0);
    daemon.kill();
    assert_eq!(reader.does("read"), expected);
    assert_eq!(machine.used(0), bytes, "the reader keeps it");

    // The next one is killed while a loader fills.
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    machine.fault("cuMemcpyHtoDAsync_v2 hang 2");
    let before = machine.contexts().len();
    let request = machine.home.request(REPO, "vae").layout(Layout::Source).device(card(0));
    let loading = tokio::spawn(async move { client.load_on_card(request, |_| ()).await.map(drop) });
    eventually("a loader has a context", || machine.contexts().len() > before);
    daemon.kill();
    assert!(loading.await.unwrap().is_err());
    eventually("the loader took its memory along", || machine.used(0) == bytes);

    machine.well();
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    assert!(on_cards(&client).await.is_empty(), "nothing is known of what the dead one lent");
    let mut second = machine.reader("transformer", "cuda");
    assert_eq!((second.said(), reader.does("read")), (expected.clone(), expected));
    assert_eq!(machine.used(0), 2 * bytes);
    reader.kill();
    eventually("the first memory is free", || machine.used(0) == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_nobody_waits_for_ends_its_loader() {
    let machine = Machine::new();
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    machine.fault("cuMemcpyHtoDAsync_v2 hang 2");
    let request = machine.home.request(REPO, "transformer").layout(Layout::Source).device(card(0));
    let waiting = client.clone();
    let loading = tokio::spawn(async move { waiting.load_on_card(request, |_| ()).await.map(drop) });
    eventually("memory is taken", || machine.used(0) > 0);
    loading.abort();
    eventually("the memory is free", || machine.used(0) == 0);
    machine.well();
    machine.load(&client, "transformer").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_importers_keep_after_an_eviction_is_accounted() {
    let machine = Machine::new();
    let daemon = machine.daemon(&["--vram-budget", "2097152B"]);
    let client = daemon.client().await;
    let mut reader = machine.reader("vae", "cuda");
    let expected = reader.said();
    let listed = on_cards(&client).await;
    assert_eq!(listed[0].card.as_ref().unwrap().bytes, GRANULE, "the budget is for one of these");
    // It is held, so nothing else fits, and it is not dropped.
    let error = machine.load(&client, "transformer").await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NoVram));
    assert!(error.to_string().contains("2097152 of them are held"), "{error}");
    let kept = client.evict(EvictRequest { id: listed[0].id.clone(), ..EvictRequest::default() }).await.unwrap_err();
    assert_eq!(kept.reason(), Some(ErrorReason::InUse));

    // It lets go of the lease and keeps the mapping.
    assert_eq!(reader.does("release"), "released");
    until("the lease is gone", async || on_cards(&client).await[0].holders.is_empty()).await;
    let outcomes = client.evict(EvictRequest::default()).await.unwrap().outcomes;
    assert!(outcomes.iter().any(|outcome| outcome.evicted && outcome.device == card(0)), "{outcomes:?}");
    until("the rest is accounted", async || !cards(&client).await[0].departed.is_empty()).await;
    let state = cards(&client).await.remove(0);
    assert_eq!((state.loaded_bytes, state.departed.len(), state.departed[0].bytes), (0, 1, GRANULE));
    assert_eq!((state.budget, state.departed[0].name.as_str()), (Some(GRANULE), "vae"));
    assert_eq!((reader.does("read"), machine.used(0)), (expected, GRANULE));
    let error = machine.load(&client, "vae").await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NoVram));
    assert!(error.to_string().contains("are kept by processes that still have evicted components mapped"), "{error}");

    reader.kill();
    until("the account is empty", async || cards(&client).await.is_empty()).await;
    machine.load(&client, "vae").await.unwrap();
    assert_eq!(machine.used(0), GRANULE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_holds_makes_room() {
    let machine = Machine::new();
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    machine.load(&client, "vae").await.unwrap();
    machine.load(&client, "text_encoder").await.unwrap();
    until("nobody holds them", async || cards(&client).await[0].leases == 0).await;
    let both = machine.used(0);
    // A card that is full by its own word: each loader says so, until nothing is left to drop.
    machine.fault("cuMemCreate full");
    let error = machine.load(&client, "transformer").await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NoVram), "{error}");
    assert!(on_cards(&client).await.is_empty());
    let evicted = events(&client, EventKind::Evicted).await;
    let full: Vec<_> = evicted.iter().filter(|event| event.message.contains("the card is full")).collect();
    assert!(full.len() == 2 && full[0].message.starts_with("vae on "), "{evicted:?}");
    machine.well();
    drop(daemon);

    let budget = format!("{both}B");
    let daemon = machine.daemon(&["--vram-budget", &budget]);
    let client = daemon.client().await;
    machine.load(&client, "vae").await.unwrap();
    machine.load(&client, "text_encoder").await.unwrap();
    let names = |listed: Vec<LoadedComponent>| listed.into_iter().map(|it| it.name).collect::<Vec<_>>();
    assert_eq!(names(on_cards(&client).await), ["text_encoder", "vae"]);
    // The one that was used last stays.
    until("nobody holds them", async || cards(&client).await[0].leases == 0).await;
    machine.load(&client, "vae").await.unwrap();
    until("nobody holds them", async || cards(&client).await[0].leases == 0).await;
    machine.load(&client, "transformer").await.unwrap();
    assert_eq!(names(on_cards(&client).await), ["transformer", "vae"]);
    assert_eq!(machine.used(0), both);
    let evicted = events(&client, EventKind::Evicted).await;
    assert!(
        evicted[0].message.contains("text_encoder on ") && evicted[0].message.contains("`vram_budget`"),
        "{evicted:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_driver_or_such_a_card_the_refusal_says_so() {
    let machine = Machine::new();
    let daemon = machine.daemon_on(&[], std::path::Path::new("/nowhere/libcuda.so.1"));
    let client = daemon.client().await;
    let error = machine.load(&client, "vae").await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NoCard), "{error}");
    assert!(error.to_string().contains("driver cannot be opened as `/nowhere/libcuda.so.1`"), "{error}");
    assert!(error.hint().unwrap().contains("nvidia-smi -L") && !error.retryable());
    machine.expected(&client, "vae").await;
    drop(daemon);

    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    let ask = async |device: &str, hold| {
        let request = machine.home.request(REPO, "vae").layout(Layout::Source).hold(hold).device(device);
        client.load_on_card(request, |_| ()).await.unwrap_err()
    };
    let error = ask("GPU-00000000-0000-0000-0000-000000000000", Hold::Stream).await;
    assert_eq!(error.reason(), Some(ErrorReason::NoCard));
    assert!(error.to_string().contains(&card(1)), "it names those that there are: {error}");
    for device in ["cuda", "0", "GPU-1"] {
        let error = ask(device, Hold::None).await;
        assert_eq!(error.reason(), Some(ErrorReason::InvalidRequest), "{error}");
    }
    assert!(cards(&client).await.is_empty() && on_cards(&client).await.is_empty());
    let output = machine.home.command().args(["load", REPO, "vae", "--device", "cuda:7"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(64) && said.contains("--device cuda:7"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_card_is_used_by_its_uuid_and_no_other_is_touched() {
    let machine = Machine::new();
    let daemon = machine.daemon(&[]);
    let client = daemon.client().await;
    let expected = machine.expected(&client, "vae").await;
    let mut second = machine.reader("vae", "cuda:1");
    assert_eq!(second.said(), expected);
    assert_eq!((machine.used(0), machine.used(1)), (0, GRANULE));
    assert!(machine.contexts().iter().all(|(_, card)| *card == 1), "{:?}", machine.contexts());
    let mut first = machine.reader("vae", &card(0));
    assert_eq!(first.said(), expected);
    assert_eq!((machine.used(0), machine.used(1)), (GRANULE, GRANULE));
    let both = cards(&client).await;
    assert_eq!(both.iter().map(|card| card.device.clone()).collect::<Vec<_>>(), [card(0), card(1)]);
    second.kill();
    until("the lease is gone", async || cards(&client).await[1].leases == 0).await;
    client.evict(EvictRequest::default()).await.unwrap();
    eventually("the second card is free", || machine.used(1) == 0);
    assert_eq!((first.does("read"), machine.used(0)), (expected, GRANULE));
}
