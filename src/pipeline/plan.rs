//! What the pipeline knows of a device and of a topic, looked up once instead of with every reading. Pure.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::decode::topic::Topic;
use crate::inventory::{Inventory, KIND_RESERVED, Profile, check_unlisted};
use crate::ledger::Invalid;
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

/// The plan of a device of `inventory`.
pub(super) fn plan(inventory: &Inventory, device: DeviceId) -> Plan {
    let device = inventory.device(device).expect("invariant: asked for a device of this inventory");
    let profile = device.profile.clone();
    let ids = profile.metrics.iter().map(|metric| {
        inventory.metrics.find(&metric.name).expect("invariant: metrics of profiles are interned by adopt")
    });
    Plan {
        metrics: Arc::new(ids.collect()),
        interval_ms: device.interval_ms,
        registered: device.registered,
        has_counters: profile.metrics.iter().any(|metric| metric.kind == MetricKind::Counter),
        extra: HashMap::default(),
        profile,
    }
}

/// Whether a device that is not listed may be heard on this topic. Only its site may be listed; all else is judged alike
/// whether the device is known or not, so that it does not matter what was heard first.
pub(super) fn may_be_made_up(levels: Topic<'_>, inventory: &Inventory) -> bool {
    let site = Some(levels.site).filter(|site| inventory.find_site(site).is_none());
    let mut names = [levels.kind, levels.area, levels.device].into_iter().chain(site);
    levels.kind != KIND_RESERVED && names.all(|name| check_unlisted(name).is_ok())
}

/// The value, where the profile lets its metric have it.
pub(super) fn in_range(profile: &Profile, slot: usize, value: f64) -> Result<f64, Invalid> {
    let (low, high) = profile.metrics[slot].valid;
    if !value.is_finite() {
        Err(Invalid::NotANumber)
    } else if value < low || value > high {
        Err(Invalid::OutOfRange)
    } else {
        Ok(value)
    }
}
