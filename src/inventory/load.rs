//! Loads areas, sites and devices from their CSV files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::name::{check_lower_snake, check_name, check_text};
use super::profile_file::{ProfileSet, interval_ms};
use super::sheet::{self, Columns, Row};
use super::{Area, Connection, Device, Inventory, Population, Profile, Site};
use crate::document::{address, nearest};
use crate::model::{DeviceId, Timestamp};
use crate::problem::Problem;

/// Kinds of site that we know; others may be used, but none that looks like a slip of one of these.
const KINDS: [&str; 3] = ["base_station", "data_centre", "port"];

/// No kind of site: the measurement that the time-series store keeps indicators in.
pub const KIND_RESERVED: &str = "indicator";

/// Port of a Modbus TCP device that names none.
const MODBUS_PORT: u16 = 502;

/// Where the inventory is; what has no file is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// The areas.
    pub areas: Option<&'a Path>,
    /// The sites.
    pub sites: Option<&'a Path>,
    /// The devices.
    pub devices: Option<&'a Path>,
}

/// A file of the inventory.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name, as problems tell it.
    pub name: String,
    /// Its bytes; `None` where it could not be read, which is a problem of its own.
    pub bytes: Option<Vec<u8>>,
}

/// What the files of the inventory hold; what has no file is empty.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The areas.
    pub areas: Option<File>,
    /// The sites.
    pub sites: Option<File>,
    /// The devices.
    pub devices: Option<File>,
}

/// Reads the inventory; every fault of every row is added to `problems`.
pub fn load(files: Files<'_>, profiles: &ProfileSet, problems: &mut Vec<Problem>) -> Inventory {
    let mut read = |path: Option<&Path>| {
        path.map(|path| File { name: path.display().to_string(), bytes: sheet::bytes(path, problems) })
    };
    let contents = Contents { areas: read(files.areas), sites: read(files.sites), devices: read(files.devices) };
    load_contents(&contents, profiles, problems)
}

/// Reads the inventory from what its files hold; every fault of every row is added to `problems`.
pub fn load_contents(contents: &Contents, profiles: &ProfileSet, problems: &mut Vec<Problem>) -> Inventory {
    let mut loader = Loader::new(profiles);
    if let Some(file) = &contents.areas {
        sheet::read(file, AREAS, problems, &mut |row| loader.area(row));
        loader.check_tree(&file.name, problems);
    }
    if let Some(file) = &contents.sites {
        loader.has_areas = contents.areas.is_some();
        sheet::read(file, SITES, problems, &mut |row| loader.site(row));
    }
    if let Some(file) = &contents.devices {
        sheet::read(file, DEVICES, problems, &mut |row| loader.device(row));
    }
    loader.inventory
}

const AREAS: Columns =
    Columns { required: &["code", "name"], optional: &["name_zh", "parent", "population", "population_year"] };

const SITES: Columns = Columns {
    required: &["site", "kind"],
    optional: &["name", "area", "operator", "lat", "lon", "attributes", "in_service_from", "in_service_to"],
};

const DEVICES: Columns =
    Columns { required: &["site", "device", "profile", "connection"], optional: &["unit", "interval"] };

struct Loader<'a> {
    inventory: Inventory,
    profiles: &'a ProfileSet,
    has_areas: bool,
    /// Line of each area and site, those of faulty rows too, so that a fault is told once and not by what refers to it.
    area_lines: HashMap<String, u64>,
    site_lines: HashMap<String, u64>,
    device_lines: HashMap<(String, String), u64>,
    polled: HashMap<(Arc<str>, u8, String), u64>,
    shared: HashMap<String, Arc<str>>,
}

impl<'a> Loader<'a> {
    fn new(profiles: &'a ProfileSet) -> Self {
        Self {
            inventory: Inventory::default(),
            profiles,
            has_areas: false,
            area_lines: HashMap::new(),
            site_lines: HashMap::new(),
            device_lines: HashMap::new(),
            polled: HashMap::new(),
            shared: HashMap::new(),
        }
    }

