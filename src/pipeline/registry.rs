//! Which device a frame is from: the configured inventory under the store's numbers, and the devices that were taken in
//! without being listed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::inventory::{Connection, Device, Inventory, Profile, Site};
use crate::model::{DeviceId, MetricId};
use crate::store::StoredDevice;

/// The configured inventory under the numbers that the store gave its devices and metrics; devices that the store knows
/// and the configuration does not list (any more) come along as unregistered.
#[must_use]
pub fn adopt(listed: &Inventory, devices: &[StoredDevice], metrics: &[(MetricId, Arc<str>)]) -> Inventory {
    let mut inventory = Inventory::default();
    for (_, name) in metrics {
        inventory.metrics.intern(name);
    }
    for area in listed.areas().values() {
        inventory.add_area(area.clone());
    }
    for site in listed.sites() {
        inventory.add_site(site.clone());
    }
    let open = Arc::new(Profile::open());
    for stored in devices {
        let device = match listed.find_device(&stored.site, &stored.name).and_then(|id| listed.device(id)) {
            Some(device) => device.clone(),
            None => unlisted(&mut inventory, stored, open.clone()),
        };
        inventory.add_device(device);
    }
    for device in listed.devices() {
        inventory.add_device(device.clone());
    }
    let profiles: BTreeMap<_, _> =
        inventory.devices().iter().map(|d| (d.profile.id.clone(), d.profile.clone())).collect();
    for profile in profiles.values() {
        for metric in &profile.metrics {
            inventory.metrics.intern(&metric.name);
        }
    }
    inventory
}

/// A device that is not listed, at its site, which is added where it is not listed either.
pub(super) fn unlisted(inventory: &mut Inventory, stored: &StoredDevice, profile: Arc<Profile>) -> Device {
    let site = inventory.add_site(Site {
        id: stored.site.clone(),
        name: stored.site.to_string(),
        kind: stored.kind.clone(),
        area: stored.area.clone(),
        operator: stored.operator.clone(),
        position: None,
        attributes: BTreeMap::new(),
        in_service_from: None,
        in_service_to: None,
    });
    Device {
        id: DeviceId(0),
        site,
        name: stored.name.clone(),
        profile,
        connection: Connection::Mqtt,
        interval_ms: None,
        registered: false,
    }
}
