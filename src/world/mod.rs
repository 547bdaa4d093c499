//! A simulated world around the real code: seeds decide what happens, and afterwards everything has to be right.
//!
//! The MQTT source, the journal, the pipeline, the store, the indicator worker and the InfluxDB sink are the daemon's
//! own, without their threads. Around them are a disk that tears and loses, a broker that redelivers, devices that lie,
//! a time-series store that fails, and a clock that steps. The embedded store is real SQLite on a real folder, which is
//! filled up, and set back after a power cut to what its last flush had synced; that SQLite itself survives a power cut
//! is not tried here. The same seed makes the same world. What one seed does changes with the code that draws from it,
//! so a seed that failed is worth something together with the commit that it failed on.
//!
//! When a run is over, everything that goes wrong ends, what is under way is drained, and `check` compares rows of all
//! windows, indicators, ledger and the far store with an oracle that saw the readings in order.
//!
//! `cargo test` runs a few seeds; `tests/world` runs as many as one likes.

mod broker;
mod check;
mod devices;
mod explore;
mod far_store;
mod faults;
mod gateway;
mod oracle;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use self::broker::Broker;
use self::devices::{PLACES, SimulatedDevice};
use self::far_store::FarStore;
use self::faults::{Fault, Faults, Mood};
use self::gateway::{Bounds, Gateway, Ground, connect};
use self::oracle::Oracle;
use self::wire::Wire;
use crate::clock::Clock;
use crate::health::PartKind;
use crate::journal::simulated_disk::{Failure, SimulatedDisk};
use crate::model::JournalPosition;

/// When worlds begin: 2025-11-24T16:00:00Z, epoch ms.
const START_MS: i64 = 1_764_000_000_000;
const HOUR_MS: i64 = 3_600_000;
/// Rounds after which a world that has calmed down is stuck.
const ROUNDS_MAX: u32 = 20_000;

/// Reads that fail in a row before the journal's reader gives up what it cannot read, if a minute has passed.
const FAILED_READS_BORNE: u32 = 10;

/// What the world does next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Measure,
    BrokerRound,
    SourceRound,
    Commit,
    Read,
    Flush,
    Finalise,
    Compute,
    Send,
    Pass,
    Fault(Fault),
}

