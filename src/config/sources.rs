//! The tables of sources: `[[mqtt]]` and `[modbus]`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::section::{SecretKeys, Section, Surroundings};
use super::{raw, topic_filter};
use crate::document::{List, Text, address};
use crate::problem::Problem;
use crate::source;
use crate::source::mqtt::Login;

/// Name of the Modbus source in the ledger.
const MODBUS_NAME: &str = "modbus";

/// Port of a broker that names none.
pub(super) const MQTT_PORT: u16 = 1_883;

const SECOND: Duration = Duration::from_secs(1);

/// Range of the longest wait between attempts.
pub(super) const BACKOFF_MAX: std::ops::RangeInclusive<Duration> = SECOND..=Duration::from_hours(1);

/// Checks a name of a source or sink.
pub(super) fn check_part_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if name.len() <= 64 && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("`{}` is no name; use a-z, 0-9, `-` and `_`, 64 at the most", name.escape_debug()))
}

/// Checks every `[[mqtt]]`; each comes with its place in the file.
pub(super) fn mqtt(
    tables: Vec<Option<raw::Mqtt>>,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<(usize, source::mqtt::Options)> {
    let mut names = BTreeSet::from([MODBUS_NAME.to_owned()]);
    let mut read = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let Some(table) = table else { continue };
        let mut section = Section::new(around, format!("mqtt[{index}]"), problems);
        read.extend(broker(table, &mut section, &mut names).map(|options| (index, options)));
    }
    read
}

fn broker(table: raw::Mqtt, section: &mut Section<'_>, names: &mut BTreeSet<String>) -> Option<source::mqtt::Options> {
    let name = section.required("name", table.name, "the name by which the ledger and metrics know this source");
    let name = name.and_then(|name| section.ok("name", check_part_name(&name)).map(|()| name));
    if let Some(name) = &name
        && !names.insert(name.clone())
    {
        section.add("name", format!("`{name}` is taken by another source; names are unique"));
    }
    let address = broker_address(table.url, section);
    let client_id = client_id(table.client_id, section);
    let topics = topics(table.topics, section);
    let login = login(table.user, table.password_env, table.password_file, section);
    let keep_alive = keep_alive(table.keep_alive, section);
    let connect_timeout = section.duration(
        "connect_timeout",
        table.connect_timeout,
        Duration::from_secs(10),
        Duration::from_millis(100)..=Duration::from_mins(5),
    );
    let packet_bytes_max = section.size("packet_bytes_max", table.packet_bytes_max, 256 << 10, 1 << 10..=255 << 20);
    let backoff_max = section.duration("backoff_max", table.backoff_max, Duration::from_mins(1), BACKOFF_MAX);
    let address = address?;
    Some(source::mqtt::Options {
        name: Arc::from(name?),
        host: address.host,
        port: address.port,
        client_id: client_id?,
        topics,
        login,
        keep_alive,
        connect_timeout,
        packet_bytes_max: usize::try_from(packet_bytes_max).unwrap_or(usize::MAX),
        backoff_max,
    })
}

/// Reads the address of a broker.
pub(super) fn broker_address(url: Option<Text>, section: &mut Section<'_>) -> Option<crate::document::HostPort> {
    let url = section.required("url", url, "the broker's address, such as mqtt://192.0.2.7:1883")?;
    let encrypted = ["mqtts://", "ssl://", "tls://", "ws://", "wss://"].iter().any(|scheme| url.starts_with(scheme));
    if encrypted {
        section
            .add("url", "only plain TCP is supported so far; give mqtt://host:port, through a TLS tunnel where needed");
        return None;
    }
    section.ok("url", address(&url, "mqtt", MQTT_PORT))
}

/// Reads a client identifier.
pub(super) fn client_id(value: Option<Text>, section: &mut Section<'_>) -> Option<String> {
    let what = "an identifier that no other client of the broker has; it keeps our session under it";
    let id = section.required("client_id", value, what)?;
    if id.len() > 128 || id.chars().any(char::is_control) {
        section.add("client_id", "is longer than 128 bytes or holds control characters");
        return None;
    }
    Some(id)
}

fn topics(value: Option<List>, section: &mut Section<'_>) -> Vec<String> {
    let Some(List(topics)) = value else { return vec!["telemetry/+/+/+/+".to_owned()] };
    if topics.is_empty() {
        section
            .add("topics", "is empty; give topic filters such as telemetry/+/+/+/+, or leave the key out for that one");
    }
    let mut seen = BTreeSet::new();
    for (index, topic) in topics.iter().enumerate() {
        let key = format!("topics[{index}]");
        section.ok(&key, topic_filter::check(topic));
        if !seen.insert(topic) {
            section.add(&key, format!("`{}` stands twice", topic.escape_debug()));
        }
    }
    topics
}

/// Reads user name and password.
pub(super) fn login(
    user: Option<Text>,
    password_env: Option<Text>,
    password_file: Option<Text>,
    section: &mut Section<'_>,
) -> Option<Login> {
    let named = password_env.is_some() || password_file.is_some();
    let password = section.secret(SecretKeys { name: "password", variable: password_env, file: password_file });
    match (user, named) {
        (None, false) => None,
        (None, true) => {
            section.add("user", "is missing; MQTT 3.1.1 knows no password without a user");
            None
        }
        (Some(_), false) => {
            section.add(
                "user",
                "has no password; name its environment variable with password_env or its file with password_file",
            );
            None
        }
        (Some(Text(user)), true) if user.is_empty() => {
            section.add("user", "is empty; give the user's name");
            None
        }
        (Some(Text(user)), true) => Some(Login { user, password: password? }),
    }
}

/// Reads the longest silence towards a broker, which the protocol counts in seconds.
pub(super) fn keep_alive(value: Option<Text>, section: &mut Section<'_>) -> Duration {
    let keep_alive =
        section.duration("keep_alive", value, Duration::from_secs(30), SECOND * 5..=Duration::from_secs(65_535));
    if keep_alive.subsec_nanos() > 0 {
        section.add("keep_alive", "is no whole number of seconds, which is what MQTT counts it in");
    }
    keep_alive
}

/// Checks `[modbus]`.
pub(super) fn modbus(table: raw::Modbus, section: &mut Section<'_>) -> source::modbus::Options {
    let millis = Duration::from_millis;
    source::modbus::Options {
        name: Arc::from(MODBUS_NAME),
        connect_timeout: section.duration(
            "connect_timeout",
            table.connect_timeout,
            SECOND * 3,
            millis(50)..=Duration::from_mins(1),
        ),
        request_timeout: section.duration(
            "request_timeout",
            table.request_timeout,
            SECOND,
            millis(10)..=Duration::from_mins(1),
        ),
        backoff_max: section.duration("backoff_max", table.backoff_max, Duration::from_mins(1), BACKOFF_MAX),
        gap_registers_max: section.whole("gap_registers_max", table.gap_registers_max, 8, 0..=124),
        request_pause: section.duration(
            "request_pause",
            table.request_pause,
            Duration::ZERO,
            Duration::ZERO..=SECOND * 10,
        ),
    }
}
