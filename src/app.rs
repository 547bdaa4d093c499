//! The daemon: wires the stages, starts them in order and stops them in order.
//!
//! Owns which thread or task runs what, and the lock on the data folder. Decides nothing about data.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::health::{Health, PartKind};
use crate::indicator::{self, Description};
use crate::inventory::SharedInventory;
use crate::journal::{Folder, Journal};
use crate::ledger::Ledger;
use crate::model::millis;
use crate::pipeline::{self, LedgerBoard, OnFlush, Pipeline};
use crate::store::{self, StoreBound, StorePath, Writer, WriterOptions};
use crate::{api, background, sink, source};

/// How long a stop may take in all; what is not done by then is done at the next start.
const STOP_TIME_MAX: Duration = Duration::from_secs(9);
/// Time between looks at whether all threads live.
const LOOK: Duration = Duration::from_secs(1);
/// How long sinks and the API may take to leave.
const TASKS_STOP_TIME_MAX: Duration = Duration::from_secs(3);
/// How long the journal may take to commit what is queued, after everything else.
const JOURNAL_STOP_TIME_MAX: Duration = Duration::from_millis(500);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder cannot be made or locked.
    #[error("cannot use the data folder {path}; give it to the user that runs sitepulse, or set data_dir", path = path.display())]
    DataFolder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another daemon has the data folder.
    #[error("another sitepulse runs with the data folder {path}{holder}; stop it, or give this one its own data_dir", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who has it, as far as that is known.
        holder: Holder,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] crate::journal::Error),
    /// The pipeline cannot be started.
    #[error(transparent)]
    Pipeline(#[from] pipeline::StartError),
    /// The API's address cannot be had.
    #[error("cannot listen on {address}; set api.listen to a free address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// The process that has the data folder, where the lock file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |process| write!(f, " (process {process})"))
    }
}

/// A running daemon.
pub struct Daemon {
    address: SocketAddr,
    journal: Arc<Journal>,
    board: Arc<LedgerBoard>,
    health: Arc<Health>,
    inventory: SharedInventory,
    descriptions: Arc<[Description]>,
    store: StorePath,
    sources: Sources,
    pipeline: (Arc<AtomicBool>, JoinHandle<()>),
    worker: (Arc<AtomicBool>, JoinHandle<()>),
    tasks: (watch::Sender<bool>, JoinSet<()>),
    _lock: File,
}

struct Sources {
    stop: Arc<AtomicBool>,
    stop_modbus: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Starts every part: the store and journal first, sources last, so that nothing is heard that cannot be kept.
    ///
    /// # Errors
    /// [`Error`] where something that cannot be done without is not to be had; brokers, devices and stores that are away
    /// are no error, they are tried until they come.
    pub async fn start(config: Config, clock: Clock) -> Result<Self, Error> {
        let lock = lock(&config.data_dir)?;
        let health = Arc::new(Health::default());
        let store = StorePath::in_folder(&config.data_dir);
        let writer = Writer::open(&store, writer_options(&config))?.bounded(store_bound(&config))?;
        let inventory = pipeline::adopt(&config.inventory, &writer.devices()?, &writer.metrics()?);
        let polled = Arc::new(inventory.clone());
        let inventory: SharedInventory = Arc::new(RwLock::new(Arc::new(inventory)));
        let journal = open_journal(&config, &writer, &health, clock)?;
        let listener = TcpListener::bind(config.api.listen).await;
        let listen_error = |source| Error::Listen { address: config.api.listen, source };
        let listener = listener.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;

        let board = Arc::<LedgerBoard>::default();
        let ready = Arc::<AtomicBool>::default();
        let stop = Arc::<AtomicBool>::default();
        let (teller, flushes) = watch::channel(());
        let pipeline = Pipeline {
            journal: journal.clone(),
            writer,
            inventory: inventory.clone(),
            board: board.clone(),
            options: config.pipeline,
            clock,
            part: health.part(PartKind::Pipeline, "pipeline", clock.now()),
            store_part: health.part(PartKind::Store, "store", clock.now()),
            ready: ready.clone(),
            on_flush: OnFlush::call(move || {
                teller.send_replace(());
            }),
            stop: stop.clone(),
        };
        let pipeline = (stop, pipeline.start()?);
        let worker = start_worker(&config, &store, &inventory, &health, clock)?;
        let descriptions: Arc<[Description]> =
            config.indicators.iter().map(|definition| definition.description.clone()).collect();
        let context = api::Context {
            store: store.clone(),
            inventory: inventory.clone(),
            descriptions: descriptions.clone(),
            zone: config.zone.clone(),
            clock,
            health: health.clone(),
            ledger: ledger_of(&board, &journal),
            ready: ready.clone(),
        };
        let tasks = start_tasks(&config, listener, context, flushes);
        let sources = start_sources(&config, &journal, &polled, &health, clock)?;
        info!(%address, mqtt = config.mqtt.len(), sinks = config.influx.len(), "sitepulse runs");
        Ok(Self {
            address,
            journal,
            board,
            health,
            inventory,
            descriptions,
            store,
            sources,
            pipeline,
            worker,
            tasks,
            _lock: lock,
        })
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The ledger now.
    pub fn ledger(&self) -> Ledger {
        self.board.ledger(|| self.journal.end())
    }

    /// How its parts are doing.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Its inventory.
    pub fn inventory(&self) -> &SharedInventory {
        &self.inventory
    }

    /// Its indicators.
    pub fn descriptions(&self) -> &Arc<[Description]> {
        &self.descriptions
    }

    /// Its store.
    pub fn store(&self) -> &StorePath {
        &self.store
    }

    /// Waits until a thread that should run as long as the daemon has ended, which only a defect of ours can cause, and
    /// gives its name. The journal has everything, so the remedy is to start anew.
    pub async fn broken(&self) -> String {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let threads = self.sources.threads.iter().chain([&self.pipeline.1, &self.worker.1]);
            if let Some(ended) = threads.into_iter().find(|thread| thread.is_finished()) {
                return ended.thread().name().unwrap_or("unnamed").to_owned();
            }
        }
    }