    /// One allocation for every text that many rows share.
    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.shared.get(text) {
            return shared.clone();
        }
        let shared: Arc<str> = Arc::from(text);
        self.shared.insert(text.to_owned(), shared.clone());
        shared
    }

    fn area(&mut self, row: &mut Row<'_>) {
        let before = row.problem_count();
        let code = row.text("code");
        if code.len() != 6 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
            row.add("code", format!("`{}` is no GB/T 2260 code; give six digits, such as 350102", code.escape_debug()));
        } else if let Some(line) = self.area_lines.insert(code.to_owned(), row.line) {
            row.add("code", format!("{code} stands in line {line} already; codes are unique"));
        }
        let name = row.text("name");
        if name.is_empty() {
            row.add("name", "give the area's English name");
        }
        row.ok("name", check_text(name));
        row.ok("name_zh", check_text(row.text("name_zh")));
        let population = population(row);
        if row.problem_count() > before {
            return;
        }
        let parent = row.given("parent").map(|parent| self.share(parent));
        let code = self.share(code);
        self.inventory.add_area(Area {
            code,
            name: name.to_owned(),
            name_zh: row.text("name_zh").to_owned(),
            parent,
            population,
        });
    }

    /// Checks that the areas are one tree: one city, every other area below it.
    fn check_tree(&self, file: &str, problems: &mut Vec<Problem>) {
        let areas = self.inventory.areas();
        let mut add = |code: &str, message: String| {
            let line = self.area_lines.get(code).copied().unwrap_or(0);
            problems.push(Problem::new(file, format!("line {line}, column \"parent\""), message));
        };
        let mut city: Option<&str> = None;
        for area in areas.values() {
            let Some(parent) = &area.parent else {
                if let Some(city) = city {
                    let message = format!("{} has no parent, and neither has {city}; one city is the top", area.code);
                    add(&area.code, message);
                }
                city = city.or(Some(&area.code));
                continue;
            };
            if !self.area_lines.contains_key(parent.as_ref()) {
                add(&area.code, format!("`{}` is no area of this file", parent.escape_debug()));
                continue;
            }
            let mut above = Some(parent);
            let mut seen = BTreeSet::from([area.code.as_ref()]);
            while let Some(code) = above {
                if !seen.insert(code) {
                    add(&area.code, format!("{} lies, through its parents, inside itself", area.code));
                    break;
                }
                above = areas.get(code).and_then(|area| area.parent.as_ref());
            }
        }
    }

    fn site(&mut self, row: &mut Row<'_>) {
        let before = row.problem_count();
        let id = row.text("site");
        if row.ok("site", check_name(id)).is_some()
            && let Some(line) = self.site_lines.insert(id.to_owned(), row.line)
        {
            row.add("site", format!("`{id}` stands in line {line} already; sites are unique"));
        }
        let kind = row.text("kind");
        row.ok("kind", check_kind(kind));
        let area = row.text("area");
        if self.has_areas && !area.is_empty() && !self.area_lines.contains_key(area) {
            row.add("area", format!("`{}` is no area of the inventory", area.escape_debug()));
        } else if !self.has_areas && !area.is_empty() {
            row.ok("area", check_name(area));
        }
        let operator = row.text("operator");
        if !operator.is_empty() {
            row.ok("operator", check_name(operator));
        }
        let position = position(row);
        let attributes = attributes(row);
        let in_service_from = time(row, "in_service_from");
        let in_service_to = time(row, "in_service_to");
        if let (Some(from), Some(to)) = (in_service_from, in_service_to)
            && to <= from
        {
            row.add("in_service_to", format!("{to} is not after in_service_from, {from}"));
        }
        let name = row.given("name").unwrap_or(id);
        if let Some(name) = row.given("name") {
            row.ok("name", check_text(name));
        }
        if row.problem_count() > before {
            return;
        }
        let site = Site {
            id: Arc::from(id),
            name: name.to_owned(),
            kind: self.share(kind),
            area: self.share(area),
            operator: self.share(operator),
            position,
            attributes,
            in_service_from,
            in_service_to,
        };
        self.inventory.add_site(site);
    }

    fn device(&mut self, row: &mut Row<'_>) {
        let before = row.problem_count();
        let (site, name) = (row.text("site"), row.text("device"));
        if !self.site_lines.contains_key(site) {
            row.add("site", format!("`{}` is no site of the inventory", site.escape_debug()));
        }
        if row.ok("device", check_name(name)).is_some()
            && let Some(line) = self.device_lines.insert((site.to_owned(), name.to_owned()), row.line)
        {
            row.add(
                "device",
                format!("`{name}` of `{site}` stands in line {line} already; a site's devices are unique"),
            );
        }
        let profile = self.profile(row);
        let declared = row.given("interval").and_then(|text| row.ok("interval", interval_ms(text)));
        let interval_ms = declared.or(profile.as_ref().and_then(|profile| profile.interval_ms));
        let connection = self.connection(row);
        if let (Some(profile), Some(connection)) = (&profile, &connection) {
            self.check_use(row, profile, connection, interval_ms);
        }
        let (Some(profile), Some(connection)) = (profile, connection) else { return };
        let Some(site) = self.inventory.find_site(site).filter(|_| row.problem_count() == before) else { return };
        let name = self.share(name);
        self.inventory.add_device(Device {
            id: DeviceId(0),
            site,
            name,
            profile,
            connection,
            interval_ms,
            registered: true,
        });
    }

    fn profile(&self, row: &mut Row<'_>) -> Option<Arc<Profile>> {
        let id = row.text("profile");
        let found = self.profiles.good.get(id).cloned();
        if found.is_none() && !self.profiles.broken.contains(id) {
            let known = &self.profiles.good;
            let message = match nearest(id, known.keys().map(String::as_str)) {
                Some(near) => format!("`{}` is no profile; did you mean `{near}`?", id.escape_debug()),
                None if known.is_empty() => format!("`{}` is no profile; set `inventory.profiles`", id.escape_debug()),
                None => {
                    let known: Vec<_> = known.keys().map(String::as_str).collect();
                    format!("`{}` is no profile; there are {}", id.escape_debug(), known.join(", "))
                }
            };
            row.add("profile", message);
        }
        found
    }

    fn connection(&mut self, row: &mut Row<'_>) -> Option<Connection> {
        let text = row.text("connection");
        if text == "mqtt" {
            if row.given("unit").is_some() {
                row.add("unit", "a device that publishes over MQTT has no unit; leave it empty");
            }
            return Some(Connection::Mqtt);
        }
        if !text.starts_with("modbus-tcp:") {
            let message = format!("`{}` is no connection; give `mqtt` or modbus-tcp://host:port", text.escape_debug());
            row.add("connection", message);
            return None;
        }
        let endpoint = row.ok("connection", address(text, "modbus-tcp", MODBUS_PORT));
        let unit = match row.given("unit") {
            None => {
                row.add("unit", "is empty; a Modbus device needs its unit identifier, 0-255 (1 or 255 where it has its own address)");
                None
            }
            Some(text) => {
                let refusal = || format!("`{}` is no unit identifier; give 0-255", text.escape_debug());
                row.ok("unit", text.parse::<u8>().map_err(|_| refusal()))
            }
        };
        let endpoint = self.share(&endpoint?.to_string());
        Some(Connection::ModbusTcp { endpoint, unit: unit? })
    }

    /// Checks that the profile can be read over the connection.
    fn check_use(&mut self, row: &mut Row<'_>, profile: &Profile, connection: &Connection, interval_ms: Option<u32>) {
        let polled = profile.metrics.iter().any(|metric| metric.register.is_some());
        match connection {
            Connection::Mqtt if polled => {
                let id = &profile.id;
                row.add(
                    "connection",
                    format!("profile `{id}` has registers, so it is read over modbus-tcp://host:port"),
                );
            }
            Connection::ModbusTcp { .. } if !polled => {
                let id = &profile.id;
                row.add("connection", format!("profile `{id}` has no registers, so it cannot be polled; give `mqtt`"));
            }
            Connection::ModbusTcp { endpoint, unit } => {
                if interval_ms.is_none() && row.given("interval").is_none() {
                    row.add("interval", "is empty, and the profile has none; give the polling interval, such as 10s");
                }
                let same = (endpoint.clone(), *unit, profile.id.clone());
                if let Some(line) = self.polled.insert(same, row.line) {
                    row.add(
                        "unit",
                        format!("the same registers of unit {unit} at {endpoint} are polled by line {line}"),
                    );
                }
            }
            Connection::Mqtt => {}
        }
    }
}

