//! The thread that computes indicators of the windows that the store has marked, oldest first.
//!
//! A window that changes many times between two looks is computed once; one that changes while it is computed keeps its
//! mark and is computed again. Never decides when a window is final.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use tracing::{info, warn};

use super::compute::Computation;
use super::definition::Definition;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::health::{Counter, Part, State};
use crate::inventory::{Inventory, SharedInventory};
use crate::problem::with_causes;
use crate::store::{Devices, Error, Reader, SeriesQuery, SideWriter, StaleWindow, StorePath};

/// Marks that are read at once.
const WINDOWS_MAX: usize = 256;
/// Time between looks at the marks, on the daemon's clock; really never shorter than [`LOOK_MIN`].
const LOOK: Duration = Duration::from_secs(1);
const LOOK_MIN: Duration = Duration::from_millis(100);
/// How soon a stop is seen while waiting.
const STEP: Duration = Duration::from_millis(200);
/// Longest wait after the store failed.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Computes indicators until `stop` is set; to be run on a thread of its own. A store that fails is opened again.
pub fn run_worker(
    store: StorePath,
    inventory: SharedInventory,
    definitions: Arc<[Definition]>,
    zone: TimeZone,
    clock: Clock,
    part: Arc<Part>,
    stop: Arc<AtomicBool>,
) {
    Worker::new(store, inventory, definitions, (zone, clock), part, stop).run();
}

/// The worker without its thread: a test says when it looks.
#[cfg(test)]
pub(crate) struct SteppedWorker {
    worker: Worker,
    connections: Option<Connections>,
}

#[cfg(test)]
impl SteppedWorker {
    /// A worker that has not opened the store yet.
    pub(crate) fn new(
        store: StorePath,
        inventory: SharedInventory,
        definitions: Arc<[Definition]>,
        (zone, clock): (TimeZone, Clock),
        part: Arc<Part>,
    ) -> Self {
        let worker = Worker::new(store, inventory, definitions, (zone, clock), part, Arc::default());
        Self { worker, connections: None }
    }

    /// Computes what is marked now. Returns how many windows that were.
    pub(crate) fn look(&mut self) -> usize {
        self.worker.look(&mut self.connections).expect("the store answers")
    }
}

struct Counters {
    windows_computed: Counter,
    windows_waiting: Counter,
    rows_written: Counter,
    failures: Counter,
}

struct Worker {
    store: StorePath,
    inventory: SharedInventory,
    definitions: Arc<[Definition]>,
    zone: TimeZone,
    clock: Clock,
    part: Arc<Part>,
    stop: Arc<AtomicBool>,
    counters: Counters,
}

/// Both connections to the store.
struct Connections {
    reader: Reader,
    writer: SideWriter,
}

impl Worker {
    fn new(
        store: StorePath,
        inventory: SharedInventory,
        definitions: Arc<[Definition]>,
        (zone, clock): (TimeZone, Clock),
        part: Arc<Part>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let counters = Counters {
            windows_computed: part.counter("windows_computed"),
            windows_waiting: part.counter("windows_waiting"),
            rows_written: part.counter("rows_written"),
            failures: part.counter("failures"),
        };
        Self { store, inventory, definitions, zone, clock, part, stop, counters }
    }

    fn run(&self) {
        let mut connections = None;
        let mut backoff = Backoff::new(BACKOFF_MAX);
        while !self.is_stopped() {
            match self.look(&mut connections) {
                // As many as are read at once: more may wait.
                Ok(WINDOWS_MAX) => backoff.succeeded(),
                Ok(_) => {
                    backoff.succeeded();
                    self.wait(self.clock.real(LOOK).max(LOOK_MIN));
                }
                Err(error) => {
                    connections = None;
                    self.counters.failures.add(1);
                    let detail = with_causes(&error);
                    if self.part.report(State::Down, detail.clone(), self.clock.now()) {
                        warn!(error = detail, "indicators wait for the store");
                    }
                    self.wait(backoff.failed(fastrand::f64()));
                }
            }
        }
    }

    /// Computes what is marked now and returns how many windows that were.
    fn look(&self, connections: &mut Option<Connections>) -> Result<usize, Error> {
        let Connections { reader, writer } = match connections {
            Some(open) => open,
            None => connections
                .insert(Connections { reader: Reader::open(&self.store)?, writer: SideWriter::open(&self.store)? }),
        };
        let marked = reader.stale(WINDOWS_MAX)?;
        self.counters.windows_waiting.set(marked.len() as u64);
        let inventory = self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (done, window) in marked.iter().enumerate() {
            if self.is_stopped() {
                return Ok(done);
            }
            self.compute(reader, writer, &inventory, window)?;
            self.counters.windows_waiting.set((marked.len() - done - 1) as u64);
            self.report_up();
        }
        if marked.is_empty() {
            self.report_up();
        }
        Ok(marked.len())
    }

    fn report_up(&self) {
        let count = self.definitions.len();
        if self.part.report(State::Up, format!("{count} indicators"), self.clock.now()) {
            info!(indicators = count, "indicators are computed");
        }
    }

