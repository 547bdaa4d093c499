//! The city brain's feed: indicators as retained JSON on an MQTT broker.

use std::time::Duration;

use crate::source::mqtt::Login;

/// The city brain's broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the sink in configuration and metrics.
    pub name: String,
    /// Host name or address (IPv4, or IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Client identifier.
    pub client_id: String,
    /// User name and password, where the broker wants them.
    pub login: Option<Login>,
    /// First levels of every topic: `citybrain/v1`.
    pub topic_prefix: String,
    /// Longest silence towards the broker.
    pub keep_alive: Duration,
    /// Longest wait between attempts to connect.
    pub backoff_max: Duration,
}
