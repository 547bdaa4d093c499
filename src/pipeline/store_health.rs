//! How full the store is, said where people look.

use std::sync::Arc;

use tracing::{info, warn};

use crate::document::size_text;
use crate::health::{Counter, Part, State};
use crate::model::Timestamp;
use crate::store::{Fill, Pressure};

/// Reports the store's fill in its part and, when it changes how the store stands to its bound, in the log.
pub(super) struct StoreHealth {
    part: Arc<Part>,
    used_bytes: Counter,
    bytes_max: Counter,
    log_bytes: Counter,
    pressure: Pressure,
}

impl StoreHealth {
    pub(super) fn of(part: Arc<Part>) -> Self {
        Self {
            used_bytes: part.counter("used_bytes"),
            bytes_max: part.counter("bytes_max"),
            log_bytes: part.counter("log_bytes"),
            pressure: Pressure::None,
            part,
        }
    }

    pub(super) fn report(&mut self, fill: Fill, now: Timestamp) {
        self.used_bytes.set(fill.used_bytes);
        self.bytes_max.set(fill.bytes_max);
        self.log_bytes.set(fill.log_bytes);
        let (state, detail) = describe(fill);
        self.part.report(state, detail.as_str(), now);
        let grave = |pressure| !matches!(pressure, Pressure::None | Pressure::AtBound);
        if grave(fill.pressure) && fill.pressure != self.pressure {
            warn!(used_bytes = fill.used_bytes, bytes_max = fill.bytes_max, detail, "store is above its bound");
        } else if grave(self.pressure) && !grave(fill.pressure) {
            info!(used_bytes = fill.used_bytes, bytes_max = fill.bytes_max, "store is within its bound again");
        }
        self.pressure = fill.pressure;
    }
}

fn describe(fill: Fill) -> (State, String) {
    let mebibytes = |bytes: u64| size_text(bytes.div_ceil(1 << 20) << 20);
    let bound = if fill.is_disks { "what its disk can give" } else { "rollup.store_bytes_max" };
    let used = format!("{} used; {bound} is {}", mebibytes(fill.used_bytes), mebibytes(fill.bytes_max));
    let from = fill.kept_from.map(|from| format!(", rows are kept from {from}")).unwrap_or_default();
    let todo = if fill.is_disks { "give it a larger disk" } else { "raise rollup.store_bytes_max" };
    match fill.pressure {
        Pressure::None => (State::Up, used),
        Pressure::AtBound => (State::Up, format!("{used}: at its bound, the oldest rows that every sink has go{from}")),
        Pressure::Held => {
            let why =
                "a sink or a window that is not over still needs what is there; at a tenth more the oldest goes anyway";
            (State::Degraded, format!("{used}: above its bound, and {why}: see which sink is behind, or {todo}"))
        }
        Pressure::Shedding => {
            let what = "the oldest rows go before everybody has them, which is counted";
            (
                State::Degraded,
                format!("{used}: a tenth above its bound, {what}{from}: see which sink is behind, or {todo}"),
            )
        }
        Pressure::Stuck => {
            (State::Degraded, format!("{used}: above its bound with nothing left that could go: {todo}"))
        }
    }
}