fn check_kind(kind: &str) -> Result<(), String> {
    check_lower_snake(kind)?;
    if kind == KIND_RESERVED {
        return Err(format!("`{KIND_RESERVED}` is reserved; give another kind, such as {}", KINDS.join(", ")));
    }
    match nearest(kind, KINDS.into_iter()) {
        Some(near) if near != kind => Err(format!("`{kind}` is unknown; did you mean `{near}`?")),
        _ => Ok(()),
    }
}

fn population(row: &mut Row<'_>) -> Option<Population> {
    let persons = row.given("population").and_then(|text| {
        let refusal = || format!("`{}` is no number of persons; give digits only", text.escape_debug());
        row.ok("population", text.parse::<u64>().ok().filter(|persons| *persons > 0).ok_or_else(refusal))
    });
    let year = row.given("population_year").and_then(|text| {
        let year = text.parse::<i16>().ok().filter(|year| (1900..=2200).contains(year));
        row.ok("population_year", year.ok_or_else(|| format!("`{}` is no year, such as 2020", text.escape_debug())))
    });
    if row.given("population").is_some() != row.given("population_year").is_some() {
        row.add("population_year", "a population and the year of its count go together; give both or neither");
    }
    Some(Population { persons: persons?, year: year? })
}

fn position(row: &mut Row<'_>) -> Option<(f64, f64)> {
    let (lat, lon) = (row.given("lat"), row.given("lon"));
    if lat.is_some() != lon.is_some() {
        let (missing, given) = if lat.is_none() { ("lat", "lon") } else { ("lon", "lat") };
        row.add(missing, format!("is empty, but {given} is given; give both or neither"));
    }
    let lat = lat.and_then(|text| row.ok("lat", degrees(text, 90.0)));
    let lon = lon.and_then(|text| row.ok("lon", degrees(text, 180.0)));
    Some((lat?, lon?))
}

