//! The pipeline between a journal and a store: what is applied, what is counted, and what crashes leave.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use proptest::prelude::{Just, Strategy, any, prop};

use super::{Driver, LedgerBoard, OnFlush, Options, Pipeline, Roller, Unregistered, adopt, write};
use crate::clock::Clock;
use crate::health::{Health, PartKind};
use crate::inventory::{Connection, Device, Inventory, MetricDef, Profile, SharedInventory, Site, UnknownMetrics};
use crate::journal::{self, Entry, Folder, Journal};
use crate::ledger::{Invalid, Ledger, Rejection};
use crate::model::{DeviceId, Frame, FrameKind, MetricKind, Timestamp, Window};
use crate::store::{Devices, Reader, SeriesQuery, SeriesRow, StorePath, Writer, WriterOptions};

pub(super) const T0: i64 = 1_764_000_000_000;

pub(super) fn options() -> Options {
    Options {
        flush_interval: Duration::from_secs(2),
        future_limit: Duration::from_mins(5),
        grace: Duration::from_secs(10),
        retention: Duration::from_hours(24),
        open_windows_bytes_max: 1 << 20,
        unregistered: Unregistered::Accept { devices_max: 1, metrics_max: 2 },
    }
}

/// One listed device `meter` at the site `B_1`.
pub(super) fn listed() -> Inventory {
    listed_with(|_| {})
}

/// The same, its profile changed.
pub(super) fn listed_with(change: impl Fn(&mut Profile)) -> Inventory {
    let mut inventory = Inventory::default();
    let site = inventory.add_site(Site {
        id: Arc::from("B_1"),
        name: "B 1".to_owned(),
        kind: Arc::from("base_station"),
        area: Arc::from("350102"),
        operator: Arc::from("mobile"),
        position: None,
        attributes: BTreeMap::new(),
        in_service_from: None,
        in_service_to: None,
    });
    let power = MetricDef { valid: (0.0, 10_000.0), ..MetricDef::gauge("pwr_w") };
    let energy = MetricDef { kind: MetricKind::Counter, ..MetricDef::gauge("energy_kwh") };
    let mut profile = Profile {
        id: "meter".to_owned(),
        description: String::new(),
        interval_ms: Some(10_000),
        unknown_metrics: UnknownMetrics::Refuse,
        time: crate::inventory::TimePolicy::default(),
        metrics: vec![power, energy],
    };
    change(&mut profile);
    inventory.add_device(Device {
        id: DeviceId(0),
        site,
        name: Arc::from("meter"),
        profile: Arc::new(profile),
        connection: Connection::Mqtt,
        interval_ms: Some(10_000),
        registered: true,
    });
    inventory
}

