//! The configuration folder under which a collector knows every site of the load.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::fleet::{Fleet, SiteKind};
use super::quantity::profile_toml;
use crate::config::FILE_NAME;
use crate::document::duration_text;
use crate::simulate::{AREAS, INDICATORS, PROFILES};

/// Modbus devices that the collector is to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModbusPark {
    /// Devices.
    pub devices: usize,
    /// Port of the first one on this machine.
    pub port: u16,
    /// Units behind one port.
    pub units_per_port: u8,
    /// Holding registers of each, from 0 on.
    pub registers: u16,
    /// From poll to poll.
    pub interval: Duration,
}

/// What the folder is to say.
#[derive(Clone, Debug)]
pub struct FolderOptions {
    /// The city; of no sites where there is no broker to listen to.
    pub fleet: Fleet,
    /// From a site's message to its next one.
    pub interval: Duration,
    /// The broker.
    pub broker: SocketAddr,
    /// Where the collector's API listens.
    pub listen: SocketAddr,
    /// Modbus devices, where there are any.
    pub modbus: Option<ModbusPark>,
}

/// Writes the folder, which must not hold a configuration yet.
///
/// # Errors
/// The system's error where it cannot be written, and `AlreadyExists` where it holds one.
pub fn write_folder(path: &Path, options: &FolderOptions) -> io::Result<()> {
    let main = path.join(FILE_NAME);
    if main.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already", main.display())));
    }
    fs::create_dir_all(path.join("devices"))?;
    fs::create_dir_all(path.join("indicators"))?;
    // They are of sites of this city, and refused where there is none of their kind.
    let indicators = if options.fleet.sites == 0 { &[][..] } else { &INDICATORS[..] };
    for (name, text) in indicators {
        fs::write(path.join("indicators").join(name), text)?;
    }
    // The indicators name metrics of theirs that no gateway of this city reports.
    for (name, text) in PROFILES {
        fs::write(path.join("devices").join(name), text)?;
    }
    for kind in SiteKind::ALL {
        fs::write(path.join("devices").join(format!("{}.toml", kind.profile())), profile_toml(kind))?;
    }
    if let Some(park) = &options.modbus {
        fs::write(path.join("devices/city-registers.toml"), registers_toml(park.registers))?;
    }
    fs::write(path.join("areas.csv"), AREAS)?;
    fs::write(path.join("sites.csv"), sites_csv(options))?;
    fs::write(path.join("devices.csv"), devices_csv(options))?;
    fs::write(main, settings(options))
}

/// Site of the Modbus devices.
const PARK_SITE: &str = "PARK-000001";

fn sites_csv(options: &FolderOptions) -> String {
    let mut text = "site,kind,area,operator,attributes\n".to_owned();
    let mut last = String::new();
    for member in options.fleet.members() {
        // Racks of one data centre follow each other.
        if member.site != last {
            let (site, kind) = (&member.site, member.kind);
            let (label, area, operator) = (kind.label(), member.area, member.operator);
            writeln!(text, "{site},{label},{area},{operator},{}", kind.attributes()).expect(TAKES_ALL);
            last = member.site;
        }
    }
    if options.modbus.is_some() {
        writeln!(text, "{PARK_SITE},data_centre,350102,mobile,").expect(TAKES_ALL);
    }
    text
}

const TAKES_ALL: &str = "invariant: a String takes all that is written";

fn devices_csv(options: &FolderOptions) -> String {
    let mut text = "site,device,profile,connection,unit,interval\n".to_owned();
    let interval = duration_text(options.interval);
    for member in options.fleet.members() {
        let (site, device, profile) = (&member.site, &member.device, member.kind.profile());
        writeln!(text, "{site},{device},{profile},mqtt,,{interval}").expect(TAKES_ALL);
    }
    if let Some(park) = &options.modbus {
        let interval = duration_text(park.interval);
        for index in 0..park.devices {
            let units = usize::from(park.units_per_port);
            let (port, unit) = (usize::from(park.port) + index / units, index % units + 1);
            let connection = format!("modbus-tcp://127.0.0.1:{port}");
            writeln!(text, "{PARK_SITE},m-{:05},city-registers,{connection},{unit},{interval}", index + 1)
                .expect(TAKES_ALL);
        }
    }
    text
}

fn registers_toml(registers: u16) -> String {
    let mut text = "id = \"city-registers\"\n".to_owned();
    for address in 0..registers {
        write!(
            text,
            "\n[[metric]]\nname = \"register_{address:03}\"\nunit = \"1\"\nkind = \"gauge\"\n\
             register = {{ table = \"holding\", address = {address}, type = \"u16\" }}\n"
        )
        .expect(TAKES_ALL);
    }
    text
}

fn settings(options: &FolderOptions) -> String {
    let FolderOptions { broker, listen, .. } = options;
    let mqtt = if options.fleet.sites == 0 {
        String::new()
    } else {
        format!("[[mqtt]]\nname = \"city\"\nurl = \"mqtt://{broker}\"\nclient_id = \"sitepulse-city\"\n\n")
    };
    format!(
        r#"# A collector for the load of `sitepulse simulate`; every other key has its default.
data_dir = "data"
time_zone = "Asia/Shanghai"

[inventory]
areas = "areas.csv"
sites = "sites.csv"
devices = "devices.csv"
profiles = "devices"
indicators = "indicators"

{mqtt}[api]
listen = "{listen}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load_with};

    #[test]
    fn a_collector_takes_the_folder_and_knows_every_site_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let modbus = ModbusPark {
            devices: 300,
            port: 5_020,
            units_per_port: 100,
            registers: 60,
            interval: Duration::from_secs(1),
        };
        let options = FolderOptions {
            fleet: Fleet { sites: 2_000 },
            interval: Duration::from_secs(10),
            broker: SocketAddr::from(([127, 0, 0, 1], 1_883)),
            listen: SocketAddr::from(([127, 0, 0, 1], 8_800)),
            modbus: Some(modbus),
        };
        write_folder(folder.path(), &options).expect("written");
        let config = load_with(folder.path(), &Environment::new()).expect("no problems");
        assert_eq!(config.inventory.devices().len(), 2_000 + 300);
        let again = write_folder(folder.path(), &options).expect_err("it holds a configuration");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let polled = FolderOptions { fleet: Fleet { sites: 0 }, ..options };
        let folder = tempfile::tempdir().expect("a folder");
        write_folder(folder.path(), &polled).expect("written");
        let config = load_with(folder.path(), &Environment::new()).expect("no problems");
        assert_eq!((config.inventory.devices().len(), config.mqtt.len()), (300, 0));
    }
}
