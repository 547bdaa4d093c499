//! The daemon's parts on simulated ground, without threads: what `app.rs` wires, a step at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tokio::runtime::Runtime;

use super::devices::{PACKET_BYTES_MAX, inventory};
use super::far_store::FarStore;
use super::wire::Wire;
use crate::clock::Clock;
use crate::health::{Health, PartKind, PartSnapshot};
use crate::indicator::{self, Definition, SteppedWorker};
use crate::inventory::SharedInventory;
use crate::journal::simulated_disk::SimulatedDisk;
use crate::journal::stepped::SteppedJournal;
use crate::journal::{self, Journal};
use crate::ledger::Ledger;
use crate::model::{JournalPosition, Window, millis};
use crate::pipeline::stepped::SteppedPipeline;
use crate::pipeline::{self, Pipeline, Unregistered};
use crate::sink::influx::stepped::SteppedSink;
use crate::sink::{self, influx};
use crate::source::mqtt;
use crate::source::mqtt::stepped::SteppedSource;
use crate::store::{Feed, StorePath, Writer, WriterOptions};

const DAY: Duration = Duration::from_hours(24);
const GRACE: Duration = Duration::from_secs(10);
const RETENTION: Duration = Duration::from_hours(40 * 24);
const SINK: &str = "far";
/// Longest that the sink is given for a batch, on a clock that does not run meanwhile.
const TURN_MAX: Duration = Duration::from_mins(2);

/// The indicators that it computes.
const INDICATORS: &str = r#"
[[indicator]]
id = "P"
name = "power"
name_zh = "功率"
unit = "W"
source = "test"
site_kind = "base_station"
levels = ["site", "district", "operator", "city"]
windows = ["1h"]
formula = "power"
[indicator.inputs]
power = { metric = "pwr_w", aggregate = "mean", unit = "W" }

[[indicator]]
id = "E"
name = "energy"
name_zh = "能耗"
unit = "kWh"
source = "test"
site_kind = "base_station"
levels = ["district", "operator", "city"]
windows = ["1h"]
formula = "energy"
[indicator.inputs]
energy = { metric = "energy_kwh", aggregate = "total", unit = "kWh" }
"#;

/// Windows whose rows the sink sends.
pub(super) const FEED_WINDOWS: [Window; 3] = [Window::Minute1, Window::Hour1, Window::Day1];
/// Window of the indicators.
pub(super) const INDICATOR_WINDOW: Window = Window::Hour1;

/// Zone of days.
pub(super) fn zone() -> TimeZone {
    TimeZone::fixed(jiff::tz::offset(8))
}

/// What outlives the process.
#[derive(Clone)]
pub(super) struct Ground {
    /// The journal's disk.
    pub(super) disk: SimulatedDisk,
    /// Folder of the store, on a real disk.
    pub(super) folder: PathBuf,
    pub(super) far: Arc<FarStore>,
    pub(super) clock: Clock,
    pub(super) bounds: Bounds,
}

/// How much room the process has, by its configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) journal_bytes_max: u64,
    pub(super) segment_bytes: u64,
    pub(super) open_windows_bytes_max: usize,
    pub(super) batch_lines_max: usize,
}

/// The process.
pub(super) struct Gateway {
    pub(super) journal: SteppedJournal,
    pub(super) source: SteppedSource<Wire>,
    pub(super) pipeline: SteppedPipeline,
    pub(super) worker: SteppedWorker,
    sink: SteppedSink,
    health: Arc<Health>,
    pub(super) inventory: SharedInventory,
}

impl Ground {
    fn writer_options() -> WriterOptions {
        WriterOptions {
            grace_ms: millis(GRACE),
            retention_ms: millis(RETENTION),
            feed_windows: FEED_WINDOWS.into(),
            indicator_windows: [INDICATOR_WINDOW].into(),
            rollup_sinks: vec![SINK.to_owned()],
            devices: 100,
            zone: zone(),
        }
    }

