//! `/metrics`: the ledger, the parts and the store's feeds in the Prometheus text format.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Server;
use super::error::ApiError;
use crate::health::{PartKind, PartSnapshot, State as PartState};
use crate::ledger::Ledger;
use crate::store::{Feed, SinkState};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LedgerLabels {
    source: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    kind: &'static str,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
    feed: &'static str,
}

/// What may fall as well as rise.
type Values<L> = Family<L, Gauge>;
/// What only rises; it is counted elsewhere, kept over restarts, and put in whole when it is asked for.
type Totals<L> = Family<L, Counter>;

pub(super) async fn show(State(server): State<Server>) -> Result<Response, ApiError> {
    let feeds = server.readers.query(|reader, _| {
        let ends = [Feed::Rollup, Feed::Indicator].map(|feed| Ok((feed, reader.feed_end(feed)?)));
        let ends = ends.into_iter().collect::<Result<Vec<_>, crate::store::Error>>()?;
        Ok((reader.final_until()?, ends, reader.sinks()?, reader.discards()?))
    });
    let (final_until, ends, sinks, discards) = feeds.await?;
    let mut registry = Registry::with_prefix("sitepulse");
    register_ledger(&mut registry, &(server.context.ledger)());
    let parts = server.context.health.snapshot();
    register_parts(&mut registry, &parts);
    register_backlogs(&mut registry, &parts, &sinks, &ends);
    for (name, count) in discards {
        let (name, help) = match name {
            "feed_expired" => {
                ("feed_expired_entries".to_owned(), "Entries of the feeds that went before every sink had them")
            }
            name => (format!("store_{name}"), "What the store has let go of this kind since it was made"),
        };
        single(&mut registry, &name, help, count);
    }
    if let Some(until) = final_until {
        let lag_ms = u64::try_from(server.context.clock.now().millis_since(until)).unwrap_or(0);
        single(&mut registry, "final_lag_milliseconds", "Time since the end of the newest final minute", lag_ms);
    }
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// A label's value as the text format wants it; the encoder writes values as they are.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// How far each sink is behind, also one that has never reached its server: that has no place in the feed yet.
fn register_backlogs(registry: &mut Registry, parts: &[PartSnapshot], sinks: &[SinkState], ends: &[(Feed, u64)]) {
    let behind = Values::<SinkLabels>::default();
    let set = |sink: &str, feed: Feed, entries: u64| {
        let labels = SinkLabels { sink: label(sink), feed: feed.label() };
        behind.get_or_create(&labels).set(integer(entries));
    };
    for &(feed, end) in ends.iter().filter(|(_, end)| *end > 0) {
        let reads = |part: &&PartSnapshot| match part.kind {
            PartKind::Influx => true,
            PartKind::CityBrain => feed == Feed::Indicator,
            _ => false,
        };
        for part in parts.iter().filter(reads) {
            set(&part.name, feed, end);
        }
    }
    // The store remembers the places of sinks that are no longer configured, too.
    let is_sink = |part: &PartSnapshot| matches!(part.kind, PartKind::Influx | PartKind::CityBrain);
    let is_configured = |name: &str| parts.iter().any(|part| is_sink(part) && part.name == name);
    for sink in sinks.iter().filter(|sink| is_configured(&sink.sink)) {
        let end = ends.iter().find(|(feed, _)| *feed == sink.feed).map_or(0, |(_, end)| *end);
        set(&sink.sink, sink.feed, end.saturating_sub(sink.position));
    }
    registry.register("sink_feed_behind_entries", "Places of the feed that the sink has not passed", behind);
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn single(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(integer(value));
    registry.register(name, help, gauge);
}

fn register_ledger(registry: &mut Registry, ledger: &Ledger) {
    let received = Counter::<u64>::default();
    received.inc_by(ledger.received);
    registry.register("messages_received", "Messages that the journal ever took", received);
    single(registry, "messages_pending", "Messages in the journal that were not decoded yet", ledger.pending);
    single(registry, "ledger_balanced", "1 where every message and reading is accounted for", ledger.balanced().into());
    let mut families: BTreeMap<&'static str, Totals<LedgerLabels>> = BTreeMap::new();
    for (source, counts) in &ledger.sources {
        for (class, reason, count) in counts.entries() {
            let labels = LedgerLabels { source: label(source), reason: reason.to_owned() };
            families.entry(class).or_default().get_or_create(&labels).inc_by(count);
        }
    }
    for (class, family) in families {
        registry.register(class, "Messages or readings that ended this way, by source and reason", family);
    }
}

fn register_parts(registry: &mut Registry, parts: &[PartSnapshot]) {
    let states = Values::<PartLabels>::default();
    let (changes, troubles) = (Totals::<PartLabels>::default(), Values::<PartLabels>::default());
    let mut counters: BTreeMap<String, Values<PartLabels>> = BTreeMap::new();
    for part in parts {
        let labels = PartLabels { kind: part.kind.label(), name: label(&part.name) };
        let state = match part.state {
            PartState::Down => 0,
            PartState::Starting => 1,
            PartState::Degraded => 2,
            PartState::Up => 3,
        };
        states.get_or_create(&labels).set(state);
        changes.get_or_create(&labels).inc_by(part.state_changes);
        troubles.get_or_create(&labels).set(integer(part.troubles.len() as u64 + part.troubles_unnamed));
        for (name, &value) in &part.counters {
            let name = format!("{}_{name}", part.kind.label());
            counters.entry(name).or_default().get_or_create(&labels).set(integer(value));
        }
    }
    registry.register("part_state", "0 down, 1 starting, 2 degraded, 3 up", states);
    registry.register("part_state_changes", "Changes of the part's state since the start; many when it flaps", changes);
    registry.register("part_troubles", "Devices, addresses or topics of the part that keep failing", troubles);
    for (name, family) in counters {
        registry.register(name, "What the part of this kind counts", family);
    }
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn a_label_cannot_end_its_quotes_or_its_line() {
        assert_eq!(label("a\"} 1\nb\\"), r#"a\"} 1\nb\\"#);
        assert_eq!(label("127.0.0.1:502"), "127.0.0.1:502");
    }
}
