//! Sinks: final and amended rows leave the store, each sink at its own pace and from its own position.
//!
//! A sink never keeps a row anywhere but in the store: the table that the API reads is also the buffer of a store or
//! broker that is away. Its position goes forward only when the other side has said that it has the rows, so whatever
//! happens in between is sent again, and sending again does no harm (P2). One sink never waits for another (P8).

pub mod city_brain;
mod desk;
pub mod influx;
#[cfg(test)]
mod testing;

use std::sync::{Arc, PoisonError};

use jiff::tz::TimeZone;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::indicator::Description;
use crate::inventory::{Inventory, SharedInventory};
use crate::store::StorePath;

/// What every sink needs of the daemon.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where the store lives; a [`crate::store::Writer`] has made it.
    pub store: StorePath,
    /// Sites, devices, metrics, areas.
    pub inventory: SharedInventory,
    /// The declared indicators.
    pub descriptions: Arc<[Description]>,
    /// Zone of hours and days.
    pub zone: TimeZone,
    /// What time it is.
    pub clock: Clock,
    /// Changes with every flush of the pipeline, so that rows are sent as soon as they are written.
    pub flushes: watch::Receiver<()>,
}

impl Context {
    fn inventory(&self) -> Arc<Inventory> {
        self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn describe<'a>(descriptions: &'a [Description], id: &str) -> Option<&'a Description> {
    descriptions.iter().find(|description| description.id == id)
}

/// Returns when the daemon is to stop, or when nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the daemon.
    let _ = stop.wait_for(|&stop| stop).await;
}