struct World {
    rng: fastrand::Rng,
    mood: Mood,
    faults: Faults,
    /// True time, epoch ms.
    now_ms: i64,
    /// What the gateway's clock shows less the true time, ms.
    clock_off_ms: i64,
    clock: &'static AtomicI64,
    began: Instant,
    devices: Vec<SimulatedDevice>,
    broker: Broker,
    oracle: Oracle,
    ground: Ground,
    gateway: Option<Gateway>,
    runtime: Runtime,
    /// Whether the gateway's clock ever lost the time: then it cannot tell which devices are years off.
    was_unset: bool,
    /// The journal's disk takes its time: nothing is committed.
    disk_is_slow: bool,
    /// Bits that were flipped on the journal's disk.
    flips: u64,
    /// Starts at which the journal could not be read, so that its end is an upper bound.
    unreadable_starts: u64,
    /// Reads in a row that the disk failed.
    failed_reads: u32,
    /// Times that the process gave up what a disk could not read for long.
    given_up: u64,
    /// End of the journal after the latest commit.
    journal_end: JournalPosition,
    /// Where the store's files are kept as of the last flush, where a power cut may set it back.
    snapshot: Option<tempfile::TempDir>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mood = Mood::of(&mut rng);
        let folder = tempfile::tempdir().expect("a folder");
        let clock: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(START_MS)));
        let ground = Ground {
            disk: SimulatedDisk::seeded(rng.u64(..)),
            folder: folder.path().to_owned(),
            far: Arc::new(FarStore::new(rng.u64(..))),
            clock: Clock::told(clock),
            bounds: bounds(&mut rng),
        };
        let devices = (0..PLACES.len()).map(|index| SimulatedDevice::new(index, START_MS, &mut rng)).collect();
        let snapshots = mood.weight(Fault::PowerCut) > 0 && rng.bool();
        small_pages(&ground);
        let mut world = Self {
            mood,
            faults: Faults::default(),
            now_ms: START_MS,
            clock_off_ms: 0,
            clock,
            began: Instant::now(),
            devices,
            broker: Broker::new(rng.u64(..)),
            oracle: Oracle::default(),
            ground,
            gateway: None,
            runtime: Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime"),
            was_unset: false,
            disk_is_slow: false,
            flips: 0,
            unreadable_starts: 0,
            failed_reads: 0,
            given_up: 0,
            journal_end: JournalPosition(0),
            snapshot: snapshots.then(|| tempfile::tempdir().expect("a folder")),
            _folder: folder,
            rng,
        };
        world.start();
        world
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().expect("it runs")
    }

    fn run(&mut self) {
        let steps = self.rng.u32(50..300);
        let actions = self.actions();
        let sum: u32 = actions.iter().map(|(weight, _)| weight).sum();
        for _ in 0..steps {
            let mut left = self.rng.u32(..sum);
            let action = actions.iter().find(|(weight, _)| {
                let found = left < *weight;
                left = left.saturating_sub(*weight);
                found
            });
            let (_, action) = action.expect("within the sum");
            self.act(*action);
        }
        self.calm_down();
        check::check(self);
    }

    fn actions(&self) -> Vec<(u32, Action)> {
        let usual = [
            (24, Action::Measure),
            (20, Action::BrokerRound),
            (20, Action::SourceRound),
            (14, Action::Commit),
            (12, Action::Read),
            (7, Action::Flush),
            (3, Action::Finalise),
            (2, Action::Compute),
            (3, Action::Send),
            (10, Action::Pass),
        ];
        let faults = Fault::ALL.iter().map(|&fault| (self.mood.weight(fault), Action::Fault(fault)));
        usual.into_iter().chain(faults).filter(|(weight, _)| *weight > 0).collect()
    }

    fn act(&mut self, action: Action) {
        // A process that is down comes up again some time.
        if self.gateway.is_none() && self.rng.u8(..4) == 0 {
            self.start();
        }
        match action {
            Action::Measure => self.measure(),
            Action::BrokerRound => self.broker.round(),
            Action::SourceRound => self.source_round(),
            Action::Commit => self.commit(),
            Action::Read => self.read(),
            Action::Flush => self.flush(),
            Action::Finalise => self.finalise(),
            Action::Compute => self.compute(),
            Action::Send => self.send(),
            Action::Pass => self.pass(1),
            Action::Fault(fault) => self.go_wrong(fault),
        }
    }

    // What goes on every day.

    fn measure(&mut self) {
        for _ in 0..self.rng.u32(1..8) {
            let index = self.rng.usize(..self.devices.len());
            let device = &mut self.devices[index];
            let Some((reading, message)) = device.measure(self.now_ms, &mut self.rng, &mut self.faults) else {
                continue;
            };
            self.oracle.note(reading);
            if device.online {
                self.broker.publish(message);
            } else {
                device.backlog.push(message);
            }
        }
        self.pass(0);
    }

    /// Time passes: a moment, or up to some seconds where `seconds` says so.
    fn pass(&mut self, seconds: i64) {
        self.now_ms += self.rng.i64(1..=200 + seconds * 20_000);
        self.tell_time();
    }

    fn tell_time(&self) {
        self.clock.store(self.now_ms + self.clock_off_ms, Ordering::Relaxed);
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_millis(u64::try_from(self.now_ms - START_MS).expect("time goes on"))
    }

    fn source_round(&mut self) {
        let now = self.instant();
        let Some(gateway) = &mut self.gateway else { return };
        if !gateway.source.round(now) {
            let wire = Wire::new(self.rng.u64(..), self.rng.usize(1..3_000));
            self.broker.accept(wire.clone());
            connect(gateway, &wire, now);
        }
        self.pass(0);
    }

    fn commit(&mut self) {
        let Some(gateway) = self.gateway.as_mut().filter(|_| !self.disk_is_slow) else { return };
        if gateway.journal.round() {
            self.journal_end = gateway.journal().end();
        }
    }

    fn read(&mut self) {
        let Some(gateway) = &mut self.gateway else { return };
        self.failed_reads = if self.ground.disk.is_unreadable() { self.failed_reads + 1 } else { 0 };
        self.given_up += u64::from(self.failed_reads >= FAILED_READS_BORNE);
        gateway.pipeline.read();
        if gateway.pipeline.is_full() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(gateway) = &mut self.gateway else { return };
        let is_flushed = gateway.pipeline.flush();
        let position = gateway.pipeline.writer().position().expect("a position");
        assert!(position <= gateway.journal().end(), "the store's position runs ahead of the journal");
        self.follow_flush(is_flushed);
    }

    fn finalise(&mut self) {
        if let Some(is_flushed) = self.gateway.as_mut().and_then(|gateway| gateway.pipeline.finalise()) {
            self.follow_flush(is_flushed);
        }
    }

    fn follow_flush(&mut self, is_flushed: bool) {
        match &self.snapshot {
            Some(snapshot) if is_flushed => copy_store(&self.ground.folder, snapshot.path()),
            // What fills a disk is often what ends the process.
            _ if !is_flushed && self.rng.bool() => {
                self.faults.count(Fault::FlushFails);
                self.kill();
            }
            _ => {}
        }
    }

    fn compute(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.worker.look();
        }
    }

    fn send(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.send(&self.runtime);
        }
    }

    // Starting and ending the process.

    fn start(&mut self) {
        if self.gateway.is_some() {
            return;
        }
        let gateway = self.ground.start();
        self.unreadable_starts += u64::from(self.ground.disk.is_unreadable());
        let end = gateway.journal().end();
        assert!(
            end >= self.journal_end || self.flips > 0,
            "the journal ended at {:?} and ends at {end:?} now",
            self.journal_end
        );
        self.gateway = Some(gateway);
    }

    /// The process ends at this very instruction.
    fn kill(&mut self) {
        self.broker.disconnect();
        let Some(gateway) = self.gateway.take() else { return };
        self.faults.add(Fault::JournalRefuses, gateway.counter(PartKind::Mqtt, "refused"));
    }

    fn cut_power(&mut self) {
        self.kill();
        self.ground.disk.crash();
        if let Some(snapshot) = &self.snapshot
            && snapshot.path().join(STORE_FILES[0]).exists()
            && self.rng.bool()
        {
            copy_store(snapshot.path(), &self.ground.folder);
            self.faults.count(Fault::SideWritesLost);
        }
    }

    fn stop(&mut self) {
        let Some(gateway) = &mut self.gateway else { return };
        while gateway.pipeline.read() && !gateway.pipeline.is_full() {}
        self.flush();
        self.kill();
        self.start();
    }

    // What goes wrong.

    fn go_wrong(&mut self, fault: Fault) {
        self.faults.count(fault);
        let disk = &self.ground.disk;
        match fault {
            Fault::Kill => self.kill(),
            Fault::PowerCut => self.cut_power(),
            Fault::Stop => self.stop(),
            Fault::NetworkBreaks => self.broker.disconnect(),
            Fault::BrokerRestart => self.broker.restart(),
            Fault::SessionLost => self.broker.forget_session(),
            Fault::AppendFails => disk.fail_next(Failure::Append),
            Fault::SyncFails => disk.fail_next(Failure::Sync),
            Fault::FolderSyncFails => disk.fail_next(Failure::SyncFolder),
            Fault::CreateFails => disk.fail_next(Failure::Create),
            Fault::DiskFills => {
                let room = if self.rng.bool() { Some(disk.bytes() + self.rng.usize(..2_000)) } else { None };
                disk.set_bytes_max(room);
            }
            Fault::DiskSlow => self.disk_is_slow = self.rng.bool(),
            Fault::BitFlips => self.flips += u64::from(disk.flip_bit()),
            Fault::ReadsFail => disk.set_unreadable(self.rng.bool()),
            Fault::StoreFull => self.fill_store(),
            Fault::DeviceOffline => self.toggle_device(),
            Fault::Resend => self.publish_as(SimulatedDevice::resend),
            Fault::Misdated => {
                let now_ms = self.now_ms;
                self.publish_as(|device, rng| Some(device.misdate(now_ms, rng)));
            }
            Fault::Garbage => self.publish_as(|device, rng| Some(device.garble(rng))),
            Fault::GatewayClockSteps => {
                self.clock_off_ms = match self.rng.u8(..6) {
                    0..3 => 0,
                    3 => self.rng.i64(0..20 * HOUR_MS),
                    4 => -self.rng.i64(0..12 * HOUR_MS),
                    // It has lost its battery.
                    _ => {
                        self.was_unset = true;
                        HOUR_MS - self.now_ms
                    }
                };
                self.tell_time();
            }
            Fault::Hours => {
                self.now_ms += self.rng.i64(HOUR_MS..8 * HOUR_MS);
                self.tell_time();
            }
            Fault::FarAway => self.ground.far.set_away(self.rng.bool()),
            _ => unreachable!("{fault:?} comes by the way"),
        }
    }

    fn fill_store(&mut self) {
        let room = if self.rng.bool() { Some(self.rng.i64(0..3)) } else { None };
        let Some(gateway) = &self.gateway else { return };
        gateway.pipeline.writer().set_room(room);
        // What is new fills it.
        for _ in 0..4 {
            self.measure();
            self.broker.round();
            self.source_round();
            self.commit();
        }
        self.read();
        self.flush();
    }

    fn toggle_device(&mut self) {
        let index = self.rng.usize(..self.devices.len());
        let device = &mut self.devices[index];
        device.online = !device.online;
        if device.online {
            self.rng.shuffle(&mut device.backlog);
            device.backlog.drain(..).for_each(|message| self.broker.publish(message));
        }
    }

    fn publish_as(&mut self, make: impl Fn(&SimulatedDevice, &mut fastrand::Rng) -> Option<devices::Message>) {
        let index = self.rng.usize(..self.devices.len());
        if let Some(message) = make(&self.devices[index], &mut self.rng) {
            self.broker.publish(message);
        }
    }

    // The end.

    /// Everything works again and goes on until nothing is left to do.
    fn calm_down(&mut self) {
        self.ground.disk.calm();
        self.disk_is_slow = false;
        self.ground.far.calm();
        self.clock_off_ms = 0;
        for device in &mut self.devices {
            device.online = true;
            device.backlog.drain(..).for_each(|message| self.broker.publish(message));
        }
        self.start();
        self.gateway().pipeline.writer().set_room(None);
        let mut rounds = 0;
        while !self.broker.is_empty() || self.gateway().ledger().pending > 0 {
            self.source_round();
            self.broker.round();
            self.source_round();
            self.commit();
            self.read();
            if rounds % 8 == 0 {
                self.flush();
            }
            rounds += 1;
            assert!(rounds < ROUNDS_MAX, "stuck: {:?}", self.gateway().ledger());
        }
        // All windows become final.
        self.now_ms += 50 * HOUR_MS;
        self.tell_time();
        self.flush();
        let gateway = self.gateway.as_mut().expect("it runs");
        while gateway.worker.look() > 0 {}
        while gateway.send(&self.runtime) {}
        self.faults.merge(&self.ground.far.faults());
        self.faults.add(Fault::Redelivery, self.broker.redelivered);
    }
}

