//! `/api/v1/live`: indicators as they are stored, the ledger and the parts, as server-sent events.
//!
//! One task looks and encodes for everybody; a client that reads too slowly misses events instead of holding them up.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{broadcast, watch};
use tokio::time::MissedTickBehavior;

use super::error::ApiError;
use super::readers::Readers;
use super::{Context, Server};
use crate::report::IndicatorJson;
use crate::store::Feed;

/// Time between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two events of ledger and parts.
const STATUS_EVERY: u32 = 2;
/// Indicators that one look takes.
const ROWS_MAX: usize = 1_000;
/// Events that wait for a slow client.
const EVENTS_MAX: usize = 2_048;
/// Clients at once.
const CLIENTS_MAX: usize = 64;

#[derive(Clone, Debug)]
struct Message {
    name: &'static str,
    data: Arc<str>,
}

/// Where clients subscribe.
#[derive(Clone)]
pub(super) struct Broadcast {
    events: broadcast::Sender<Message>,
    clients: Arc<AtomicUsize>,
    /// Whether a place in the feed is known from which clients can be served.
    placed: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
}

/// Starts the task that looks.
pub(super) fn start(context: Context, readers: Readers, stop: watch::Receiver<bool>) -> Broadcast {
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let (place, placed) = watch::channel(false);
    tokio::spawn(look(context, readers, events.clone(), place, stop.clone()));
    Broadcast { events, clients: Arc::default(), placed, stop }
}

async fn look(
    context: Context,
    readers: Readers,
    events: broadcast::Sender<Message>,
    place: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut after = None;
    let mut looks = 0u32;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|&stop| stop) => return,
        }
        if after.is_none() || events.receiver_count() == 0 {
            let end = readers.query(|reader, _| Ok(reader.feed_end(Feed::Indicator)?)).await.ok();
            // Whoever came meanwhile is to hear what was stored since, so the place stays then.
            if after.is_none() || events.receiver_count() == 0 {
                after = end.or(after);
                place.send_replace(after.is_some());
            }
            if events.receiver_count() == 0 {
                continue;
            }
        }
        if let Some(reached) = after {
            after = Some(indicators(&context, &readers, &events, reached).await);
        }
        if looks.is_multiple_of(STATUS_EVERY) {
            send(&events, "ledger", &(context.ledger)());
            send(&events, "health", &json!({ "parts": context.health.snapshot() }));
        }
        looks = looks.wrapping_add(1);
    }
}

/// Sends the indicators stored after place `after` of the feed; returns the place reached.
async fn indicators(context: &Context, readers: &Readers, events: &broadcast::Sender<Message>, after: u64) -> u64 {
    let read = readers.query(move |reader, _| Ok(reader.indicators_after(after, ROWS_MAX)?));
    let Ok(rows) = read.await else { return after };
    let inventory = context.inventory.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    for row in IndicatorJson::all(&rows, &context.descriptions, &inventory, &context.zone) {
        send(events, "indicator", &row);
    }
    rows.last().map_or(after, |row| row.seq)
}

fn send(events: &broadcast::Sender<Message>, name: &'static str, data: &impl Serialize) {
    if let Ok(data) = serde_json::to_string(data) {
        // An error means that the last client has just left.
        let _ = events.send(Message { name, data: Arc::from(data) });
    }
}

/// Counts a client in, and out when it is dropped.
struct Client(Arc<AtomicUsize>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) async fn stream(
    State(server): State<Server>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let live = server.live;
    if live.clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS_MAX {
        live.clients.fetch_sub(1, Ordering::AcqRel);
        return Err(ApiError::busy(format!("{CLIENTS_MAX} clients listen already; close a page or ask again later")));
    }
    let client = Client(live.clients.clone());
    // Without a place what is stored from now on could be missed; a store that cannot be read must not keep clients out.
    let mut placed = live.placed;
    let _ = tokio::time::timeout(2 * LOOK, placed.wait_for(|&placed| placed)).await;
    let events = unfold((live.events.subscribe(), live.stop, client), |(mut events, mut stop, client)| async move {
        let received = tokio::select! {
            received = events.recv() => received,
            _ = stop.wait_for(|&stop| stop) => return None,
        };
        let event = match received {
            Ok(message) => Event::default().event(message.name).data(&*message.data),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Event::default().event("missed").data(missed.to_string())
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((Ok(event), (events, stop, client)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