    /// Stops reading, flushes, and leaves within ten seconds. Returns the ledger as it is at the end.
    pub async fn stop(self) -> Ledger {
        info!("stopping");
        let (board, journal) = (self.board.clone(), self.journal.clone());
        let stopped = tokio::time::timeout(STOP_TIME_MAX, self.stop_in_order()).await;
        if stopped.is_err() {
            warn!("not everything stopped in time; what the store lacks is in the journal and read at the next start");
        }
        let ledger = board.ledger(|| journal.end());
        // The last handle, unless a thread did not stop: what is queued is committed, the journal's thread ends.
        let closing = tokio::task::spawn_blocking(move || drop(journal));
        match tokio::time::timeout(JOURNAL_STOP_TIME_MAX, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "the journal failed to close"),
            Err(_) => warn!("the journal did not close in time; what is not on disk was not acknowledged"),
        }
        info!("stopped");
        ledger
    }

    async fn stop_in_order(self) {
        let Self { sources, pipeline, worker, tasks, .. } = self;
        sources.stop.store(true, Ordering::Release);
        sources.stop_modbus.send_replace(true);
        for thread in sources.threads {
            join(thread).await;
        }
        for (stop, thread) in [pipeline, worker] {
            stop.store(true, Ordering::Release);
            join(thread).await;
        }
        let (stop, mut tasks) = tasks;
        stop.send_replace(true);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(TASKS_STOP_TIME_MAX, all).await.is_err() {
            warn!("a sink or the API did not leave in time");
        }
    }
}

async fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or("unnamed").to_owned();
    let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
    if !joined.unwrap_or(false) {
        error!(name, "a thread panicked");
    }
}