    fn compute(
        &self,
        reader: &Reader,
        writer: &mut SideWriter,
        inventory: &Inventory,
        marked: &StaleWindow,
    ) -> Result<(), Error> {
        let StaleWindow { window, start, .. } = *marked;
        let mut computation = Computation::new(&self.definitions, inventory, &self.zone, window, start);
        let rows = if computation.is_empty() {
            Vec::new()
        } else {
            let query = SeriesQuery {
                inventory,
                zone: &self.zone,
                window,
                from: start,
                to: start.plus_millis(1),
                devices: Devices::All,
                metric: None,
                now: self.clock.now(),
            };
            reader.visit_series(&query, &mut |row| {
                computation.add(&row);
                if self.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if self.is_stopped() {
                return Ok(());
            }
            computation.finish()
        };
        let written = writer.write_indicators(&rows, marked)?;
        self.counters.windows_computed.add(1);
        self.counters.rows_written.add(written as u64);
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wait(&self, span: Duration) {
        let until = Instant::now() + span;
        while !self.is_stopped() {
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(STEP)),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::RwLock;

    use super::*;
    use crate::health::{Health, PartKind, PartSnapshot};
    use crate::indicator::Level;
    use crate::indicator::support::{City, START, define};
    use crate::ledger::Ledger;
    use crate::model::{BASE_WINDOW_MS, DeviceId, JournalPosition, MetricId, Timestamp, Window};
    use crate::rollup::DeviceWindow;
    use crate::store::{Flush, FlushedRow, IndicatorQuery, IndicatorRow, Writer, WriterOptions};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A worker on its own thread, over a store that the test writes.
    struct Bench {
        folder: tempfile::TempDir,
        part: Arc<Part>,
        stop: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Bench {
        fn start(city: &City) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let clock = Clock::system();
            let part = Health::default().part(PartKind::Indicator, "indicators", clock.now());
            let stop = Arc::new(AtomicBool::new(false));
            let input = r#"power = { metric = "pwr_w", aggregate = "mean", unit = "W" }"#;
            let definitions: Arc<[Definition]> = Arc::new([define("W", "base_station", "power", input)]);
            let inventory: SharedInventory = Arc::new(RwLock::new(Arc::new(city.inventory.clone())));
            let store = StorePath::in_folder(folder.path());
            let (to_report, to_stop) = (part.clone(), stop.clone());
            let run = move || run_worker(store, inventory, definitions, TimeZone::UTC, clock, to_report, to_stop);
            Self { part, stop, thread: Some(thread::spawn(run)), folder }
        }

        fn await_part(&self, what: &str, is_so: impl Fn(&PartSnapshot) -> bool) {
            await_some(what, || is_so(&self.part.snapshot()).then_some(()));
        }

        /// The city's row, once it has this revision.
        fn await_city(&self, revision: u64) -> IndicatorRow {
            let query = IndicatorQuery {
                id: None,
                level: Some(Level::City),
                area: None,
                operator: None,
                site: None,
                window: Some(Window::Minute5),
                from: START,
                to: START.plus_millis(1),
                limit: 10,
            };
            await_some("the city's row", || {
                let reader = Reader::open(&StorePath::in_folder(self.folder.path())).ok()?;
                let rows = reader.indicators(&query).ok()?;
                rows.into_iter().find(|row| row.revision == revision)
            })
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = self.thread.take() {
                thread.join().expect("the worker ends without a panic");
            }
        }
    }

    fn await_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(Instant::now() < until, "{what} did not come");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn writer(folder: &Path) -> Writer {
        let options = WriterOptions {
            grace_ms: 0,
            retention_ms: 90 * 24 * 60 * BASE_WINDOW_MS,
            feed_windows: [].into(),
            indicator_windows: [Window::Minute5, Window::Minute15].into(),
            rollup_sinks: Vec::new(),
            devices: 100,
            zone: TimeZone::UTC,
        };
        Writer::open(&StorePath::in_folder(folder), options).expect("a store")
    }

    /// One reading of each device in the window's first minute.
    fn flush(writer: &mut Writer, readings: &[(DeviceId, f64)], now: Timestamp) {
        let metric = MetricId(0);
        let row = |&(device, value): &(DeviceId, f64)| {
            let mut window = DeviceWindow::new(START, Some(300_000), Arc::new(vec![metric]));
            window.apply(0, metric, START, value);
            (device, window)
        };
        let windows: Vec<_> = readings.iter().map(row).collect();
        let mut rows =
            windows.iter().map(|(device, window)| FlushedRow { device: *device, window, has_counters: false });
        let mut flush = Flush {
            now,
            rows: &mut rows,
            devices: &[],
            metrics: &[],
            ledger: &Ledger::default(),
            position: JournalPosition(1),
            dead_letters: &[],
        };
        writer.flush(&mut flush).expect("a flush");
    }

    #[test]
    fn indicators_of_a_final_window_are_written_and_amended_by_late_readings() {
        let mut city = City::new();
        for name in ["BS-1", "BS-2"] {
            let site = city.site(name, "base_station", "350102", "mobile", &[]);
            city.device(site, "rect", "bs-rectifier", Some(300_000));
        }
        let bench = Bench::start(&city);
        bench.await_part("a complaint about the missing store", |part| part.state == State::Down);
        let mut writer = writer(bench.folder.path());
        let later = |minutes: i64| START.plus_millis(minutes * BASE_WINDOW_MS);

        flush(&mut writer, &[(DeviceId(0), 700.0)], later(6));
        let row = bench.await_city(1);
        assert_eq!((row.value, row.completeness, &*row.area), (Some(700.0), Some(0.5), "350100"));

        flush(&mut writer, &[(DeviceId(1), 300.0)], later(7));
        let row = bench.await_city(2);
        assert_eq!((row.value, row.completeness), (Some(1_000.0), Some(1.0)));

        // A window without indicators of its own only loses its mark.
        flush(&mut writer, &[], later(30));
        bench.await_part("an end of the waiting", |part| {
            part.state == State::Up && part.counters["windows_waiting"] == 0 && part.counters["windows_computed"] >= 3
        });
        let reader = Reader::open(&StorePath::in_folder(bench.folder.path())).expect("a reader");
        assert_eq!(reader.stale(10).expect("marks"), []);
    }
}
