//! The Modbus TCP source: polls devices on a schedule, one connection per endpoint.

use std::sync::Arc;
use std::time::Duration;

/// How Modbus devices are polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the source in the ledger and in metrics.
    pub name: Arc<str>,
    /// Time that connecting may take.
    pub connect_timeout: Duration,
    /// Time that one request may take.
    pub request_timeout: Duration,
    /// Longest wait between attempts at an endpoint, or at a unit that does not answer.
    pub backoff_max: Duration,
    /// Registers that are read along needlessly rather than asking twice.
    pub gap_registers_max: u16,
    /// Shortest time between two requests on one connection.
    pub request_pause: Duration,
}