fn lock(data_dir: &Path) -> Result<File, Error> {
    let error = |source| Error::DataFolder { path: data_dir.to_owned(), source };
    std::fs::create_dir_all(data_dir).map_err(error)?;
    // Not emptied before it is ours: it names the process that has the lock.
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(data_dir.join("lock"));
    let mut file = opened.map_err(error)?;
    match file.try_lock() {
        Ok(()) => {
            // For people only, so that a full disk does not matter.
            let noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            if let Err(error) = noted {
                debug!(%error, "the lock file does not name this process");
            }
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = (&file).take(20).read_to_string(&mut text);
            let holder = Holder(read.ok().and_then(|_| text.trim().parse().ok()));
            Err(Error::InUse { path: data_dir.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(error(source)),
    }
}

fn writer_options(config: &Config) -> WriterOptions {
    let descriptions = config.indicators.iter().map(|definition| &definition.description);
    WriterOptions {
        grace_ms: millis(config.pipeline.grace),
        retention_ms: millis(config.pipeline.retention),
        feed_windows: config.influx.iter().flat_map(|sink| sink.windows.iter().copied()).collect(),
        indicator_windows: descriptions.flat_map(|d| d.windows.iter().copied()).collect::<BTreeSet<_>>(),
        rollup_sinks: config.influx.iter().map(|sink| sink.name.clone()).collect(),
        devices: config.inventory.devices().len(),
        zone: config.zone.clone(),
    }
}

fn store_bound(config: &Config) -> StoreBound {
    let brain = config.city_brain.iter().map(|sink| sink.name.clone());
    let indicator_sinks = config.influx.iter().map(|sink| sink.name.clone()).chain(brain).collect();
    StoreBound { bytes_max: config.store_bytes_max, indicator_sinks }
}

fn open_journal(config: &Config, writer: &Writer, health: &Health, clock: Clock) -> Result<Arc<Journal>, Error> {
    let folder = &config.journal.folder;
    let error = |source| Error::DataFolder { path: folder.clone(), source };
    let storage = Arc::new(Folder::open(folder).map_err(error)?);
    let part = health.part(PartKind::Journal, "journal", clock.now());
    Ok(Arc::new(Journal::open(storage, config.journal.clone(), writer.position()?, part, clock)?))
}

fn ledger_of(board: &Arc<LedgerBoard>, journal: &Arc<Journal>) -> Arc<dyn Fn() -> Ledger + Send + Sync> {
    let (board, journal) = (board.clone(), Arc::downgrade(journal));
    Arc::new(move || board.ledger(|| journal.upgrade().map(|journal| journal.end()).unwrap_or_default()))
}

fn start_worker(
    config: &Config,
    store: &StorePath,
    inventory: &SharedInventory,
    health: &Health,
    clock: Clock,
) -> Result<(Arc<AtomicBool>, JoinHandle<()>), Error> {
    let stop = Arc::<AtomicBool>::default();
    let part = health.part(PartKind::Indicator, "indicators", clock.now());
    let definitions = config.indicators.clone().into();
    let (store, inventory, zone, until) = (store.clone(), inventory.clone(), config.zone.clone(), stop.clone());
    let work = move || indicator::run_worker(store, inventory, definitions, zone, clock, part, until);
    let thread = background::spawn("indicators", work).map_err(Error::Thread)?;
    Ok((stop, thread))
}

fn start_tasks(
    config: &Config,
    listener: TcpListener,
    context: api::Context,
    flushes: watch::Receiver<()>,
) -> (watch::Sender<bool>, JoinSet<()>) {
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let from = sink::Context {
        store: context.store.clone(),
        inventory: context.inventory.clone(),
        descriptions: context.descriptions.clone(),
        zone: context.zone.clone(),
        clock: context.clock,
        flushes,
    };
    for options in &config.influx {
        let part = context.health.part(PartKind::Influx, &options.name, context.clock.now());
        tasks.spawn(sink::influx::run(options.clone(), from.clone(), part, stopped.clone()));
    }
    if let Some(options) = &config.city_brain {
        let part = context.health.part(PartKind::CityBrain, &options.name, context.clock.now());
        tasks.spawn(sink::city_brain::run(options.clone(), from.clone(), part, stopped.clone()));
    }
    tasks.spawn(api::serve(config.api.clone(), listener, context, stopped));
    (stop, tasks)
}

fn start_sources(
    config: &Config,
    journal: &Journal,
    inventory: &Arc<crate::inventory::Inventory>,
    health: &Arc<Health>,
    clock: Clock,
) -> Result<Sources, Error> {
    let stop = Arc::<AtomicBool>::default();
    let mut threads = Vec::new();
    for options in &config.mqtt {
        let part = health.part(PartKind::Mqtt, &options.name, clock.now());
        let thread = source::mqtt::start(options.clone(), journal.inlet(), clock, part, stop.clone());
        threads.push(thread.map_err(Error::Thread)?);
    }
    let (stop_modbus, stopped) = watch::channel(false);
    let (options, inlet) = (config.modbus.clone(), journal.inlet());
    let modbus = source::modbus::start(options, inventory.clone(), inlet, clock, health.clone(), stopped);
    threads.extend(modbus.map_err(Error::Thread)?);
    Ok(Sources { stop, stop_modbus, threads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_that_is_in_use_names_the_process_that_has_it() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let held = lock(folder.path()).expect("the lock");
        let refused = lock(folder.path()).expect_err("it is held").to_string();
        assert!(
            refused.contains(&format!("{} (process {})", folder.path().display(), std::process::id())),
            "{refused}"
        );
        drop(held);
        std::fs::write(folder.path().join("lock"), "no number, and longer than any").expect("written");
        let held = lock(folder.path()).expect("a lock that a crash left behind is nobody's");
        std::fs::write(folder.path().join("lock"), "").expect("emptied");
        let refused = lock(folder.path()).expect_err("it is held").to_string();
        assert!(refused.contains("runs with the data folder") && !refused.contains("process"), "{refused}");
        drop(held);
    }
}
