//! What a scrape shows: the counters of the daemon, and its state at that moment.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::Gauge, info::Info},
    registry::Registry,
};
use weightsd_segment::MemoryUse;

use crate::{
    cache::Cache,
    connections::Connections,
    handle::Daemon,
    lanes::{Disks, Kind, MayBlock, Task},
};

/// How long a scrape waits for what only the system knows; what was seen last is shown then.
const PATIENCE: Duration = Duration::from_millis(200);

/// What the state is read from.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Sources {
    pub(in crate::daemon) daemon: Daemon,
    pub(in crate::daemon) cache: Arc<Cache>,
    pub(in crate::daemon) connections: Arc<Connections>,
    pub(in crate::daemon) started: SystemTime,
}

/// All metrics.
#[derive(Debug)]
pub(super) struct Board {
    registry: Registry,
    sources: Sources,
    state: State,
    system: Arc<System>,
}

/// Gauges that are set for each scrape.
#[derive(Debug, Default)]
struct State {
    components: Gauge,
    leases: Gauge,
    tensor_bytes: Gauge,
    connections: Gauge,
    loads_running: Gauge,
    downloads_running: Gauge,
    image_bytes: Gauge,
    image_budget_bytes: Gauge,
    resident_bytes: Gauge,
    open_files: Gauge,
}

/// What was last seen of this process.
#[derive(Debug, Default)]
struct System {
    resident_bytes: AtomicI64,
    open_files: AtomicI64,
}

impl Board {
    pub(super) fn new(sources: Sources) -> Self {
        let (mut registry, state) = (Registry::default(), State::default());
        state.register(registry.sub_registry_with_prefix("weightsd"), &sources);
        sources.daemon.metrics().register(registry.sub_registry_with_prefix("weightsd"));
        state.register_process(registry.sub_registry_with_prefix("process"), &sources);
        registry.register_collector(Box::new(Counts(sources.daemon.clone())));
        Self { registry, sources, state, system: Arc::default() }
    }

    /// The text of a scrape.
    pub(super) async fn text(&self) -> Result<String, fmt::Error> {
        self.look().await;
        let Sources { cache, connections, .. } = &self.sources;
        let (components, leases, bytes) = cache.totals();
        let set = |gauge: &Gauge, value: u64| _ = gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.state.components, components as u64);
        set(&self.state.leases, leases as u64);
        set(&self.state.tensor_bytes, bytes);
        set(&self.state.connections, connections.len() as u64);
        set(&self.state.loads_running, cache.flights(usize::MAX).len() as u64);
        set(&self.state.downloads_running, cache.tools().fetcher.reports(usize::MAX).len() as u64);
        set(&self.state.image_bytes, cache.config().images.bytes());
        set(&self.state.image_budget_bytes, cache.config().image_budget.get());
        self.state.resident_bytes.set(self.system.resident_bytes.load(Ordering::Relaxed));
        self.state.open_files.set(self.system.open_files.load(Ordering::Relaxed));
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Looks at this process, on a thread that may wait for it.
    async fn look(&self) {
        self.sources.cache.recount_images();
        let (system, disks) = (Arc::clone(&self.system), Disks::default());
        let look = move |_: &MayBlock<'_>| {
            let resident = MemoryUse::resident_of_self().unwrap_or_default();
            system.resident_bytes.store(i64::try_from(resident).unwrap_or(i64::MAX), Ordering::Relaxed);
            // The folder that is read is open meanwhile.
            let open = std::fs::read_dir("/dev/fd").map_or(0, |entries| entries.count().saturating_sub(1));
            system.open_files.store(i64::try_from(open).unwrap_or(i64::MAX), Ordering::Relaxed);
        };
        let (operation, subject, kind) = ("looking at this process", "metrics", Kind::Look);
        let task = Task { operation, subject, disks: &disks, kind, limit: Some(PATIENCE) };
        // Late or refused: what was seen last is shown.
        let _ = self.sources.daemon.lanes().run(task, look).await;
    }
}

impl State {
    fn register(&self, registry: &mut Registry, sources: &Sources) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("components", "Components that are loaded", &self.components);
        gauge("leases", "Leases that are held", &self.leases);
        gauge("tensor_bytes", "Bytes of the tensors of loaded components", &self.tensor_bytes);
        gauge("connections", "Connections that are open", &self.connections);
        gauge("loads_running", "Loads under way", &self.loads_running);
        gauge("downloads_running", "Downloads under way", &self.downloads_running);
        gauge("image_bytes", "Bytes of derived images on the disk", &self.image_bytes);
        gauge("image_budget_bytes", "Bytes that derived images may take together", &self.image_budget_bytes);
        let connections_max: Gauge = Gauge::default();
        connections_max.set(i64::try_from(sources.connections.limit()).unwrap_or(i64::MAX));
        gauge("connections_max", "Connections that may be open at once", &connections_max);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
    }

    /// Metrics that every program has, by the names that Prometheus gives them.
    fn register_process(&self, registry: &mut Registry, sources: &Sources) {
        let started: Gauge<f64, AtomicU64> = Gauge::default();
        let since = sources.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        started.set(since.as_secs_f64());
        registry.register("start_time_seconds", "When the daemon started, in seconds since 1970", started);
        registry.register("resident_memory_bytes", "Memory of the daemon", self.resident_bytes.clone());
        registry.register("open_fds", "Files that the daemon has open", self.open_files.clone());
        let most: Gauge = Gauge::default();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        most.set(limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX));
        registry.register("max_fds", "Files that the daemon may have open", most);
    }
}

/// What is counted elsewhere.
#[derive(Debug)]
struct Counts(Daemon);

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "What happened, as `weightsd events` shows it";
        let mut events = encoder.encode_descriptor("weightsd_events", help, None, MetricType::Counter)?;
        for (kind, count) in self.0.events().counts() {
            ConstCounter::new(count).encode(events.encode_family(&[("kind", word(&format!("{kind:?}")))])?)?;
        }
        let help = "Lines of the log that were lost, because nobody read them or they could not be written";
        let lost = encoder.encode_descriptor("weightsd_log_lines_lost", help, None, MetricType::Counter)?;
        ConstCounter::new(self.0.losses().lines()).encode(lost)
    }
}

/// `LoadFailed` as `load_failed`.
fn word(name: &str) -> String {
    let mut word = String::with_capacity(name.len() + 2);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}
