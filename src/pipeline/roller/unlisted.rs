//! Devices and metrics that nobody listed: whether they are taken in, and how many of them.

use std::sync::{Arc, PoisonError};

use super::Roller;
use crate::decode::event_time::{self, GivenTime};
use crate::decode::topic::Topic;
use crate::inventory::{Inventory, KIND_RESERVED, Profile, TimePolicy, UnknownMetrics, check_unlisted};
use crate::ledger::{Invalid, Rejection};
use crate::model::{DeviceId, Frame, MetricId};
use crate::pipeline::Unregistered;
use crate::pipeline::arrival::{Known, limits};
use crate::pipeline::registry::unlisted;
use crate::store::{StoredDevice, Unlisted};

impl Roller {
    /// Counts what earlier runs took in. A device that was listed once and is no longer does not count: its number is
    /// bounded by the inventories there have been.
    pub(super) fn recall_unlisted(&mut self, unlisted: Unlisted, inventory: &Inventory) {
        for (device, source) in unlisted.devices {
            if self.plans.get(device).is_some_and(|plan| plan.registered) {
                self.new_unlisted.listed.push(device);
                self.changes = true;
            } else {
                *self.taken_in.entry(source).or_default() += 1;
            }
        }
        for (device, metric) in unlisted.metrics {
            let Some(plan) = self.plans.get_mut(device) else { continue };
            if let Some(name) = inventory.metrics.name(metric)
                && plan.layout.profile.slot(name).is_none()
            {
                plan.add_extra(name, metric);
            }
        }
    }

    /// Id of a metric that the device's profile does not list, taken in where policy and bounds allow.
    pub(super) fn unlisted_metric(&mut self, device: DeviceId, name: &str) -> Result<MetricId, Invalid> {
        let plan = &mut self.plans[device];
        let Unregistered::Accept { metrics_max, .. } = self.options.unregistered else {
            return Err(Invalid::UnknownMetric);
        };
        // Also one that was taken in by an earlier run, under another profile.
        if plan.layout.profile.unknown_metrics == UnknownMetrics::Refuse {
            return Err(Invalid::UnknownMetric);
        }
        if let Some(metric) = plan.extra(name) {
            return Ok(metric);
        }
        if check_unlisted(name).is_err() {
            return Err(Invalid::UnknownMetric);
        }
        if plan.extra_count() >= metrics_max {
            return Err(Invalid::MetricLimit);
        }
        let mut shared = self.inventory.write().unwrap_or_else(PoisonError::into_inner);
        let metric = shared.metrics.find(name).unwrap_or_else(|| {
            let metric = Arc::make_mut(&mut shared).metrics.intern(name);
            self.new_metrics.push((metric, Arc::from(name)));
            metric
        });
        plan.add_extra(name, metric);
        self.new_unlisted.metrics.push((device, metric));
        Ok(metric)
    }

    pub(super) fn device_of(&mut self, frame: &Frame, time: Option<&GivenTime<'_>>) -> Result<DeviceId, Rejection> {
        let topic: &str = &frame.topic;
        if let Some(device) = self.topics.find(topic) {
            return Ok(device);
        }
        let levels = Topic::parse(topic).ok_or(Rejection::UnknownTopic)?;
        let snapshot = self.inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        let known = snapshot.find_device(levels.site, levels.device);
        let listed = known.is_some_and(|device| self.plans[device].registered);
        if !listed && self.options.unregistered == Unregistered::Refuse {
            // Also of a device that was taken in, or listed, in an earlier run.
            return Err(Rejection::Unregistered);
        }
        if !listed && !may_be_made_up(levels, &snapshot) {
            return Err(Rejection::UnknownTopic);
        }
        drop(snapshot); // or else adding to it would copy it
        let device = if let Some(known) = known {
            known
        } else {
            // A message that is rejected takes in no device.
            event_time::place(time, &TimePolicy::default(), &limits(frame.arrival, Known::default(), &self.options))?;
            self.take_in(levels, &frame.source)?
        };
        // One topic per device is the rule; a device that is heard on ever new ones does not fill the memory.
        if self.topics.len() < 2 * self.plans.len() {
            self.topics.insert(topic, device);
        }
        Ok(device)
    }

    /// Takes in a device that is not listed.
    fn take_in(&mut self, levels: Topic<'_>, source: &Arc<str>) -> Result<DeviceId, Rejection> {
        let devices_max = match self.options.unregistered {
            Unregistered::Refuse => return Err(Rejection::Unregistered),
            Unregistered::Accept { devices_max, .. } => devices_max,
        };
        // Each source has a share of its own: one that is flooded with names does not shut out the others.
        if self.taken_in.get(source).is_some_and(|count| *count >= devices_max) {
            return Err(Rejection::UnregisteredLimit);
        }
        let mut shared = self.inventory.write().unwrap_or_else(PoisonError::into_inner);
        let inventory = Arc::make_mut(&mut shared);
        let told = StoredDevice {
            id: DeviceId(0),
            site: Arc::from(levels.site),
            name: Arc::from(levels.device),
            kind: Arc::from(levels.kind),
            area: Arc::from(levels.area),
            operator: Arc::from(""),
        };
        let device = unlisted(inventory, &told, Arc::new(Profile::open()));
        let device = inventory.add_device(device);
        if let Some(device) = inventory.device(device) {
            self.plans.push(inventory, device);
            self.new_devices.push(StoredDevice::of(inventory, device));
        }
        self.new_unlisted.devices.push((device, source.clone()));
        *self.taken_in.entry(source.clone()).or_default() += 1;
        Ok(device)
    }
}

/// Whether a device that is not listed may be heard on this topic. Only its site may be listed; all else is judged alike
/// whether the device is known or not, so that it does not matter what was heard first.
fn may_be_made_up(levels: Topic<'_>, inventory: &Inventory) -> bool {
    let site = Some(levels.site).filter(|site| inventory.find_site(site).is_none());
    let mut names = [levels.kind, levels.area, levels.device].into_iter().chain(site);
    levels.kind != KIND_RESERVED && names.all(|name| check_unlisted(name).is_ok())
}
