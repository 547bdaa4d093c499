//! The simulated city's sites and devices, where each is reached, and what is wrong with which.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::base_station::{BaseStation, GNB_PERIOD_S, Gnb, Meter, Rectifier};
use super::data_centre::{DataCentre, RackPdu, Ups, UtilityMeter};
use super::fault::{FaultTally, Recurring};
use super::modbus_server::{EndpointPlan, UnitPlan};
use super::outbox::{Misbehaviour, Outbox, Sender};
use super::port::{Agv, Crane, ShorePower, Yard};
use super::{Model, Moment, PROFILES};
use crate::inventory::{Profile, parse_profile};
use crate::model::{Timestamp, Window};
use crate::problem::Problem;

const MINUTE_MS: i64 = 60_000;
/// Teu that the yard is built for.
const TEU_CAPACITY: f64 = 36_000.0;
/// Racks behind one Modbus gateway.
const RACKS_PER_GATEWAY: usize = 16;

/// District, its name, and about where it lies; towns with more stations stand more often.
const PLACES: [(&str, &str, f64, f64); 16] = [
    ("350102", "Gulou", 26.082, 119.304),
    ("350103", "Taijiang", 26.053, 119.314),
    ("350104", "Cangshan", 26.047, 119.274),
    ("350111", "Jin'an", 26.082, 119.328),
    ("350105", "Mawei", 25.990, 119.455),
    ("350112", "Changle", 25.963, 119.523),
    ("350181", "Fuqing", 25.721, 119.384),
    ("350121", "Minhou", 26.150, 119.131),
    ("350102", "Gulou", 26.090, 119.290),
    ("350104", "Cangshan", 26.020, 119.320),
    ("350122", "Lianjiang", 26.197, 119.540),
    ("350111", "Jin'an", 26.120, 119.330),
    ("350123", "Luoyuan", 26.489, 119.549),
    ("350124", "Minqing", 26.221, 118.863),
    ("350125", "Yongtai", 25.866, 118.932),
    ("350128", "Pingtan", 25.499, 119.790),
];
const OPERATORS: [&str; 3] = ["mobile", "telecom", "unicom"];

/// How large the city is and when it begins.
#[derive(Clone, Debug)]
pub struct CityOptions {
    /// Base stations.
    pub stations: usize,
    /// Racks of the data centre.
    pub racks: usize,
    /// When devices begin to send, and sites are in service.
    pub start: Timestamp,
    /// Zone of its days.
    pub zone: TimeZone,
    /// Seed of its chances.
    pub seed: u64,
}

/// Where a device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the broker.
    Mqtt,
    /// Behind a Modbus endpoint.
    Modbus {
        /// Index of the endpoint.
        endpoint: usize,
        /// Unit identifier.
        unit: u8,
    },
}

/// The simulated city.
#[derive(Debug)]
pub struct City {
    start: Timestamp,
    midnight: Timestamp,
    centre: Arc<DataCentre>,
    profiles: BTreeMap<String, Arc<Profile>>,
    site_lines: String,
    devices: Vec<(String, String, &'static str, Place)>,
    senders: Vec<Sender>,
    endpoints: Vec<EndpointPlan>,
    rng: fastrand::Rng,
}

/// A site that devices are added to.
struct SiteOf<'a> {
    kind: &'a str,
    area: &'a str,
    id: &'a str,
}

impl City {
    /// A city of the given size.
    ///
    /// # Errors
    /// Every problem of the profiles that ship.
    pub fn new(options: &CityOptions) -> Result<Self, Vec<Problem>> {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let mut profiles = BTreeMap::new();
        for (file, text) in PROFILES {
            let profile = parse_profile(file, text)?;
            profiles.insert(profile.id.clone(), Arc::new(profile));
        }
        // Two days before, so that counters have risen and nothing lies before the beginning.
        let midnight = Window::Day1.bounds(options.start, &options.zone).0.plus_millis(-2 * 24 * 60 * MINUTE_MS);
        let mut city = Self {
            start: options.start,
            midnight,
            centre: Arc::new(DataCentre::new(options.racks, &mut rng)),
            profiles,
            site_lines: String::new(),
            devices: Vec::new(),
            senders: Vec::new(),
            endpoints: Vec::new(),
            rng,
        };
        for index in 0..options.stations {
            city.add_station(index, options.stations);
        }
        city.add_data_centre(options.racks);
        city.add_port();
        city.add_stranger();
        Ok(city)
    }