const STORE_FILES: [&str; 2] = ["sitepulse.db", "sitepulse.db-wal"];

/// Puts the store's files in place of those in `to`, while nobody writes.
fn copy_store(from: &Path, to: &Path) {
    for name in STORE_FILES.iter().chain(&["sitepulse.db-shm"]) {
        let _ = std::fs::remove_file(to.join(name));
    }
    for name in STORE_FILES.iter().filter(|name| from.join(name).exists()) {
        std::fs::copy(from.join(name), to.join(name)).expect("a copy");
    }
}

/// Makes the store's file one of small pages, so that every few rows need another one and find the disk full.
fn small_pages(ground: &Ground) {
    let file = rusqlite::Connection::open(ground.folder.join(STORE_FILES[0])).expect("a file");
    file.execute_batch("PRAGMA page_size = 512; VACUUM;").expect("an empty store");
}

fn bounds(rng: &mut fastrand::Rng) -> Bounds {
    let is_tight = rng.u8(..3) == 0;
    Bounds {
        journal_bytes_max: if is_tight { rng.u64(3_000..12_000) } else { 1 << 20 },
        segment_bytes: rng.u64(300..4_000),
        open_windows_bytes_max: if rng.u8(..3) == 0 { rng.usize(1_500..20_000) } else { 1 << 20 },
        batch_lines_max: rng.usize(1..200),
    }
}
