//! The ledger: what became of every message and every reading (P5).
//!
//! Messages: received = decoded + rejected + pending. Readings: decoded = applied + duplicate + conflicting + invalid +
//! expired. The counts are written to the store in the transaction that writes the rows they speak of, so they survive
//! restarts and replays. `received` is the number of records that the journal ever took, counted apart from the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::SerializeMap;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason's name in the ledger, in metrics and in the store.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

reasons! {
    /// Why a message was rejected whole.
    Rejection {
        /// The payload is no JSON.
        MalformedJson => "malformed_json",
        /// The payload has no object `readings`.
        MissingReadings => "missing_readings",
        /// `ts` is neither a number nor a time in the form of RFC 3339.
        BadTimestamp => "bad_timestamp",
        /// `ts` is a time without an offset, and the device's profile names no zone for it.
        NoZone => "no_zone",
        /// The topic does not fit `telemetry/{kind}/{area}/{site}/{device}`.
        UnknownTopic => "unknown_topic",
        /// The device is not listed, and the policy refuses such devices.
        Unregistered => "unregistered",
        /// The device is not listed, and as many such devices as allowed were taken in already.
        UnregisteredLimit => "unregistered_limit",
        /// The payload is larger than the source's limit.
        Oversize => "oversize",
        /// The Modbus poll's record is damaged.
        MalformedPoll => "malformed_poll",
        /// The Modbus poll is of a device that is no longer listed.
        UnknownDevice => "unknown_device",
        /// The journal's record was damaged on disk.
        JournalDamage => "journal_damage",
    }
}

reasons! {
    /// Why a reading of a decoded message was not applied.
    Invalid {
        /// The value is no number.
        NotANumber => "not_a_number",
        /// The device says that it has no value (a sentinel that the profile names, or NaN).
        Absent => "absent",
        /// The value lies outside the range that the profile declares valid.
        OutOfRange => "out_of_range",
        /// The profile does not list the metric.
        UnknownMetric => "unknown_metric",
        /// The event time lies further ahead of its arrival than allowed.
        Future => "future",
        /// The event time lies before 2010: the device's clock was never set.
        ClockUnset => "clock_unset",
        /// The event time is no time in the unit that the profile names, and is one in another unit.
        WrongUnit => "wrong_unit",
        /// The reading has no time of its own, and came while our own clock was not set.
        NoClock => "no_clock",
        /// The unlisted device has as many metrics as allowed already.
        MetricLimit => "metric_limit",
    }
}

/// Reason of a message whose readings are older than the store keeps, among the messages that are kept to be looked at.
pub const EXPIRED: &str = "expired";

/// The reason that goes by `label`, of whole messages and of readings; `None` where this build knows none.
#[must_use]
pub fn reason(label: &str) -> Option<&'static str> {
    let rejections = Rejection::ALL.iter().map(|reason| reason.label());
    let invalid = Invalid::ALL.iter().map(|reason| reason.label());
    rejections.chain(invalid).chain([EXPIRED]).find(|known| *known == label)
}

/// What became of the messages and readings of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were decoded.
    pub messages_decoded: u64,
    /// Messages that were rejected, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// Readings found in decoded messages.
    pub readings_decoded: u64,
    /// Readings that went into a row.
    pub applied: u64,
    /// Readings that were in their row already.
    pub duplicate: u64,
    /// Readings whose row holds another value for the same time.
    pub conflicting: u64,
    /// Readings that were invalid, by reason.
    pub invalid: BTreeMap<Invalid, u64>,
    /// Readings older than the store keeps rows.
    pub expired: u64,
    /// Of the readings that are counted above, those whose event time lay too far ahead and was set to their arrival.
    pub clamped: u64,
}

impl Counts {
    /// Counts a rejected message.
    pub fn reject(&mut self, reason: Rejection, messages: u64) {
        *self.rejected.entry(reason).or_default() += messages;
    }

    /// Counts an invalid reading.
    pub fn invalidate(&mut self, reason: Invalid) {
        *self.invalid.entry(reason).or_default() += 1;
    }

    /// Messages rejected, for any reason.
    pub fn messages_rejected(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// Readings invalid, for any reason.
    pub fn readings_invalid(&self) -> u64 {
        self.invalid.values().sum()
    }

    fn merge(&mut self, other: &Self) {
        self.messages_decoded += other.messages_decoded;
        self.readings_decoded += other.readings_decoded;
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.conflicting += other.conflicting;
        self.expired += other.expired;
        self.clamped += other.clamped;
        for (&reason, &count) in &other.rejected {
            *self.rejected.entry(reason).or_default() += count;
        }
        for (&reason, &count) in &other.invalid {
            *self.invalid.entry(reason).or_default() += count;
        }
    }

    /// Every count under its name, `class` and `reason`, as the store keeps them and `/metrics` shows them.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        let plain = [
            ("messages_decoded", "", self.messages_decoded),
            ("readings_decoded", "", self.readings_decoded),
            ("readings_applied", "", self.applied),
            ("readings_duplicate", "", self.duplicate),
            ("readings_conflicting", "", self.conflicting),
            ("readings_expired", "", self.expired),
            ("readings_clamped", "", self.clamped),
        ];
        let rejected = self.rejected.iter().map(|(reason, &count)| ("messages_rejected", reason.label(), count));
        let invalid = self.invalid.iter().map(|(reason, &count)| ("readings_invalid", reason.label(), count));
        plain.into_iter().chain(rejected).chain(invalid)
    }

    /// Puts back one entry of [`Counts::entries`]; false where nothing goes by that name.
    pub fn restore(&mut self, class: &str, reason: &str, count: u64) -> bool {
        let plain = match class {
            "messages_decoded" => &mut self.messages_decoded,
            "readings_decoded" => &mut self.readings_decoded,
            "readings_applied" => &mut self.applied,
            "readings_duplicate" => &mut self.duplicate,
            "readings_conflicting" => &mut self.conflicting,
            "readings_expired" => &mut self.expired,
            "readings_clamped" => &mut self.clamped,
            "messages_rejected" => {
                let Some(&known) = Rejection::ALL.iter().find(|known| known.label() == reason) else { return false };
                self.rejected.entry(known).or_default()
            }
            "readings_invalid" => {
                let Some(&known) = Invalid::ALL.iter().find(|known| known.label() == reason) else { return false };
                self.invalid.entry(known).or_default()
            }
            _ => return false,
        };
        *plain = count;
        true
    }
}

