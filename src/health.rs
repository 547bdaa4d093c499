//! How the parts are doing: sources, journal, store, sinks each report here; the API, `/metrics` and the page read it.
//!
//! Owns states and counters in memory and nothing else. Never decides anything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::model::Timestamp;

/// Whether a part does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has not done anything yet.
    Starting,
    /// It works.
    Up,
    /// It works, but not all of it (some devices do not answer, some lines were refused).
    Degraded,
    /// It does not work; it keeps trying.
    Down,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// A connection to an MQTT broker that we read from.
    Mqtt,
    /// A Modbus endpoint that we poll.
    Modbus,
    /// The journal.
    Journal,
    /// Decode and roll-up, up to the store.
    Pipeline,
    /// The embedded store.
    Store,
    /// The worker that computes indicators.
    Indicator,
    /// An InfluxDB v2 sink.
    Influx,
    /// The city brain's broker.
    CityBrain,
}

impl PartKind {
    /// The kind's name in the API and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Modbus => "modbus",
            Self::Journal => "journal",
            Self::Pipeline => "pipeline",
            Self::Store => "store",
            Self::Indicator => "indicator",
            Self::Influx => "influx",
            Self::CityBrain => "city_brain",
        }
    }
}

/// A count that a part keeps; cheap to clone and to raise.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value; for gauges such as bytes on disk.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Condition {
    state: State,
    since: Timestamp,
    detail: String,
}

/// One part's state and counters.
#[derive(Debug)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// Its name in the configuration.
    pub name: String,
    condition: Mutex<Condition>,
    counters: Mutex<BTreeMap<&'static str, Counter>>,
}

/// A part's state and counters at an instant, as the API gives them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartSnapshot {
    /// What it is.
    pub kind: PartKind,
    /// Its name in the configuration.
    pub name: String,
    /// Whether it works.
    pub state: State,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// For people: what is wrong, or what it is connected to.
    pub detail: String,
    /// Its counters by name.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Part {
    /// Reports the part's state. Returns whether the state changed, which is when a log line is due.
    pub fn report(&self, state: State, detail: impl Into<String>, now: Timestamp) -> bool {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = condition.state != state;
        if changed {
            condition.since = now;
        }
        condition.state = state;
        condition.detail = detail.into();
        changed
    }

    /// The counter called `name` (`messages`, `timeouts`, `bytes_on_disk`), made at 0 where there is none yet. Keep the
    /// handle: this takes a lock.
    pub fn counter(&self, name: &'static str) -> Counter {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
    }

    /// State and counters now.
    pub fn snapshot(&self) -> PartSnapshot {
        let condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        PartSnapshot {
            kind: self.kind,
            name: self.name.clone(),
            state: condition.state,
            since: condition.since,
            detail: condition.detail.clone(),
            counters: counters.iter().map(|(&name, counter)| (name, counter.get())).collect(),
        }
    }
}

/// All parts of the daemon.
#[derive(Debug, Default)]
pub struct Health {
    parts: Mutex<BTreeMap<(PartKind, String), Arc<Part>>>,
}

impl Health {
    /// The part of this kind and name, made in state `Starting` where there is none yet.
    pub fn part(&self, kind: PartKind, name: &str, now: Timestamp) -> Arc<Part> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let condition = Condition { state: State::Starting, since: now, detail: String::new() };
            let (condition, counters) = (Mutex::new(condition), Mutex::default());
            Arc::new(Part { kind, name: name.to_owned(), condition, counters })
        };
        parts.entry((kind, name.to_owned())).or_insert_with(fresh).clone()
    }

    /// Every part, by kind and name.
    pub fn snapshot(&self) -> Vec<PartSnapshot> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.values().map(|part| part.snapshot()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_of_state_is_worth_a_log_line() {
        let health = Health::default();
        let part = health.part(PartKind::Mqtt, "east", Timestamp::from_millis(0));
        assert!(part.report(State::Up, "connected", Timestamp::from_millis(5)));
        assert!(!part.report(State::Up, "still connected", Timestamp::from_millis(9)));
        health.part(PartKind::Mqtt, "east", Timestamp::from_millis(10)).counter("messages").add(3);
        let snapshot = &health.snapshot()[0];
        assert_eq!((snapshot.since.as_millis(), snapshot.counters["messages"]), (5, 3));
        assert_eq!(snapshot.detail, "still connected");
    }
}
