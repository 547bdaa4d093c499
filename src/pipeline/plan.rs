//! What the roller needs to know of a device, looked up once.
//!
//! A city's devices do not fit the processor's caches, its profiles do: what devices have in common lies in their
//! profile's layout, so that a message waits for one place in memory and not for four.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::inventory::{Device, Inventory, Profile};
use crate::ledger::Invalid;
use crate::model::{DeviceId, MetricId, MetricKind};

/// What devices of one profile have in common.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) profile: Arc<Profile>,
    /// Ids of the profile's metrics, by slot.
    pub(super) metrics: Arc<Vec<MetricId>>,
    pub(super) has_counters: bool,
    slots: Box<[Slot]>,
}

/// What is asked of a metric for every reading.
#[derive(Debug)]
struct Slot {
    name: Box<str>,
    valid: (f64, f64),
}

impl Layout {
    fn of(inventory: &Inventory, profile: &Arc<Profile>) -> Self {
        let ids = profile.metrics.iter().map(|metric| {
            inventory.metrics.find(&metric.name).expect("invariant: metrics of profiles are interned by adopt")
        });
        let slots =
            profile.metrics.iter().map(|metric| Slot { name: metric.name.as_str().into(), valid: metric.valid });
        Self {
            metrics: Arc::new(ids.collect()),
            has_counters: profile.metrics.iter().any(|metric| metric.kind == MetricKind::Counter),
            slots: slots.collect(),
            profile: profile.clone(),
        }
    }

    /// The slot of a metric that came at `position` in its message. Devices send their metrics in one order, mostly the
    /// profile's.
    pub(super) fn slot(&self, position: usize, name: &str) -> Option<usize> {
        match self.slots.get(position) {
            Some(slot) if *slot.name == *name => Some(position),
            _ => self.profile.slot(name),
        }
    }

    /// Whether a value of the metric in `slot` is one that the profile allows.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn check(&self, slot: usize, value: f64) -> Result<f64, Invalid> {
        let (low, high) = self.slots[slot].valid;
        if !value.is_finite() {
            Err(Invalid::NotANumber)
        } else if value < low || value > high {
            Err(Invalid::OutOfRange)
        } else {
            Ok(value)
        }
    }
}

/// Ids by name.
type MetricIds = HashMap<Box<str>, MetricId, RandomState>;

/// What is looked up once per device instead of once per reading.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layout: Arc<Layout>,
    pub(super) interval_ms: Option<u32>,
    pub(super) registered: bool,
    /// Metrics that the profile does not list and the device has sent; few devices have any.
    extra: Option<Box<MetricIds>>,
}

impl Plan {
    /// The id of a metric that the profile does not list, where the device has sent it before.
    pub(super) fn extra(&self, name: &str) -> Option<MetricId> {
        self.extra.as_ref()?.get(name).copied()
    }

    /// How many metrics the device has sent that its profile does not list.
    pub(super) fn extra_count(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.len())
    }

    pub(super) fn add_extra(&mut self, name: &str, metric: MetricId) {
        self.extra.get_or_insert_default().insert(name.into(), metric);
    }
}

/// The plans of all devices, by number.
#[derive(Debug, Default)]
pub(super) struct Plans {
    by_device: Vec<Plan>,
    /// By the address of the profile, which its layout holds.
    layouts: HashMap<usize, Arc<Layout>, RandomState>,
}

impl Plans {
    /// The plans of the devices of `inventory`, whose metrics are interned.
    pub(super) fn of(inventory: &Inventory) -> Self {
        let mut plans = Self::default();
        inventory.devices().iter().for_each(|device| plans.push(inventory, device));
        plans
    }

    /// Adds the plan of the next device.
    pub(super) fn push(&mut self, inventory: &Inventory, device: &Device) {
        let layout = self.layouts.entry(Arc::as_ptr(&device.profile).addr());
        let layout = layout.or_insert_with(|| Arc::new(Layout::of(inventory, &device.profile))).clone();
        let (interval_ms, registered) = (device.interval_ms, device.registered);
        self.by_device.push(Plan { layout, interval_ms, registered, extra: None });
    }

    /// Looks at what a message of each of `devices` will need; what it gives means nothing.
    pub(super) fn look<const N: usize>(&self, devices: [Option<DeviceId>; N]) -> usize {
        let plans = devices.into_iter().flatten().filter_map(|device| self.get(device));
        // A plan may lie in two lines of the cache.
        plans.map(|plan| usize::from(plan.registered) + usize::from(plan.layout.has_counters)).sum()
    }

    pub(super) fn len(&self) -> usize {
        self.by_device.len()
    }

    pub(super) fn get(&self, device: DeviceId) -> Option<&Plan> {
        self.by_device.get(device.index())
    }

    pub(super) fn get_mut(&mut self, device: DeviceId) -> Option<&mut Plan> {
        self.by_device.get_mut(device.index())
    }
}

/// The plan of a device that was found.
impl std::ops::Index<DeviceId> for Plans {
    type Output = Plan;

    fn index(&self, device: DeviceId) -> &Plan {
        &self.by_device[device.index()]
    }
}

impl std::ops::IndexMut<DeviceId> for Plans {
    fn index_mut(&mut self, device: DeviceId) -> &mut Plan {
        &mut self.by_device[device.index()]
    }
}
