//! The configuration file as it is written: every key optional, nothing checked.

use serde::Deserialize;

use crate::document::{Flag, Integer, List, Table, Text};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Raw {
    pub(super) data_dir: Option<Text>,
    pub(super) time_zone: Option<Text>,
    pub(super) inventory: Option<Inventory>,
    pub(super) unregistered: Option<Unregistered>,
    pub(super) rollup: Option<Rollup>,
    pub(super) journal: Option<Journal>,
    pub(super) mqtt: Option<Vec<Option<Mqtt>>>,
    pub(super) modbus: Option<Modbus>,
    pub(super) influx: Option<Vec<Option<Influx>>>,
    pub(super) city_brain: Option<CityBrain>,
    pub(super) api: Option<Api>,
    pub(super) log: Option<Log>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Inventory {
    pub(super) areas: Option<Text>,
    pub(super) sites: Option<Text>,
    pub(super) devices: Option<Text>,
    pub(super) profiles: Option<Text>,
    pub(super) indicators: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Unregistered {
    pub(super) policy: Option<Text>,
    pub(super) devices_max: Option<Integer>,
    pub(super) metrics_max: Option<Integer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rollup {
    pub(super) flush_interval: Option<Text>,
    pub(super) grace: Option<Text>,
    pub(super) retention: Option<Text>,
    pub(super) future_limit: Option<Text>,
    pub(super) open_windows_bytes_max: Option<Text>,
    pub(super) store_bytes_max: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Journal {
    pub(super) bytes_max: Option<Text>,
    pub(super) segment_bytes: Option<Text>,
    pub(super) commit_interval: Option<Text>,
    pub(super) age_max: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mqtt {
    pub(super) name: Option<Text>,
    pub(super) url: Option<Text>,
    pub(super) client_id: Option<Text>,
    pub(super) topics: Option<List>,
    pub(super) user: Option<Text>,
    pub(super) password_env: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) keep_alive: Option<Text>,
    pub(super) connect_timeout: Option<Text>,
    pub(super) packet_bytes_max: Option<Text>,
    pub(super) backoff_max: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Modbus {
    pub(super) connect_timeout: Option<Text>,
    pub(super) request_timeout: Option<Text>,
    pub(super) backoff_max: Option<Text>,
    pub(super) gap_registers_max: Option<Integer>,
    pub(super) request_pause: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Influx {
    pub(super) name: Option<Text>,
    pub(super) url: Option<Text>,
    pub(super) org: Option<Text>,
    pub(super) bucket: Option<Text>,
    pub(super) token_env: Option<Text>,
    pub(super) token_file: Option<Text>,
    pub(super) create_bucket: Option<Flag>,
    pub(super) windows: Option<List>,
    pub(super) fields: Option<List>,
    pub(super) batch_lines_max: Option<Integer>,
    pub(super) compress: Option<Flag>,
    pub(super) timeout: Option<Text>,
    pub(super) backoff_max: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CityBrain {
    pub(super) url: Option<Text>,
    pub(super) client_id: Option<Text>,
    pub(super) user: Option<Text>,
    pub(super) password_env: Option<Text>,
    pub(super) password_file: Option<Text>,
    pub(super) topic_prefix: Option<Text>,
    pub(super) keep_alive: Option<Text>,
    pub(super) backoff_max: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Api {
    pub(super) listen: Option<Text>,
    pub(super) token_env: Option<Text>,
    pub(super) token_file: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Log {
    pub(super) level: Option<Text>,
    pub(super) format: Option<Text>,
}

/// The tables of the file and their keys.
pub fn tables() -> Vec<Table> {
    vec![
        Table::of::<Raw>(""),
        Table::of::<Inventory>("inventory"),
        Table::of::<Unregistered>("unregistered"),
        Table::of::<Rollup>("rollup"),
        Table::of::<Journal>("journal"),
        Table::of::<Mqtt>("mqtt[]"),
        Table::of::<Modbus>("modbus"),
        Table::of::<Influx>("influx[]"),
        Table::of::<CityBrain>("city_brain"),
        Table::of::<Api>("api"),
        Table::of::<Log>("log"),
    ]
}
