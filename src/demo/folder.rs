//! The demo's configuration folder: what ships, the simulated city's inventory, and settings for a fast clock.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::FILE_NAME;
use crate::simulate::{AREAS, INDICATORS, PROFILES};

/// A folder that goes when it is dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

/// What the configuration says.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub(super) sites_csv: String,
    pub(super) devices_csv: String,
    pub(super) broker: SocketAddr,
    pub(super) listen: SocketAddr,
    pub(super) speed: u16,
}

impl Folder {
    /// Writes the configuration to a new folder among the system's temporary ones.
    pub(super) fn write(contents: &Contents) -> io::Result<Self> {
        let name = format!("sitepulse-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        // Made first, so that what is written below goes when something fails.
        let folder = Self(path);
        let write = |name: &str, text: &str| fs::write(folder.0.join(name), text);
        for (under, files) in [("devices", PROFILES.as_slice()), ("indicators", INDICATORS.as_slice())] {
            fs::create_dir(folder.0.join(under))?;
            for (name, text) in files {
                write(&format!("{under}/{name}"), text)?;
            }
        }
        write("areas.csv", AREAS)?;
        write("sites.csv", &contents.sites_csv)?;
        write("devices.csv", &contents.devices_csv)?;
        write(FILE_NAME, &settings(contents))?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind lies where the system clears up.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings(contents: &Contents) -> String {
    let Contents { broker, listen, speed, .. } = contents;
    // Half a second of real time for messages on their way, five seconds of the simulated time at the least.
    let grace_s = (speed / 2).max(5);
    format!(
        r#"data_dir = "data"
time_zone = "Asia/Shanghai"

[inventory]
areas = "areas.csv"
sites = "sites.csv"
devices = "devices.csv"
profiles = "devices"
indicators = "indicators"

[unregistered]
policy = "accept"
devices_max = 10

[rollup]
flush_interval = "300ms"
grace = "{grace_s}s"
retention = "30d"

[journal]
bytes_max = "256MiB"

[[mqtt]]
name = "city-broker"
url = "mqtt://{broker}"
client_id = "sitepulse-demo"
backoff_max = "1s"

[modbus]
connect_timeout = "1s"
request_timeout = "250ms"
backoff_max = "30s"

[api]
listen = "{listen}"
"#
    )
}