/// A store in a folder, and the roller that writes to it; dropping the roller is a crash.
pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) writer: Writer,
    pub(super) roller: Roller,
    pub(super) inventory: SharedInventory,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(&listed())
    }

    pub(super) fn with(listed: &Inventory) -> Self {
        Self::open_with(tempfile::tempdir().expect("a folder"), listed)
    }

    fn open(folder: tempfile::TempDir) -> Self {
        Self::open_with(folder, &listed())
    }

    pub(super) fn open_with(folder: tempfile::TempDir, listed: &Inventory) -> Self {
        let options_of_writer = WriterOptions {
            grace_ms: 10_000,
            retention_ms: 86_400_000,
            feed_windows: Window::ALL.into(),
            indicator_windows: [Window::Minute1].into(),
            rollup_sinks: vec!["store".to_owned()],
            devices: 100,
            zone: TimeZone::UTC,
        };
        let writer = Writer::open(&StorePath::in_folder(folder.path()), options_of_writer).expect("a store");
        let inventory = adopt(listed, &writer.devices().expect("devices"), &writer.metrics().expect("metrics"));
        let inventory: SharedInventory = Arc::new(RwLock::new(Arc::new(inventory)));
        let (ledger, position) = (writer.ledger().expect("a ledger"), writer.position().expect("a position"));
        let roller = Roller::new(options(), inventory.clone(), ledger, position, &writer).expect("a roller");
        Self { folder, writer, roller, inventory }
    }

    pub(super) fn crash(self) -> Self {
        self.crash_with(|_| {})
    }

    /// A crash of a world whose profile was changed.
    pub(super) fn crash_with(self, change: impl Fn(&mut Profile)) -> Self {
        let Self { folder, writer, roller, .. } = self;
        drop((writer, roller));
        Self::open_with(folder, &listed_with(change))
    }

    pub(super) fn reader(&self) -> Reader {
        Reader::open(&StorePath::in_folder(self.folder.path())).expect("a reader")
    }

    /// Goes on with another inventory.
    fn restart_with(self, listed: &Inventory) -> Self {
        let Self { folder, writer, roller, .. } = self;
        drop((writer, roller));
        Self::open_with(folder, listed)
    }

    /// Goes on with another policy, as after a restart with another configuration.
    fn set_unregistered(&mut self, unregistered: Unregistered) {
        let (ledger, position) = (self.roller.ledger().clone(), self.roller.position());
        let options = Options { unregistered, ..options() };
        let roller = Roller::new(options, self.inventory.clone(), ledger, position, &self.writer);
        self.roller = roller.expect("a roller");
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        self.roller.apply(entry, None, &self.writer).expect("the store answers");
    }

    pub(super) fn flush(&mut self, now: Timestamp) {
        write(&self.roller, &mut self.writer, now).expect("the store takes it");
        self.roller.flushed(now, &self.writer);
    }

    /// The pipeline without its thread, over a journal in the same folder.
    pub(super) fn into_driver(self) -> (Driver, tempfile::TempDir) {
        let (pipeline, folder) = self.into_pipeline();
        (pipeline.driver().expect("a driver"), folder)
    }

    /// The pipeline before its start, over an empty journal in the same folder.
    pub(super) fn into_pipeline(self) -> (Pipeline, tempfile::TempDir) {
        let Self { folder, writer, roller, inventory } = self;
        let (clock, health) = (Clock::system(), Health::default());
        let part = |kind, name: &str| health.part(kind, name, clock.now());
        let options_of_journal = journal::Options {
            folder: folder.path().to_owned(),
            bytes_max: 1 << 30,
            segment_bytes: 1 << 30,
            commit_interval: Duration::ZERO,
            age_max: Duration::from_hours(1),
        };
        let storage = Arc::new(Folder::open(folder.path()).expect("a folder"));
        let (position, journal_part) = (roller.position(), part(PartKind::Journal, "journal"));
        let journal = Journal::open(storage, options_of_journal, position, journal_part, clock).expect("a journal");
        let pipeline = Pipeline {
            journal: Arc::new(journal),
            writer,
            inventory,
            board: Arc::<LedgerBoard>::default(),
            options: options(),
            clock,
            part: part(PartKind::Pipeline, "pipeline"),
            store_part: part(PartKind::Store, "store"),
            ready: Arc::<AtomicBool>::default(),
            on_flush: OnFlush::default(),
            stop: Arc::<AtomicBool>::default(),
        };
        (pipeline, folder)
    }

    /// The ledger against a journal that ends where the roller is.
    pub(super) fn ledger(&self) -> Ledger {
        Ledger { received: self.roller.position().0, ..self.roller.ledger().clone() }
    }

    pub(super) fn rows(&self, window: Window) -> Vec<SeriesRow> {
        let reader = self.reader();
        let inventory = self.inventory.read().expect("no panic").clone();
        let query = SeriesQuery {
            inventory: &inventory,
            zone: &TimeZone::UTC,
            window,
            from: Timestamp::from_millis(T0 - 7 * 86_400_000),
            to: Timestamp::from_millis(T0 + 7 * 86_400_000),
            devices: Devices::All,
            metric: None,
            now: Timestamp::from_millis(T0 + 7 * 86_400_000),
        };
        let mut rows = Vec::new();
        let mut each = |row| {
            rows.push(row);
            ControlFlow::Continue(())
        };
        reader.visit_series(&query, &mut each).expect("rows");
        rows
    }
}

