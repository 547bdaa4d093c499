//! Publishes what the simulated devices send, at QoS 1 through one client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Outbox;
use crate::clock::Clock;

/// Messages that are taken from the outbox at once, and that wait in the client at the most.
const BATCH: usize = 256;
/// Longest sleep between looks at the outbox.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// Wait after the broker hung up.
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// How long a stop waits for the broker to acknowledge what was published.
const ACK_TIME_MAX: Duration = Duration::from_secs(5);

/// Devices that publish until they are stopped.
#[derive(Debug)]
pub struct Publisher {
    counts: Arc<Counts>,
    stop: watch::Sender<bool>,
    client: AsyncClient,
    sending: JoinHandle<()>,
    link: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    published: AtomicU64,
    acknowledged: AtomicU64,
    lag_ms: AtomicI64,
}

impl Publisher {
    /// Publishes what is in the outbox as it falls due on `clock`.
    #[must_use]
    pub fn start(outbox: Outbox, broker: SocketAddr, clock: Clock) -> Self {
        let mut options = MqttOptions::new("simulated-city", broker.ip().to_string(), broker.port());
        options.set_keep_alive(Duration::from_secs(30)).set_inflight(100);
        let (client, events) = AsyncClient::new(options, BATCH);
        let counts = Arc::<Counts>::default();
        let (stop, stopped) = watch::channel(false);
        let sending = tokio::spawn(send(outbox, client.clone(), clock, counts.clone(), stopped));
        let link = tokio::spawn(keep_up(events, counts.clone()));
        Self { counts, stop, client, sending, link }
    }

    /// Messages handed over so far.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.counts.published.load(Ordering::Relaxed)
    }

    /// How far the devices are behind the clock, ms.
    #[must_use]
    pub fn lag_ms(&self) -> i64 {
        self.counts.lag_ms.load(Ordering::Relaxed)
    }

    /// Stops sending, waits until the broker has all, and returns how many messages that were.
    pub async fn stop(&mut self) -> u64 {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.sending).await {
            tracing::error!(%error, "simulated devices failed");
        }
        let (published, deadline) = (self.published(), Instant::now() + ACK_TIME_MAX);
        while self.counts.acknowledged.load(Ordering::Relaxed) < published && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        // Best effort: the broker notices a client that is gone.
        if self.client.disconnect().await.is_ok() {
            let _ = timeout(Duration::from_secs(1), &mut self.link).await;
        }
        published
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.sending.abort();
        self.link.abort();
    }
}

async fn send(
    mut outbox: Outbox,
    client: AsyncClient,
    clock: Clock,
    counts: Arc<Counts>,
    mut stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let now = clock.now();
        let Some(due) = outbox.next_due() else { return };
        counts.lag_ms.store(now.millis_since(due).max(0), Ordering::Relaxed);
        if due > now {
            tokio::select! {
                () = sleep(clock.real_until(due).min(SLEEP_MAX)) => {}
                // The sender lives as long as the publisher, which aborts this task when it goes.
                _ = stop.changed() => {}
            }
            continue;
        }
        for message in outbox.take(now, BATCH) {
            if client.publish(&*message.topic, QoS::AtLeastOnce, false, message.payload).await.is_err() {
                return;
            }
            counts.published.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn keep_up(mut events: EventLoop, counts: Arc<Counts>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                counts.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "simulated devices lost the broker");
                sleep(RETRY_WAIT).await;
            }
        }
    }
}