    /// Starts the process.
    pub(super) fn start(&self) -> Gateway {
        let (health, clock) = (Arc::<Health>::default(), self.clock);
        let part = |kind, name: &str| health.part(kind, name, clock.now());
        let store = StorePath::in_folder(&self.folder);
        let writer = Writer::open(&store, Self::writer_options()).expect("a store");
        let position = writer.position().expect("a position");
        let adopted =
            pipeline::adopt(&inventory(), &writer.devices().expect("devices"), &writer.metrics().expect("metrics"));
        let inventory: SharedInventory = Arc::new(RwLock::new(Arc::new(adopted)));
        let journal = self.open_journal(position, &health);
        let inlet = journal.journal.inlet();
        let source = SteppedSource::new(mqtt_options(), inlet, clock, part(PartKind::Mqtt, "east"));
        let pipeline = Pipeline {
            journal: Arc::clone(&journal.journal),
            writer,
            inventory: Arc::clone(&inventory),
            board: Arc::default(),
            options: self.pipeline_options(),
            clock,
            part: part(PartKind::Pipeline, "pipeline"),
            store_part: part(PartKind::Store, "store"),
            ready: Arc::default(),
            on_flush: pipeline::OnFlush::default(),
            stop: Arc::default(),
        };
        let definitions: Arc<[Definition]> = indicator::parse("world.toml", INDICATORS).expect("indicators").into();
        let descriptions = definitions.iter().map(|definition| definition.description.clone()).collect();
        let context = sink::Context {
            store: store.clone(),
            inventory: inventory.clone(),
            descriptions,
            zone: zone(),
            clock,
            flushes: tokio::sync::watch::channel(()).1,
        };
        let options = self.sink_options();
        Gateway {
            source,
            pipeline: SteppedPipeline::new(pipeline).expect("a pipeline"),
            worker: SteppedWorker::new(
                store,
                inventory.clone(),
                definitions,
                (zone(), clock),
                part(PartKind::Indicator, "indicators"),
            ),
            sink: SteppedSink::new(self.far.clone(), options, context, part(PartKind::Influx, SINK)),
            journal,
            inventory,
            health,
        }
    }

    fn open_journal(&self, position: JournalPosition, health: &Health) -> SteppedJournal {
        let options = journal::Options {
            folder: Path::new("journal").to_owned(),
            bytes_max: self.bounds.journal_bytes_max,
            segment_bytes: self.bounds.segment_bytes,
            commit_interval: Duration::ZERO,
            age_max: Duration::from_hours(1),
        };
        let part = health.part(PartKind::Journal, "journal", self.clock.now());
        SteppedJournal::open(Arc::new(self.disk.clone()), options, position, part, self.clock).expect("a journal")
    }

    fn pipeline_options(&self) -> pipeline::Options {
        pipeline::Options {
            flush_interval: Duration::from_secs(2),
            future_limit: DAY,
            grace: GRACE,
            retention: RETENTION,
            open_windows_bytes_max: self.bounds.open_windows_bytes_max,
            unregistered: Unregistered::Refuse,
        }
    }

    fn sink_options(&self) -> influx::Options {
        // Half of the worlds each, without a draw of its own, which would make other worlds of the seeds.
        let even = self.bounds.batch_lines_max.is_multiple_of(2);
        let encoding = if even { influx::Encoding::Plain } else { influx::Encoding::Gzip };
        influx::Options {
            name: SINK.to_owned(),
            url: "http://far".to_owned(),
            org: String::new(),
            bucket: String::new(),
            token: String::new(),
            create_bucket: false,
            windows: BTreeSet::from(FEED_WINDOWS),
            fields: influx::Fields::ALL,
            batch_lines_max: self.bounds.batch_lines_max,
            encoding,
            timeout: Duration::from_secs(1),
            backoff_max: Duration::from_secs(2),
        }
    }
}

impl Gateway {
    /// The sink sends a batch of each feed, if it can. Returns whether it sent anything.
    pub(super) fn send(&mut self, runtime: &Runtime) -> bool {
        let Self { sink, .. } = self;
        runtime.block_on(async {
            let mut sent = false;
            for feed in [Feed::Rollup, Feed::Indicator] {
                sent |= matches!(tokio::time::timeout(TURN_MAX, sink.turn(feed)).await, Ok(true));
            }
            sent
        })
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal.journal
    }

    pub(super) fn ledger(&self) -> Ledger {
        self.pipeline.ledger()
    }

    /// What a part has counted since the process began.
    pub(super) fn counter(&self, kind: PartKind, name: &str) -> u64 {
        let parts = self.health.snapshot();
        let part = parts.iter().find(|part: &&PartSnapshot| part.kind == kind);
        part.and_then(|part| part.counters.get(name).copied()).unwrap_or(0)
    }
}

fn mqtt_options() -> mqtt::Options {
    mqtt::Options {
        name: Arc::from("east"),
        host: "broker".to_owned(),
        port: 1883,
        client_id: "world".to_owned(),
        topics: vec!["#".to_owned()],
        login: None,
        keep_alive: Duration::from_mins(1),
        connect_timeout: Duration::from_secs(10),
        packet_bytes_max: PACKET_BYTES_MAX,
        backoff_max: Duration::from_secs(30),
    }
}

/// Begins a connection between the process and a broker's end of `wire`.
pub(super) fn connect(gateway: &mut Gateway, wire: &Wire, now: Instant) {
    gateway.source.connect(wire.clone(), now);
}