pub(super) fn frame(topic: &str, payload: &str, arrival_ms: i64) -> Entry {
    Entry::Frame(Frame {
        source: Arc::from("broker"),
        kind: FrameKind::NativeJson,
        topic: topic.into(),
        payload: payload.as_bytes().into(),
        arrival: Timestamp::from_millis(T0 + arrival_ms),
    })
}

fn reading(at_ms: i64, power: f64, energy: f64) -> Entry {
    let ts = T0 + at_ms;
    let payload = format!(r#"{{"ts":{ts},"readings":{{"pwr_w":{power},"energy_kwh":{energy}}}}}"#);
    frame("telemetry/base_station/350102/B_1/meter", &payload, at_ms.max(0))
}

#[test]
fn every_message_and_reading_lands_under_its_own_count() {
    let mut world = World::new();
    let meter = "telemetry/base_station/350102/B_1/meter";
    world.apply(&reading(0, 5.0, 1.0));
    world.apply(&reading(0, 5.0, 1.0));
    world.apply(&reading(0, 6.0, 1.0));
    world.apply(&frame(meter, "{", 0));
    world.apply(&frame("elsewhere", r#"{"readings":{"pwr_w":1}}"#, 0));
    world.apply(&frame("telemetry/indicator/a/new/d", r#"{"readings":{"value":1}}"#, 0));
    world.apply(&frame(meter, r#"{"readings":{"pwr_w":-1,"energy_kwh":"x","odd":1}}"#, 0));
    world.apply(&frame(meter, &format!(r#"{{"ts":{},"readings":{{"pwr_w":1}}}}"#, T0 + 600_000), 0));
    world.apply(&frame(meter, &format!(r#"{{"ts":{},"readings":{{"pwr_w":1}}}}"#, T0 - 90_000_000), 0));
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":1,"b":2,"c":3}}"#, 0));
    world.apply(&frame("telemetry/k/a/new/e", r#"{"readings":{"a":1}}"#, 0));
    world.apply(&Entry::Lost { records: 3 });
    let ledger = world.ledger();
    assert!(ledger.balanced(), "{ledger:?}");
    let total = ledger.total();
    let rejected = [
        (Rejection::MalformedJson, 1),
        (Rejection::UnknownTopic, 2),
        (Rejection::UnregisteredLimit, 1),
        (Rejection::JournalDamage, 3),
    ];
    assert_eq!(total.rejected, rejected.into());
    let invalid = [
        (Invalid::NotANumber, 1),
        (Invalid::OutOfRange, 1),
        (Invalid::UnknownMetric, 1),
        (Invalid::Future, 1),
        (Invalid::MetricLimit, 1),
    ];
    assert_eq!(total.invalid, invalid.into());
    assert_eq!((total.messages_decoded, total.applied), (7, 4));
    assert_eq!((total.duplicate, total.conflicting, total.expired), (3, 1, 1));
}

#[test]
fn a_name_that_nobody_listed_and_that_is_no_word_is_refused_at_the_door_and_counted() {
    let mut world = World::new();
    world.set_unregistered(Unregistered::Accept { devices_max: 100, metrics_max: 100 });
    let bad =
        ["=1+1", "a b", "a,b=c", "\"q\"", "<b>", "..", "back\\slash", "rtl\u{202e}", "zero\u{200b}", "\u{1b}[31m"];
    for name in bad {
        for topic in [
            format!("telemetry/{name}/a/new/d"),
            format!("telemetry/k/{name}/new/d"),
            format!("telemetry/k/a/{name}/d"),
            format!("telemetry/k/a/new/{name}"),
            format!("telemetry/k/a/B_1/{name}"),
        ] {
            world.apply(&frame(&topic, r#"{"readings":{"a":1}}"#, 0));
        }
        let payload = serde_json::json!({ "readings": { name: 1 } }).to_string();
        world.apply(&frame("telemetry/k/a/good/d", &payload, 0));
    }
    world.apply(&frame("telemetry/k/a/福州站/R_A07.PDU:1", r#"{"readings":{"温度":1}}"#, 0));
    // Of a listed device the inventory says what it is; what the topic calls kind and area goes nowhere.
    world.apply(&frame("telemetry/<b>/=1/B_1/meter", r#"{"readings":{"pwr_w":1}}"#, 0));
    world.apply(&frame("telemetry/k/a/B_1/stray", r#"{"readings":{"a":1}}"#, 0));
    let total = world.ledger().total();
    let count = |each: usize| (each * bad.len()) as u64;
    assert_eq!(total.rejected, [(Rejection::UnknownTopic, count(5))].into());
    assert_eq!(total.invalid, [(Invalid::UnknownMetric, count(1))].into());
    assert_eq!(total.applied, 3);
    let inventory = world.inventory.read().expect("a lock").clone();
    let sites: Vec<_> = inventory.sites().iter().map(|site| &*site.id).collect();
    assert_eq!(sites, ["B_1", "good", "福州站"]);
}

#[test]
fn a_bad_topic_is_refused_whichever_of_its_sites_devices_is_heard_first() {
    let mut world = World::new();
    world.set_unregistered(Unregistered::Accept { devices_max: 100, metrics_max: 100 });
    let bad = ["telemetry/k/<b>/s/d", "telemetry/<b>/a/s/e", "telemetry/indicator/a/s/e"];
    for topic in bad.into_iter().chain(["telemetry/k/a/s/e"]).chain(bad) {
        world.apply(&frame(topic, r#"{"readings":{"a":1}}"#, 0));
    }
    let total = world.ledger().total();
    assert_eq!((total.rejected, total.applied), ([(Rejection::UnknownTopic, 6)].into(), 1));
}

#[test]
fn a_dead_letter_keeps_no_more_than_the_head_of_its_topic() {
    let mut world = World::new();
    world.apply(&frame(&"é".repeat(30_000), "{}", 0));
    world.flush(Timestamp::from_millis(T0));
    let letters = Reader::open(&StorePath::in_folder(world.folder.path())).expect("a store").dead_letters(10);
    assert_eq!(letters.expect("letters")[0].topic.len(), 1_024);
}

#[test]
fn an_unlisted_device_keeps_its_number_and_its_rows_over_a_restart() {
    let mut world = World::new();
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":1}}"#, 0));
    world.flush(Timestamp::from_millis(T0 + 1_000));
    let mut world = world.crash();
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":3}}"#, 5));
    world.flush(Timestamp::from_millis(T0 + 2_000));
    let rows = world.rows(Window::Minute1);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].combined.aggregate.count, rows[0].combined.aggregate.mean()), (2, 2.0));
    let inventory = world.inventory.read().expect("no panic").clone();
    let device = inventory.device(rows[0].device).expect("known");
    assert_eq!((device.name.as_ref(), device.registered), ("d", false));
    assert_eq!(inventory.site_of(device).area.as_ref(), "a");
}

#[test]
fn a_late_reading_amends_its_own_window_and_the_step_into_the_next_row() {
    let mut world = World::new();
    world.apply(&reading(0, 5.0, 1.0));
    world.flush(Timestamp::from_millis(T0 + 2_000));
    world.apply(&reading(7_200_000, 7.0, 9.0));
    world.flush(Timestamp::from_millis(T0 + 7_202_000));
    world.flush(Timestamp::from_millis(T0 + 7_290_000));
    world.apply(&reading(10_000, 6.0, 2.0));
    world.flush(Timestamp::from_millis(T0 + 7_291_000));
    let rows = world.rows(Window::Minute1);
    let facts: Vec<_> = rows
        .iter()
        .map(|row| (row.combined.aggregate.count, row.combined.late, row.revision, row.combined.increase))
        .collect();
    // The counter's step into the next row starts at the late value, so that row is amended as well.
    let amended = [(2, 1, 2, None), (2, 1, 2, Some(1.0))];
    let next = [(1, 0, 2, None), (1, 0, 2, Some(7.0))];
    assert_eq!(facts, [amended, next].concat());
}

#[test]
fn a_stop_leaves_a_long_backlog_to_the_next_start() {
    let (mut driver, folder) = World::new().into_driver();
    let journal = driver.pipeline.journal.clone();
    let (kept, is_kept) = std::sync::mpsc::channel();
    let backlog = (0..100).map(|at| match reading(at, 5.0, 1.0) {
        Entry::Frame(frame) => frame,
        Entry::Lost { .. } => unreachable!("a reading is a frame"),
    });
    let receipt = Box::new(move |_| kept.send(()).expect("the test waits"));
    journal.inlet().append(backlog.collect(), receipt).expect("room");
    is_kept.recv().expect("the backlog is on disk");

    driver.pipeline.stop.store(true, Ordering::Release);
    // The time for reading is over.
    driver.reads_until = Some(Instant::now());
    driver.run();
    let world = World::open(folder);
    assert_eq!((world.roller.position().0, journal.end().0), (0, 100));
}

#[test]
fn a_refusing_policy_holds_for_devices_that_were_taken_in_before() {
    let mut world = World::new();
    let message = frame("telemetry/k/a/new/d", r#"{"readings":{"a":1}}"#, 0);
    world.apply(&message);
    world.flush(Timestamp::from_millis(T0 + 1_000));
    let mut world = world.crash();
    world.set_unregistered(Unregistered::Refuse);
    world.apply(&message);
    world.apply(&message);
    let rejected = world.ledger().total().rejected;
    assert_eq!(rejected, [(Rejection::Unregistered, 2)].into());
}

#[test]
fn a_rejected_message_is_remembered_by_its_beginning_only() {
    let mut world = World::new();
    world.apply(&frame("elsewhere", &"x".repeat(1 << 18), 0));
    let parts = world.roller.flush_parts();
    assert_eq!(parts.dead_letters[0].payload.len(), 1_024);
}

fn deliveries() -> impl Strategy<Value = (Vec<Entry>, Vec<Entry>)> {
    let times = prop::collection::btree_map(-3_600_000i64..600_000, (0.0..9_999.0f64, 0.0..1e6f64), 1..40);
    times
        .prop_map(|times| times.into_iter().map(|(at, (power, energy))| reading(at, power, energy)).collect::<Vec<_>>())
        .prop_flat_map(|entries| {
            let copies = prop::collection::vec(1usize..3, entries.len());
            (Just(entries), copies)
        })
        .prop_flat_map(|(entries, copies)| {
            let all = entries.iter().zip(copies).flat_map(|(entry, n)| std::iter::repeat_n(entry.clone(), n));
            let all = all.collect::<Vec<_>>();
            (Just(entries), Just(all).prop_shuffle())
        })
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 48, ..Default::default() })]

    /// P2 and P4 over decode, roll-up and store: order, repetition, flushes and crashes anywhere.
    #[test]
    fn any_order_repetition_flush_and_crash_give_the_same_rows(
        (in_order, deliveries) in deliveries(),
        flushes in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        crashes in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let end = Timestamp::from_millis(T0 + 3 * 3_600_000);
        let mut oracle = World::new();
        for entry in &in_order {
            oracle.apply(entry);
        }
        oracle.flush(end);

        let at = |indices: &[prop::sample::Index]| {
            indices.iter().map(|index| index.index(deliveries.len())).collect::<Vec<_>>()
        };
        let (flushes, mut crashes) = (at(&flushes), at(&crashes));
        let mut world = World::new();
        let mut next = 0;
        while next < deliveries.len() {
            if let Some(crash) = crashes.iter().position(|&crash| crash == next) {
                crashes.swap_remove(crash);
                world = world.crash();
                next = usize::try_from(world.roller.position().0).expect("small");
                continue;
            }
            world.apply(&deliveries[next]);
            if flushes.contains(&next) {
                world.flush(Timestamp::from_millis(T0 + 1_800_000));
            }
            next += 1;
        }
        world.flush(end);

        let ledger = world.ledger();
        proptest::prop_assert!(ledger.balanced(), "{:?}", ledger);
        proptest::prop_assert_eq!(ledger.received, deliveries.len() as u64);
        proptest::prop_assert_eq!(ledger.total().applied, 2 * in_order.len() as u64);
        for window in [Window::Minute1, Window::Hour1] {
            let (rows, expected) = (world.rows(window), oracle.rows(window));
            proptest::prop_assert_eq!(rows.len(), expected.len());
            for (row, want) in rows.iter().zip(&expected) {
                let (a, b) = (&row.combined, &want.combined);
                proptest::prop_assert_eq!((row.metric, row.start), (want.metric, want.start));
                proptest::prop_assert_eq!(
                    (a.aggregate.count, a.aggregate.min, a.aggregate.max, a.aggregate.first, a.aggregate.last),
                    (b.aggregate.count, b.aggregate.min, b.aggregate.max, b.aggregate.first, b.aggregate.last)
                );
                let (sum, wanted) = (a.aggregate.sum.value(), b.aggregate.sum.value());
                proptest::prop_assert!((sum - wanted).abs() <= 1e-12 * wanted.abs());
                proptest::prop_assert_eq!((a.heard, a.expected, a.increase), (b.heard, b.expected, b.increase));
            }
        }
    }
}

#[test]
fn a_late_reading_whose_row_went_with_age_is_expired_and_begins_no_row() {
    let mut world = World::new();
    world.apply(&reading(0, 5.0, 1.0));
    world.flush(Timestamp::from_millis(T0 + 60_000));
    // The row goes when the newest is a day and two minutes younger.
    let day = 86_400_000;
    world.apply(&reading(day + 120_000, 7.0, 9.0));
    world.flush(Timestamp::from_millis(T0 + day + 120_000));
    // It arrived within the retention and waited in the journal until its row was gone.
    let ts = T0 + 30_000;
    let late = format!(r#"{{"ts":{ts},"readings":{{"pwr_w":1,"energy_kwh":1}}}}"#);
    world.apply(&frame("telemetry/base_station/350102/B_1/meter", &late, 60_000));
    let ledger = world.ledger();
    assert!(ledger.balanced(), "{ledger:?}");
    assert_eq!((ledger.total().applied, ledger.total().expired), (4, 2));
    world.flush(Timestamp::from_millis(T0 + day + 121_000));
    assert!(world.rows(Window::Minute1).iter().all(|row| row.start >= Timestamp::from_millis(T0 + 60_000)));
}

#[test]
fn metrics_of_an_unlisted_device_count_on_over_restarts() {
    let mut world = World::new();
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":1,"b":2}}"#, 0));
    world.flush(Timestamp::from_millis(T0 + 1_000));
    let mut world = world.crash();
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"c":5}}"#, 5));
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":3,"b":4}}"#, 6));
    let total = world.ledger().total();
    assert_eq!((total.applied, total.invalid), (4, [(Invalid::MetricLimit, 1)].into()));
}

#[test]
fn a_metric_that_was_taken_in_is_refused_once_its_profile_refuses_it() {
    let mut world = World::with(&listed_with(|profile| profile.unknown_metrics = UnknownMetrics::Accept));
    let other = r#"{"readings":{"other":1}}"#;
    world.apply(&frame("telemetry/base_station/350102/B_1/meter", other, 0));
    assert_eq!(world.ledger().total().applied, 1);
    world.flush(Timestamp::from_millis(T0 + 1_000));
    let mut world = world.crash_with(|profile| profile.unknown_metrics = UnknownMetrics::Refuse);
    world.apply(&frame("telemetry/base_station/350102/B_1/meter", other, 5));
    let total = world.ledger().total();
    assert_eq!((total.applied, total.invalid), (1, [(Invalid::UnknownMetric, 1)].into()));
}

#[test]
fn devices_that_are_taken_in_count_by_source_and_on_over_restarts() {
    let other = |topic: &str| match frame(topic, r#"{"readings":{"a":1}}"#, 0) {
        Entry::Frame(frame) => Entry::Frame(Frame { source: Arc::from("other"), ..frame }),
        lost @ Entry::Lost { .. } => lost,
    };
    let mut world = World::new();
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":1}}"#, 0));
    world.flush(Timestamp::from_millis(T0 + 1_000));
    let mut world = world.crash();
    world.apply(&frame("telemetry/k/a/new/e", r#"{"readings":{"a":1}}"#, 0));
    world.apply(&other("telemetry/k/a/new/f"));
    world.apply(&other("telemetry/k/a/new/g"));
    let ledger = world.ledger();
    let rejected = |source: &str| ledger.sources[source].rejected.get(&Rejection::UnregisteredLimit).copied();
    assert_eq!((rejected("broker"), rejected("other")), (Some(1), Some(1)));
    assert_eq!(ledger.total().applied, 2);
}

#[test]
fn a_device_that_is_listed_no_longer_takes_nobodys_place() {
    let mut world = World::new();
    world.apply(&reading(0, 5.0, 1.0));
    world.flush(Timestamp::from_millis(T0 + 1_000));
    let mut world = world.restart_with(&Inventory::default());
    world.apply(&reading(1_000, 6.0, 2.0));
    world.apply(&frame("telemetry/k/a/new/d", r#"{"readings":{"a":1}}"#, 0));
    assert_eq!(world.ledger().total().messages_rejected(), 0);
    // One that was taken in and is listed then, is not counted either, also when it is removed again.
    world.flush(Timestamp::from_millis(T0 + 2_000));
    let mut both = listed();
    let site = both.add_site(Site { id: Arc::from("new"), ..both.sites()[0].clone() });
    both.add_device(Device { site, name: Arc::from("d"), ..both.devices()[0].clone() });
    let mut world = world.restart_with(&both);
    world.flush(Timestamp::from_millis(T0 + 3_000));
    let mut world = world.restart_with(&listed());
    world.apply(&frame("telemetry/k/a/new/e", r#"{"readings":{"a":1}}"#, 0));
    assert_eq!(world.ledger().total().messages_rejected(), 0);
}

#[test]
fn windows_beyond_the_bound_are_let_go_after_a_flush() {
    let mut world = World::new();
    let mut at = 0;
    let bytes_max = options().open_windows_bytes_max;
    while world.roller.open_bytes() < bytes_max {
        world.apply(&reading(at, 5.0, 1.0));
        at += 1_000;
    }
    // None of them is over: they would stay open otherwise.
    world.flush(Timestamp::from_millis(T0));
    let open_bytes = world.roller.open_bytes();
    assert!(open_bytes > bytes_max / 2 && open_bytes <= bytes_max / 4 * 3, "{open_bytes} of {bytes_max}");
    // They are read again where more comes for them.
    world.apply(&reading(at - 1_000, 5.0, 1.0));
    world.apply(&reading(1, 5.0, 1.0));
    world.flush(Timestamp::from_millis(T0));
    assert_eq!(world.ledger().total().duplicate, 2);
    let applied = world.ledger().total().applied;
    let kept: u64 = world.rows(Window::Minute1).iter().map(|row| row.combined.aggregate.count).sum();
    assert_eq!(kept, applied);
}

#[test]
fn whoever_waits_for_rows_is_told_of_a_flush_that_wrote() {
    let (mut driver, _folder) = World::new().into_driver();
    let told = Arc::new(AtomicBool::new(false));
    let teller = told.clone();
    driver.pipeline.on_flush = OnFlush::call(move || teller.store(true, Ordering::Relaxed));
    assert!(driver.flush());
    assert!(told.load(Ordering::Relaxed));
}
