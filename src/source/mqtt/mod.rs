//! The MQTT source: subscribes at QoS 1 and acknowledges what the journal has on disk (P1).
//!
//! MQTT 3.1.1 over TCP on a thread of its own, with a persistent session. Bytes become packets in `assembler`, the protocol
//! is in `session`, messages go to the journal through `intake`; `driver` owns the socket and the thread; `rival` knows
//! another client under our identifier by its traces. Never decodes a
//! payload, never decides what is lost: what the journal does not take stays with the broker.

mod ack_waits;
mod assembler;
mod bell;
#[cfg(feature = "bench")]
pub mod bench;
mod dial;
mod driver;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod intake;
mod rival;
mod session;
#[cfg(any(test, feature = "bench"))]
pub(crate) mod stepped;
#[cfg(test)]
mod test_rig;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::Clock;
use crate::health::Part;
use crate::journal::Inlet;

/// Starts the source on its own thread. It ends within about 4 s of `stop` being set.
///
/// # Errors
/// Where the system gives no thread.
pub fn start(
    options: Options,
    inlet: Inlet,
    clock: Clock,
    part: Arc<Part>,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    let name = format!("mqtt-{}", options.name);
    thread::Builder::new().name(name).spawn(move || driver::Driver::new(options, inlet, clock, part, stop).run())
}

/// Who we are to a broker: a user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name.
    pub user: String,
    /// Password; never logged.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// One connection to one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the source in configuration, ledger and metrics.
    pub name: Arc<str>,
    /// Host name or address (IPv4, or IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Client identifier; the broker keeps the session under it.
    pub client_id: String,
    /// Topic filters, subscribed at QoS 1.
    pub topics: Vec<String>,
    /// User name and password, where the broker wants them.
    pub login: Option<Login>,
    /// Longest silence towards the broker; a ping is sent in time.
    pub keep_alive: Duration,
    /// Time that connecting (name, TCP, CONNACK) may take.
    pub connect_timeout: Duration,
    /// Payload bytes that are taken in; of a larger message only its topic is kept, as its rejection.
    pub packet_bytes_max: usize,
    /// Longest wait between attempts to connect.
    pub backoff_max: Duration,
}
