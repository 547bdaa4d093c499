//! A city to measure with: one message with 13 readings per site, sent as cheaply as can be, so that what is measured is
//! the broker and the collector.
//!
//! What a site is, is in [`fleet`]; what it reports in `quantity`; its PUBLISH is encoded once and patched when it is
//! sent (`template`, `deck`: pure). `connection` owns a socket, `publish` the thread that sends, `consume` a subscriber
//! that only counts, `modbus` devices that answer, `poll` a poller that only counts. `folder` writes the configuration under which a collector knows all
//! of them. Nothing allocates per message.

mod connection;
mod consume;
mod deck;
mod fleet;
mod folder;
mod modbus;
mod poll;
mod publish;
mod quantity;
mod template;
mod usage;

use std::io;

pub use consume::{Consumed, Consumer, ConsumerOptions};
pub use deck::{EventTime, Share};
pub use fleet::Fleet;
pub use folder::{FolderOptions, ModbusPark, write_folder};
pub use modbus::{ModbusLoad, ModbusOptions};
pub use poll::{BarePoller, PollBoard, PollOptions, Polled};
pub use publish::{Load, LoadOptions, Sent};
pub use usage::{CpuTime, cpu_time};

/// Readings of one message.
pub const READINGS_PER_MESSAGE: u64 = 13;

/// Quality of service at which messages are sent or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Sent and forgotten.
    AtMostOnce,
    /// Acknowledged, sent again where the acknowledgement does not come.
    AtLeastOnce,
}

/// Why a load cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker is not there, or closed the connection.
    #[error("cannot {action}")]
    Io {
        /// What was being done.
        action: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The broker answers with something else than it should.
    #[error("the broker {0}")]
    Broker(&'static str),
}

/// The error of `action`.
fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    move |source| Error::Io { action, source }
}

/// Well-mixed bits of `seed` (the finaliser of splitmix64).
const fn mixed(seed: u64) -> u64 {
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    seed ^ (seed >> 31)
}