/// The ledger of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Messages that the journal ever took.
    pub received: u64,
    /// Messages in the journal that were not decoded yet.
    pub pending: u64,
    /// What became of the others, by source.
    pub sources: BTreeMap<Arc<str>, Counts>,
}

impl Ledger {
    /// The counts of `source`.
    pub fn source(&mut self, source: &Arc<str>) -> &mut Counts {
        if !self.sources.contains_key(source) {
            self.sources.insert(source.clone(), Counts::default());
        }
        self.sources.get_mut(source).expect("invariant: inserted above")
    }

    /// The counts of all sources together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.sources.values().for_each(|counts| total.merge(counts));
        total
    }

    /// Whether both equations hold.
    pub fn balanced(&self) -> bool {
        let total = self.total();
        let messages = total.messages_decoded + total.messages_rejected() + self.pending;
        let readings = total.applied + total.duplicate + total.conflicting + total.readings_invalid() + total.expired;
        self.received == messages && total.readings_decoded == readings
    }
}

impl Serialize for Ledger {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let total = self.total();
        let sources: Vec<_> = self.sources.iter().map(|(name, counts)| SourceJson { name, counts }).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("messages", &messages_json(&total, Some((self.received, self.pending))))?;
        map.serialize_entry("readings", &readings_json(&total))?;
        map.serialize_entry("balanced", &self.balanced())?;
        map.serialize_entry("sources", &sources)?;
        map.end()
    }
}

struct SourceJson<'a> {
    name: &'a str,
    counts: &'a Counts,
}

impl Serialize for SourceJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("source", self.name)?;
        map.serialize_entry("messages", &messages_json(self.counts, None))?;
        map.serialize_entry("readings", &readings_json(self.counts))?;
        map.end()
    }
}

#[derive(Serialize)]
struct ByReason {
    total: u64,
    reasons: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct MessagesJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    decoded: u64,
    rejected: ByReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<u64>,
}

#[derive(Serialize)]
struct ReadingsJson {
    decoded: u64,
    applied: u64,
    duplicate: u64,
    conflicting: u64,
    invalid: ByReason,
    expired: u64,
    clamped: u64,
}

fn messages_json(counts: &Counts, journal: Option<(u64, u64)>) -> MessagesJson {
    let reasons = counts.rejected.iter().map(|(reason, &count)| (reason.label(), count)).collect();
    MessagesJson {
        received: journal.map(|(received, _)| received),
        decoded: counts.messages_decoded,
        rejected: ByReason { total: counts.messages_rejected(), reasons },
        pending: journal.map(|(_, pending)| pending),
    }
}

fn readings_json(counts: &Counts) -> ReadingsJson {
    let reasons = counts.invalid.iter().map(|(reason, &count)| (reason.label(), count)).collect();
    ReadingsJson {
        decoded: counts.readings_decoded,
        applied: counts.applied,
        duplicate: counts.duplicate,
        conflicting: counts.conflicting,
        invalid: ByReason { total: counts.readings_invalid(), reasons },
        expired: counts.expired,
        clamped: counts.clamped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ledger {
        let mut ledger = Ledger { received: 5, pending: 1, ..Ledger::default() };
        let counts = ledger.source(&Arc::from("broker-1"));
        counts.messages_decoded = 3;
        counts.reject(Rejection::MalformedJson, 1);
        counts.readings_decoded = 6;
        (counts.applied, counts.duplicate, counts.conflicting, counts.expired) = (2, 1, 1, 1);
        counts.invalidate(Invalid::OutOfRange);
        counts.clamped = 1;
        ledger
    }

    #[test]
    fn a_message_that_is_nowhere_unbalances_the_ledger() {
        let mut ledger = sample();
        assert!(ledger.balanced());
        ledger.received += 1;
        assert!(!ledger.balanced());
    }

    #[test]
    fn a_reading_that_is_nowhere_unbalances_the_ledger() {
        let mut ledger = sample();
        ledger.source(&Arc::from("broker-1")).readings_decoded += 1;
        assert!(!ledger.balanced());
    }

    #[test]
    fn counts_come_back_from_their_entries() {
        let mut ledger = sample();
        let counts = ledger.source(&Arc::from("broker-1")).clone();
        let mut back = Counts::default();
        for (class, reason, count) in counts.entries() {
            assert!(back.restore(class, reason, count), "{class} {reason}");
        }
        assert_eq!(back, counts);
    }
}