    /// The sites as the inventory lists them.
    #[must_use]
    pub fn sites_csv(&self) -> String {
        format!("site,name,kind,area,operator,lat,lon,attributes,in_service_from\n{}", self.site_lines)
    }

    /// The devices as the inventory lists them, its Modbus endpoints at `addresses`.
    #[must_use]
    pub fn devices_csv(&self, addresses: &[SocketAddr]) -> String {
        let line = |(site, device, profile, place): &(String, String, &str, Place)| match place {
            Place::Mqtt => format!("{site},{device},{profile},mqtt,,\n"),
            Place::Modbus { endpoint, unit } => {
                format!("{site},{device},{profile},modbus-tcp://{},{unit},\n", addresses[*endpoint])
            }
        };
        let head = "site,device,profile,connection,unit,interval\n".to_owned();
        std::iter::once(head).chain(self.devices.iter().map(line)).collect()
    }

    /// Its Modbus endpoints, in the order of [`City::devices_csv`]'s addresses.
    #[must_use]
    pub fn endpoints(&self) -> &[EndpointPlan] {
        &self.endpoints
    }

    /// The devices that publish.
    #[must_use]
    pub fn take_outbox(&mut self, tally: Arc<FaultTally>) -> Outbox {
        Outbox::new(std::mem::take(&mut self.senders), self.start, self.midnight, tally)
    }

    /// The local midnight at which its time began.
    #[must_use]
    pub fn midnight(&self) -> Timestamp {
        self.midnight
    }

    /// Number of devices.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Racks in use.
    #[must_use]
    pub fn racks_in_use(&self) -> usize {
        self.centre.racks_in_use()
    }

    /// The data centre's power usage effectiveness over a span, exactly.
    #[must_use]
    pub fn pue(&self, from: Timestamp, to: Timestamp) -> f64 {
        self.centre.pue(Moment::of(from, self.midnight), Moment::of(to, self.midnight))
    }

    fn add_site(&mut self, site: &SiteOf<'_>, name: &str, operator: &str, position: (f64, f64), attributes: &str) {
        let SiteOf { kind, area, id } = site;
        let (lat, lon) = position;
        let start = self.start;
        writeln!(self.site_lines, "{id},{name},{kind},{area},{operator},{lat:.4},{lon:.4},{attributes},{start}")
            .expect("invariant: a String takes all that is written");
    }

    /// Adds a device that publishes; it sends within the first seven eighths of its interval.
    fn add_sender(
        &mut self,
        site: &SiteOf<'_>,
        device: &str,
        profile: &'static str,
        model: Arc<dyn Model>,
        misbehaviour: Misbehaviour,
    ) {
        let interval_ms = self.profiles[profile].interval_ms.map_or(MINUTE_MS, i64::from);
        let phase_ms = self.rng.i64(0..interval_ms * 7 / 8);
        self.devices.push((site.id.to_owned(), device.to_owned(), profile, Place::Mqtt));
        let topic = format!("telemetry/{}/{}/{}/{device}", site.kind, site.area, site.id).into();
        self.senders.push(Sender { topic, interval_ms, phase_ms, delay_ms: 0, model, misbehaviour });
    }

    fn add_unit(
        &mut self,
        site: &str,
        device: &str,
        profile: &'static str,
        model: Arc<dyn Model>,
        failing: Option<Recurring>,
    ) {
        let endpoint = self.endpoints.len() - 1;
        let units = &mut self.endpoints[endpoint].units;
        let unit = u8::try_from(units.len() + 1).expect("invariant: a gateway has few units");
        units.insert(unit, UnitPlan { profile: self.profiles[profile].clone(), model, failing });
        self.devices.push((site.to_owned(), device.to_owned(), profile, Place::Modbus { endpoint, unit }));
    }

