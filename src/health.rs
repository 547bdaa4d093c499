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

/// Troubles that a part names; the others are counted.
const TROUBLES_MAX: usize = 32;
/// Lines about going bad that one part may have logged in [`LINES_SPAN_MS`], so that flapping does not fill the log.
const BAD_LINES_MAX: u32 = 4;
const LINES_SPAN_MS: i64 = 60_000;

/// Something of a part that keeps failing, and is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// What fails: a device, an address, a topic.
    pub subject: String,
    /// Why, and what to do about it.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// How often it has failed since.
    pub count: u64,
    /// When it is tried again, where that is up to us.
    pub next: Option<Timestamp>,
}

#[derive(Debug)]
struct Condition {
    state: State,
    since: Timestamp,
    detail: String,
    changes: u64,
    troubles: Vec<Trouble>,
    troubles_unnamed: u64,
    lines: Lines,
}

/// What the log says of a part, so that it says each change once and of a part that flaps not every one.
#[derive(Debug)]
struct Lines {
    told: State,
    /// When the span began in which `bad` lines were due.
    began: Timestamp,
    bad: u32,
}

impl Lines {
    /// Whether a line about `state` is due.
    fn due(&mut self, state: State, now: Timestamp) -> bool {
        if state == self.told {
            return false;
        }
        if matches!(state, State::Degraded | State::Down) {
            // A clock that went back begins the span anew.
            if !(0..LINES_SPAN_MS).contains(&now.millis_since(self.began)) {
                (self.began, self.bad) = (now, 0);
            }
            if self.bad >= BAD_LINES_MAX {
                return false;
            }
            self.bad += 1;
        }
        self.told = state;
        true
    }
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
    /// How often its state has changed since the start; one that flaps has many.
    pub state_changes: u64,
    /// What of it keeps failing, the longest first.
    pub troubles: Vec<Trouble>,
    /// Further troubles, which are not named.
    pub troubles_unnamed: u64,
    /// Its counters by name.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Part {
    /// Reports the part's state. Returns whether a log line is due: where the state is another than the log says, but of
    /// a part that flaps only a few times in a minute.
    pub fn report(&self, state: State, detail: impl Into<String>, now: Timestamp) -> bool {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = condition.state != state;
        if changed {
            condition.since = now;
            condition.changes += 1;
        }
        condition.state = state;
        condition.detail = detail.into();
        condition.lines.due(state, now)
    }

    /// Says what of the part keeps failing now, in place of what was said before. The longest-lasting are named, up to a
    /// bound.
    pub fn set_troubles(&self, mut troubles: Vec<Trouble>) {
        troubles.sort_by(|a, b| (a.since, &a.subject).cmp(&(b.since, &b.subject)));
        let unnamed = troubles.len().saturating_sub(TROUBLES_MAX);
        troubles.truncate(TROUBLES_MAX);
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        (condition.troubles, condition.troubles_unnamed) = (troubles, unnamed as u64);
    }

    /// Says that one thing keeps failing: the part as a whole. It lasts since the part left the state in which it worked.
    pub fn set_trouble(
        &self,
        subject: impl Into<String>,
        reason: impl Into<String>,
        count: u64,
        next: Option<Timestamp>,
    ) {
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        let (subject, reason, since) = (subject.into(), reason.into(), condition.since);
        condition.troubles = vec![Trouble { subject, reason, since, count, next }];
        condition.troubles_unnamed = 0;
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
            state_changes: condition.changes,
            troubles: condition.troubles.clone(),
            troubles_unnamed: condition.troubles_unnamed,
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
            let condition = Condition {
                state: State::Starting,
                since: now,
                detail: String::new(),
                changes: 0,
                troubles: Vec::new(),
                troubles_unnamed: 0,
                lines: Lines { told: State::Starting, began: now, bad: 0 },
            };
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
        assert_eq!((snapshot.detail.as_str(), snapshot.state_changes), ("still connected", 1));
    }

    #[test]
    fn a_part_that_flaps_is_counted_each_time_and_logged_a_few_times_a_minute_and_the_log_ends_with_the_truth() {
        let part = Health::default().part(PartKind::Influx, "series", Timestamp::from_millis(0));
        let report = |state, at| part.report(state, "", Timestamp::from_millis(at));
        let lines = (0..100).filter(|&at| report(if at % 2 == 0 { State::Down } else { State::Up }, at * 100)).count();
        assert_eq!(lines, 8);
        assert_eq!(part.snapshot().state_changes, 100);
        assert!(!report(State::Down, 59_999), "still within the minute");
        assert!(report(State::Down, 60_001), "the log says up, and it is down");
        assert!(report(State::Up, 60_002));
    }

    #[test]
    fn the_longest_lasting_troubles_are_named_and_the_others_counted() {
        let part = Health::default().part(PartKind::Modbus, "host:502", Timestamp::from_millis(0));
        let trouble = |number: i64| Trouble {
            subject: format!("unit {number}"),
            reason: "no answer".to_owned(),
            since: Timestamp::from_millis(1_000 - number),
            count: 1,
            next: None,
        };
        part.set_troubles((0..40).map(trouble).collect());
        let snapshot = part.snapshot();
        assert_eq!((snapshot.troubles.len(), snapshot.troubles_unnamed), (32, 8));
        assert_eq!(snapshot.troubles[0].subject, "unit 39");
        part.set_troubles(Vec::new());
        assert_eq!(part.snapshot().troubles_unnamed, 0);
    }
}