fn degrees(text: &str, most: f64) -> Result<f64, String> {
    let refusal = || format!("`{}` is no number of degrees, such as 26.0745", text.escape_debug());
    let degrees = text.parse::<f64>().ok().filter(|degrees| degrees.is_finite()).ok_or_else(refusal)?;
    if degrees.abs() <= most {
        return Ok(degrees);
    }
    let hint = if degrees.abs() <= 180.0 { "; are lat and lon swapped?" } else { "" };
    Err(format!("{degrees} is beyond {most} degrees{hint}"))
}

fn attributes(row: &mut Row<'_>) -> BTreeMap<String, f64> {
    let mut attributes = BTreeMap::new();
    for part in row.text("attributes").split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let outcome = attribute(part);
        if let Some((key, value)) = row.ok("attributes", outcome)
            && attributes.insert(key.to_owned(), value).is_some()
        {
            row.add("attributes", format!("`{key}` stands twice"));
        }
    }
    attributes
}

fn attribute(part: &str) -> Result<(&str, f64), String> {
    let shown = part.escape_debug();
    let (key, value) = part
        .split_once('=')
        .ok_or_else(|| format!("`{shown}` is no attribute; give key=value;key=value, such as racks_built=400"))?;
    let (key, value) = (key.trim(), value.trim());
    check_lower_snake(key)?;
    let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
    Ok((key, number.ok_or_else(|| format!("`{shown}`: the value of an attribute is a number without its unit"))?))
}

fn time(row: &mut Row<'_>, column: &str) -> Option<Timestamp> {
    let text = row.given(column)?;
    row.ok(column, Timestamp::parse(text).map_err(|error| error.to_string()))
}
