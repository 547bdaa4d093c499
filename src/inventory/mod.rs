//! The inventory: areas, sites, devices and the profiles that devices share.
//!
//! Owns what is known of the city before a reading comes in, and the devices that were taken in without being listed.
//! Identical devices share one [`Profile`]. Never touches the network; files are read only by its loaders.

mod load;
mod name;
mod profile;
mod profile_file;
mod register_file;
mod sheet;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

pub use load::{Contents, File, Files, KIND_RESERVED, load, load_contents};
pub use name::{check_lower_snake, check_name, check_text, check_unlisted};
pub use profile::{
    Band, ByteOrder, DataType, MetricDef, Profile, Register, RegisterTable, TimePolicy, TimeRule, TimeUnit,
    UnknownMetrics,
};
pub use profile_file::{ProfileSet, load_profiles, parse_profile, toml_files};

use crate::model::{DeviceId, MetricId, Timestamp};

/// An administrative area by its GB/T 2260 code.
#[derive(Clone, Debug, PartialEq)]
pub struct Area {
    /// Six-digit code (`350102`).
    pub code: Arc<str>,
    /// English name.
    pub name: String,
    /// Chinese name.
    pub name_zh: String,
    /// Code of the area above; `None` for the city.
    pub parent: Option<Arc<str>>,
    /// Inhabitants, and the year they were counted.
    pub population: Option<Population>,
}

/// Inhabitants of an area in a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Population {
    /// Persons.
    pub persons: u64,
    /// Year of the count.
    pub year: i16,
}

/// A base station, a data centre, a port terminal.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Identifier, unique in the city, as it stands in topics.
    pub id: Arc<str>,
    /// Name for people.
    pub name: String,
    /// Kind (`base_station`, `data_centre`, `port`): the measurement's name in the time-series store.
    pub kind: Arc<str>,
    /// Area code; empty where unknown.
    pub area: Arc<str>,
    /// Who runs it; empty where unknown.
    pub operator: Arc<str>,
    /// Latitude and longitude, degrees, WGS 84.
    pub position: Option<(f64, f64)>,
    /// Numeric attributes that indicators use (`racks_built`, `design_kw`, `teu_capacity`).
    pub attributes: BTreeMap<String, f64>,
    /// In service from this instant (inclusive); `None` means always.
    pub in_service_from: Option<Timestamp>,
    /// In service until this instant (exclusive); `None` means still.
    pub in_service_to: Option<Timestamp>,
}

impl Site {
    /// Whether the site is in service at `at`.
    #[must_use]
    pub fn in_service(&self, at: Timestamp) -> bool {
        self.in_service_from.is_none_or(|from| from <= at) && self.in_service_to.is_none_or(|to| at < to)
    }
}

/// How a device is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It publishes; a source hears it on its topic.
    Mqtt,
    /// It is polled over Modbus TCP.
    ModbusTcp {
        /// `host:port`; devices with the same one share a connection.
        endpoint: Arc<str>,
        /// Unit identifier, 0-255.
        unit: u8,
    },
}

/// What we talk to at a site.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Number in the store; also the index into [`Inventory::devices`].
    pub id: DeviceId,
    /// Index of its site in [`Inventory::sites`].
    pub site: usize,
    /// Name, unique at its site, as it stands in topics.
    pub name: Arc<str>,
    /// What it measures.
    pub profile: Arc<Profile>,
    /// How it is reached.
    pub connection: Connection,
    /// Milliseconds between its readings; `None` where nobody declared it.
    pub interval_ms: Option<u32>,
    /// Whether the inventory lists it; false for one that publishes without being listed, or no longer is.
    pub registered: bool,
}

/// The inventory as threads share it: readers clone the inner `Arc`; the pipeline, which alone adds devices and metrics,
/// goes through `Arc::make_mut`.
pub type SharedInventory = Arc<RwLock<Arc<Inventory>>>;

/// Names of metrics and their numbers in the store.
#[derive(Clone, Debug, Default)]
pub struct MetricNames {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, MetricId, RandomState>,
}

impl MetricNames {
    /// The number of the metric called `name`, the next free one where it has none yet.
    pub fn intern(&mut self, name: &str) -> MetricId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = MetricId(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        let name: Arc<str> = Arc::from(name);
        self.names.push(name.clone());
        self.ids.insert(name, id);
        id
    }

    /// The number of the metric called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<MetricId> {
        self.ids.get(name).copied()
    }

    /// The name of the metric numbered `id`.
    #[must_use]
    pub fn name(&self, id: MetricId) -> Option<&Arc<str>> {
        self.names.get(usize::try_from(id.0).ok()?)
    }

    /// All names; a metric's id is its index.
    #[must_use]
    pub fn all(&self) -> &[Arc<str>] {
        &self.names
    }
}

/// Everything known of the city: areas, sites, devices.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Names of metrics.
    pub metrics: MetricNames,
    areas: BTreeMap<Arc<str>, Area>,
    sites: Vec<Site>,
    devices: Vec<Device>,
    site_index: HashMap<Arc<str>, usize, RandomState>,
    device_index: HashMap<(usize, Arc<str>), DeviceId, RandomState>,
}

impl Inventory {
    /// Adds or replaces an area.
    pub fn add_area(&mut self, area: Area) {
        self.areas.insert(area.code.clone(), area);
    }

    /// Adds a site and returns its index; the index of the present one where the identifier is taken.
    pub fn add_site(&mut self, site: Site) -> usize {
        if let Some(&index) = self.site_index.get(&site.id) {
            return index;
        }
        let index = self.sites.len();
        self.site_index.insert(site.id.clone(), index);
        self.sites.push(site);
        index
    }

    /// Adds a device; its id is the next free one, or the id of the present one where its site has that name already.
    pub fn add_device(&mut self, mut device: Device) -> DeviceId {
        let key = (device.site, device.name.clone());
        if let Some(&id) = self.device_index.get(&key) {
            return id;
        }
        let id = DeviceId(u32::try_from(self.devices.len()).unwrap_or(u32::MAX));
        device.id = id;
        self.device_index.insert(key, id);
        self.devices.push(device);
        id
    }

    /// All areas by code.
    #[must_use]
    pub fn areas(&self) -> &BTreeMap<Arc<str>, Area> {
        &self.areas
    }

    /// All sites.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// All devices; a device's id is its index.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The device numbered `id`.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.get(id.index())
    }

    /// The device numbered `id`, to change.
    pub fn device_mut(&mut self, id: DeviceId) -> Option<&mut Device> {
        self.devices.get_mut(id.index())
    }

    /// The site of `device`.
    #[must_use]
    pub fn site_of(&self, device: &Device) -> &Site {
        &self.sites[device.site]
    }

    /// Index of the site called `site`.
    #[must_use]
    pub fn find_site(&self, site: &str) -> Option<usize> {
        self.site_index.get(site).copied()
    }

    /// The device called `device` at the site called `site`.
    #[must_use]
    pub fn find_device(&self, site: &str, device: &str) -> Option<DeviceId> {
        let site = self.find_site(site)?;
        self.device_index.get(&(site, Arc::from(device))).copied()
    }

    /// Number of devices that publish without being listed.
    #[must_use]
    pub fn unregistered_count(&self) -> usize {
        self.devices.iter().filter(|device| !device.registered).count()
    }
}
