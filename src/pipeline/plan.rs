//! What the roller needs to know of a device, looked up once.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::inventory::{Inventory, Profile};
use crate::model::{DeviceId, MetricId, MetricKind};

/// What is looked up once per device instead of once per reading.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) profile: Arc<Profile>,
    /// Ids of the profile's metrics, by slot.
    pub(super) metrics: Arc<Vec<MetricId>>,
    pub(super) interval_ms: Option<u32>,
    pub(super) registered: bool,
    pub(super) has_counters: bool,
    /// Metrics that the profile does not list and the device has sent.
    pub(super) extra: HashMap<Box<str>, MetricId, RandomState>,
}

impl Plan {
    /// The plan of a device of `inventory`, whose metrics are interned.
    pub(super) fn of(inventory: &Inventory, device: DeviceId) -> Self {
        let device = inventory.device(device).expect("invariant: asked for a device of this inventory");
        let profile = device.profile.clone();
        let ids = profile.metrics.iter().map(|metric| {
            inventory.metrics.find(&metric.name).expect("invariant: metrics of profiles are interned by adopt")
        });
        Self {
            metrics: Arc::new(ids.collect()),
            interval_ms: device.interval_ms,
            registered: device.registered,
            has_counters: profile.metrics.iter().any(|metric| metric.kind == MetricKind::Counter),
            extra: HashMap::default(),
            profile,
        }
    }
}
