//! The Modbus TCP source: polls devices on a schedule, one connection per endpoint.
//!
//! Owns a thread, and on it a task per `host:port`; the devices there share its connection, and what one of them does
//! wrong costs the others little. A poll becomes one frame with the raw blocks that were answered (see
//! [`crate::decode::modbus`]). Never decodes a value, never keeps a poll that the journal refuses.
//!
//! What a poll costs is mostly in the wake-ups, so all tasks share one thread, which hands nothing to another, and naps
//! once it has asked several devices: their answers are read together.

mod basket;
mod delays;
mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod link;
mod plan;
mod schedule;
#[cfg(all(test, feature = "demo"))]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tracing::error;

use crate::clock::Clock;
use crate::health::{Health, Part, PartKind, State};
use crate::inventory::{Connection, Device, Inventory, Profile};
use crate::journal::Inlet;
use basket::{Basket, Deliver};
use endpoint::{Endpoint, Surroundings};

/// How Modbus devices are polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the source in the ledger and in metrics.
    pub name: Arc<str>,
    /// Time that connecting may take.
    pub connect_timeout: Duration,
    /// Time that one request may take.
    pub request_timeout: Duration,
    /// Longest wait between attempts at an endpoint, or at a unit that does not answer.
    pub backoff_max: Duration,
    /// Registers that are read along needlessly rather than asking twice.
    pub gap_registers_max: u16,
    /// Shortest time between two requests on one connection.
    pub request_pause: Duration,
}

/// Requests that one poll of a device with this profile takes, as long as the device refuses none of them.
#[must_use]
pub fn requests_per_poll(profile: &Profile, gap_registers_max: u16) -> usize {
    plan::plan(profile, gap_registers_max).len()
}

/// Time for answers to gather once several devices were asked.
const NAP: Duration = Duration::from_millis(1);
/// Requests whose answers are worth a nap.
const NAP_REQUESTS_MIN: usize = 2;

/// Starts the source on its own thread; `None` where `inventory` has no Modbus device. It ends soon after `stop` says true.
///
/// Each poll goes to the journal, or is counted as shed where the journal refuses it. Every endpoint reports as a part of
/// its own.
///
/// # Errors
/// Where the system gives no thread.
pub fn start(
    options: Options,
    inventory: Arc<Inventory>,
    inlet: Inlet,
    clock: Clock,
    health: Arc<Health>,
    stop: watch::Receiver<bool>,
) -> io::Result<Option<JoinHandle<()>>> {
    if endpoints(&inventory).is_empty() {
        return Ok(None);
    }
    // A poll needs no acknowledgement: the device keeps nothing for us.
    let deliver: Deliver =
        Arc::new(move |frames| inlet.append(frames, Box::new(drop)).map_err(|refused| refused.cause));
    let basket = Arc::new(Basket::new(deliver));
    let around = Surroundings { options, inventory, basket, clock, asked: Arc::default() };
    let asked = around.asked.clone();
    let nap = move || {
        if asked.swap(0, Ordering::Relaxed) >= NAP_REQUESTS_MIN {
            thread::sleep(NAP);
        }
    };
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("modbus".to_owned()).spawn(move || {
        // Made here, since a runtime may not end on a thread of another one, where no thread is to be had.
        let runtime = match Builder::new_current_thread().enable_all().on_thread_park(nap).build() {
            Ok(runtime) => runtime,
            Err(error) => return tell.send(Err(error)).unwrap_or_default(),
        };
        tell.send(Ok(())).unwrap_or_default();
        runtime.block_on(poll_all(&around, &health, stop));
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
    })?;
    told.recv().expect("invariant: the thread says how it has begun")?;
    Ok(Some(thread))
}

async fn poll_all(around: &Surroundings, health: &Health, mut stop: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let mut parts: HashMap<Id, Arc<Part>> = HashMap::new();
    for (address, devices) in endpoints(&around.inventory) {
        let part = health.part(PartKind::Modbus, &address, around.clock.now());
        let endpoint = Endpoint::new(around.clone(), address, &devices, part.clone());
        parts.insert(tasks.spawn(endpoint.run()).id(), part);
    }
    tokio::select! {
        () = tell_failures(&mut tasks, &parts, around.clock) => {}
        () = around.basket.keep_emptying() => {}
        _ = stop.wait_for(|&stop| stop) => {}
    }
    tasks.shutdown().await;
    around.basket.empty();
}

/// Reports the endpoints whose tasks failed, which only a defect of ours can cause; the others go on.
async fn tell_failures(tasks: &mut JoinSet<()>, parts: &HashMap<Id, Arc<Part>>, clock: Clock) {
    while let Some(ended) = tasks.join_next_with_id().await {
        if let Err(fault) = ended
            && let Some(part) = parts.get(&fault.id())
        {
            error!(endpoint = part.name, %fault, "modbus endpoint task failed");
            part.report(State::Down, "its task failed; restart the daemon", clock.now());
        }
    }
    pending::<()>().await;
}

/// The devices to poll, by endpoint.
fn endpoints(inventory: &Inventory) -> BTreeMap<Arc<str>, Vec<&Device>> {
    let mut endpoints: BTreeMap<Arc<str>, Vec<&Device>> = BTreeMap::new();
    for device in inventory.devices().iter().filter(|device| device.registered) {
        if let Connection::ModbusTcp { endpoint, .. } = &device.connection {
            endpoints.entry(endpoint.clone()).or_default().push(device);
        }
    }
    endpoints
}
