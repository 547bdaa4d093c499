//! The Modbus TCP source: polls devices on a schedule, one connection per endpoint.
//!
//! Owns a task per `host:port`; the devices there share its connection, and what one of them does wrong costs the others
//! little. A poll becomes one frame with the raw blocks that were answered (see [`crate::decode::modbus`]). Never decodes
//! a value, never keeps a poll that the journal refuses.

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
use std::sync::Arc;
use std::time::Duration;

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

/// Polls every registered Modbus device of `inventory` until `stop` says true; each poll goes to the journal, or is
/// counted as shed where the journal refuses it. Every endpoint reports as a part of its own.
pub async fn run(
    options: Options,
    inventory: Arc<Inventory>,
    inlet: Inlet,
    clock: Clock,
    health: Arc<Health>,
    stop: watch::Receiver<bool>,
) {
    // A poll needs no acknowledgement: the device keeps nothing for us.
    let deliver: Deliver =
        Arc::new(move |frames| inlet.append(frames, Box::new(|| ())).map_err(|refused| refused.cause));
    let basket = Arc::new(Basket::new(deliver));
    poll_all(&Surroundings { options, inventory, basket, clock }, &health, &stop).await;
}

async fn poll_all(around: &Surroundings, health: &Health, stop: &watch::Receiver<bool>) {
    tokio::select! {
        () = poll_each(around, health, stop) => {}
        () = around.basket.keep_emptying() => {}
    }
    around.basket.empty();
}

async fn poll_each(around: &Surroundings, health: &Health, stop: &watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let mut parts: HashMap<Id, Arc<Part>> = HashMap::new();
    for (address, devices) in endpoints(&around.inventory) {
        let part = health.part(PartKind::Modbus, &address, around.clock.now());
        let endpoint = Endpoint::new(around.clone(), address, &devices, part.clone());
        let mut stop = stop.clone();
        let task = tasks.spawn(async move {
            tokio::select! {
                () = endpoint.run() => {}
                _ = stop.wait_for(|&stop| stop) => {}
            }
        });
        parts.insert(task.id(), part);
    }
    while let Some(ended) = tasks.join_next_with_id().await {
        if let Err(fault) = ended
            && let Some(part) = parts.get(&fault.id())
        {
            error!(endpoint = part.name, %fault, "modbus endpoint task failed");
            part.report(State::Down, "its task failed; restart the daemon", around.clock.now());
        }
    }
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