    fn add_endpoint(&mut self, silent: Option<Recurring>) {
        self.endpoints.push(EndpointPlan { units: BTreeMap::new(), silent });
    }

    /// A span of `length` minutes from minute `first` on, every `every` minutes.
    fn spans(&self, first: i64, length: i64, every: i64) -> Recurring {
        let first = self.start.plus_millis(first * MINUTE_MS);
        Recurring { first, every_ms: every * MINUTE_MS, length_ms: length * MINUTE_MS }
    }

    fn add_station(&mut self, index: usize, stations: usize) {
        let (area, district, lat, lon) = PLACES[index % PLACES.len()];
        let id = format!("BS-{area}-{:04}", index + 1);
        let site = SiteOf { kind: "base_station", area, id: &id };
        let position = (lat + 0.05 * (self.rng.f64() - 0.5), lon + 0.05 * (self.rng.f64() - 0.5));
        self.add_site(&site, &format!("{district} {:04}", index + 1), OPERATORS[index % 3], position, "");
        let station = Arc::new(BaseStation::new(&mut self.rng));
        // The last one's link breaks down, the first one's meter is replaced.
        let is_last = index + 1 == stations;
        let rectifier = if is_last { Misbehaviour::Late(self.spans(2, 3, 20)) } else { Misbehaviour::None };
        let meter = if index == 0 { Misbehaviour::Resets(self.spans(4, 1, 60)) } else { Misbehaviour::None };
        self.add_sender(&site, "rectifier", "bs-rectifier", Arc::new(Rectifier(station.clone())), rectifier);
        self.add_sender(&site, "meter", "bs-meter", Arc::new(Meter(station.clone())), meter);
        self.add_sender(&site, "gnb", "bs-gnb", Arc::new(Gnb(station)), Misbehaviour::None);
        // A period's counters come when it is over, and carry the time at which it began.
        if let Some(gnb) = self.senders.last_mut() {
            #[expect(clippy::cast_possible_truncation, reason = "a minute")]
            let period_ms = (GNB_PERIOD_S * 1_000.0) as i64;
            (gnb.phase_ms, gnb.delay_ms) = (0, period_ms + self.rng.i64(0..1_000));
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few racks")]
    fn add_data_centre(&mut self, racks: usize) {
        let site = SiteOf { kind: "data_centre", area: "350112", id: "DC-CL-01" };
        let attributes = format!("racks_built={racks};design_kw={}", racks as f64 * 16.0);
        self.add_site(&site, "Changle data centre", "fuzhou-cloud", (25.9167, 119.6028), &attributes);
        let centre = self.centre.clone();
        self.add_endpoint(None);
        self.add_unit(site.id, "utility-meter", "dc-utility-meter", Arc::new(UtilityMeter(centre.clone())), None);
        for (index, device) in ["ups-a", "ups-b"].into_iter().enumerate() {
            self.add_unit(site.id, device, "dc-ups", Arc::new(Ups { centre: centre.clone(), index }), None);
        }
        for index in 0..racks {
            let row = index / RACKS_PER_GATEWAY;
            if index % RACKS_PER_GATEWAY == 0 {
                // The last row's gateway hangs for a while.
                let hangs = row == (racks - 1) / RACKS_PER_GATEWAY;
                self.add_endpoint(hangs.then(|| self.spans(6, 3, 20)));
            }
            let failing = (index == 1).then(|| self.spans(3, 2, 15));
            let model = Arc::new(RackPdu { centre: centre.clone(), index });
            self.add_unit(site.id, &format!("rack-{:03}", index + 1), "rack-pdu", model, failing);
        }
    }

    fn add_port(&mut self) {
        let site = SiteOf { kind: "port", area: "350181", id: "PORT-JY-01" };
        let attributes = format!("teu_capacity={TEU_CAPACITY};berths=2");
        self.add_site(&site, "Jiangyin container terminal", "fuzhou-port", (25.4258, 119.2936), &attributes);
        let start_s = Moment::of(self.start, self.midnight).0;
        for index in 0..4_u32 {
            let crane = Arc::new(Crane::new(start_s - 3_600.0 * f64::from(index + 1), &mut self.rng));
            self.add_sender(&site, &format!("crane-{}", index + 1), "crane-plc", crane, Misbehaviour::None);
        }
        for index in 0..8 {
            let misbehaviour = match index {
                0 => Misbehaviour::Repeats(5),
                // One byte, all bits set: a sensor that is not there.
                1 => Misbehaviour::Nonsense { spans: self.spans(1, 3, 10), metric: "battery_soc_pct", value: 255.0 },
                _ => Misbehaviour::None,
            };
            let agv = Arc::new(Agv::new(&mut self.rng));
            self.add_sender(&site, &format!("agv-{}", index + 1), "agv", agv, misbehaviour);
        }
        let yard = Arc::new(Yard::new(TEU_CAPACITY, &mut self.rng));
        self.add_sender(&site, "yard", "yard", yard, Misbehaviour::None);
        self.add_endpoint(None);
        // A vessel lies at the first berth; the second one's connects after eight minutes.
        for (index, connects_s) in [start_s - 7_200.0, start_s + 480.0].into_iter().enumerate() {
            let berth = Arc::new(ShorePower::new(connects_s, &mut self.rng));
            self.add_unit(site.id, &format!("shore-{}", index + 1), "shore-power-meter", berth, None);
        }
    }

    /// A device that publishes without being listed.
    fn add_stranger(&mut self) {
        let station = Arc::new(BaseStation::new(&mut self.rng));
        self.senders.push(Sender {
            topic: Arc::from("telemetry/base_station/350105/BS-UNLISTED/probe"),
            interval_ms: 30_000,
            phase_ms: 11_000,
            delay_ms: 0,
            model: Arc::new(Rectifier(station)),
            misbehaviour: Misbehaviour::Unlisted,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_every_device_is_listed_in_its_profile_and_valid_all_day() {
        let start = Timestamp::parse("2026-03-01T08:00:00+08:00").expect("time");
        let options = CityOptions { stations: 4, racks: 40, start, zone: TimeZone::UTC, seed: 1 };
        let city = City::new(&options).expect("good profiles");
        let listed = city.devices.iter().filter(|(.., place)| *place == Place::Mqtt);
        let published = listed.zip(&city.senders).map(|((_, _, profile, _), sender)| (*profile, &sender.model));
        let polled = city.endpoints.iter().flat_map(|endpoint| endpoint.units.values());
        let polled = polled.map(|unit| (unit.profile.id.as_str(), &unit.model));
        for (profile, model) in published.chain(polled) {
            let profile = &city.profiles[profile];
            for hour in 0..24 {
                let moment = Moment::of(start.plus_millis(hour * 60 * MINUTE_MS), city.midnight);
                let values = model.values(moment);
                assert_eq!(values.len(), profile.metrics.len(), "{}", profile.id);
                for (name, value) in values {
                    let slot = profile.slot(name).unwrap_or_else(|| panic!("{} lists no {name}", profile.id));
                    let (min, max) = profile.metrics[slot].valid;
                    assert!((min..=max).contains(&value), "{}: {name} = {value}", profile.id);
                }
            }
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_city() {
        let start = Timestamp::from_millis(1_764_000_000_000);
        let options = CityOptions { stations: 20, racks: 20, start, zone: TimeZone::UTC, seed: 42 };
        let messages = || {
            let mut city = City::new(&options).expect("good profiles");
            let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 502)); city.endpoints().len()];
            let mut outbox = city.take_outbox(Arc::default());
            (city.sites_csv(), city.devices_csv(&addresses), outbox.take(start.plus_millis(60_000), usize::MAX))
        };
        assert_eq!(messages(), messages());
    }
}
