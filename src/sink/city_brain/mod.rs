//! The city brain's feed: indicators as retained JSON on an MQTT broker.
//!
//! Rows go out in the order of the store's feed, at QoS 1; the position goes forward when the broker has acknowledged
//! all of a batch, so whatever a lost connection leaves open is sent again. Every connection is a new client: nothing
//! of an old one is left to be sent out of order. Never keeps a row that the store does not have.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use rumqttc::{AsyncClient, ClientError, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions};
use rumqttc::{NetworkOptions, Packet, QoS};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time;
use tracing::{info, warn};

use super::desk::Desk;
use super::{Context, describe, stopped};
use crate::backoff::Backoff;
use crate::health::{Counter, Part, State};
use crate::model::{Timestamp, millis};
use crate::problem::with_causes;
use crate::report::IndicatorJson;
use crate::source::mqtt::Login;
use crate::store::{Error as StoreError, Feed, IndicatorQuery, IndicatorRow, Reader};
use message::{Message, Retain};

/// Rows that are on their way at once.
const BATCH_ROWS_MAX: usize = 100;
/// Messages that are on their way at once: a batch, our status and the schema.
const IN_FLIGHT_MAX: u16 = 110;
/// Bytes of a packet at the most.
const PACKET_BYTES_MAX: usize = 256 * 1024;
/// Wait for new rows.
const IDLE: Duration = Duration::from_millis(500);
/// Time in which the broker has to acknowledge a batch.
const ACK_TIME_MAX: Duration = Duration::from_secs(30);
/// Time for a clean goodbye.
const LEAVE: Duration = Duration::from_secs(1);

/// The city brain's broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Name of the sink in configuration and metrics.
    pub name: String,
    /// Host name or address (IPv4, or IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Client identifier.
    pub client_id: String,
    /// User name and password, where the broker wants them.
    pub login: Option<Login>,
    /// First levels of every topic: `citybrain/v1`.
    pub topic_prefix: String,
    /// Longest silence towards the broker.
    pub keep_alive: Duration,
    /// Longest wait between attempts to connect.
    pub backoff_max: Duration,
}

/// Publishes every indicator that becomes final or is amended until `stop` says true; leaves within two seconds of that.
pub async fn run(options: Options, context: Context, part: std::sync::Arc<Part>, stop: watch::Receiver<bool>) {
    let counters = Counters {
        rows_published: part.counter("rows_published"),
        rows_skipped: part.counter("rows_skipped"),
        connects: part.counter("connects"),
        feed_behind: part.counter("feed_behind"),
    };
    let desk = Desk::new(context.store.clone());
    Sink { options, context, desk, part, counters, stop }.run().await;
}

struct Counters {
    rows_published: Counter,
    rows_skipped: Counter,
    connects: Counter,
    feed_behind: Counter,
}

/// Why a connection ended.
enum End {
    /// The daemon stops.
    Stopped,
    /// Something failed; it is tried again.
    Failed(String),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The rows of one turn as messages.
struct Batch {
    messages: Vec<Message>,
    skipped: u64,
    position: u64,
    behind: u64,
}

struct Sink {
    options: Options,
    context: Context,
    desk: Desk,
    part: std::sync::Arc<Part>,
    counters: Counters,
    stop: watch::Receiver<bool>,
}

impl Sink {
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.options.backoff_max);
        loop {
            let connected = self.counters.connects.get();
            let reason = match self.connection().await {
                End::Stopped => return,
                End::Failed(reason) => reason,
            };
            if self.counters.connects.get() > connected {
                backoff.succeeded();
            }
            let wait = backoff.failed(fastrand::f64());
            self.trouble(&reason, &backoff, wait);
            tokio::select! {
                () = time::sleep(wait) => {}
                () = stopped(&mut self.stop) => return,
            }
        }
    }

    fn trouble(&self, reason: &str, backoff: &Backoff, wait: Duration) {
        let broker = Broker(&self.options);
        let detail = format!("{broker}: {reason}; trying again, nothing is lost");
        let now = self.context.clock.now();
        if self.part.report(State::Down, detail, now) {
            warn!(sink = self.options.name, %broker, reason, "city brain cannot be reached");
        }
        self.part.set_trouble(broker.to_string(), reason, backoff.failures(), Some(now.plus_millis(millis(wait))));
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> End {
        let mut line = Line::open(&self.options);
        let end = match self.publish(&mut line).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if matches!(end, End::Stopped) {
            // Whether the goodbye arrives or not, the last will says the same.
            let _ = time::timeout(LEAVE, line.leave(&self.options.topic_prefix)).await;
        }
        end
    }

    async fn publish(&mut self, line: &mut Line) -> Result<std::convert::Infallible, End> {
        self.unless_stopped(line.connected()).await?;
        let prefix = self.options.topic_prefix.clone();
        line.send(message::online(&prefix, self.context.clock.now()))?;
        line.send(message::schema(&prefix))?;
        self.unless_stopped(line.acknowledged()).await?;
        self.counters.connects.add(1);
        let broker = Broker(&self.options);
        self.part.set_troubles(Vec::new());
        if self.part.report(State::Up, format!("connected to {broker}"), self.context.clock.now()) {
            info!(sink = self.options.name, %broker, "city brain connected");
        }
        loop {
            let batch = self.next_batch().await?;
            self.counters.feed_behind.set(batch.behind + batch.messages.len() as u64);
            let rows = batch.messages.len() as u64;
            for message in batch.messages {
                line.send(message)?;
            }
            self.unless_stopped(line.acknowledged()).await?;
            if rows + batch.skipped > 0 {
                self.settle(batch.position).await?;
                self.counters.rows_published.add(rows);
                self.counters.rows_skipped.add(batch.skipped);
                self.counters.feed_behind.set(batch.behind);
            } else {
                self.unless_stopped(line.quiet(IDLE)).await?;
            }
        }
    }

    /// What `work` comes to, unless the daemon stops first.
    async fn unless_stopped<T>(&mut self, work: impl Future<Output = Result<T, End>>) -> Result<T, End> {
        tokio::select! {
            done = work => done,
            () = stopped(&mut self.stop) => Err(End::Stopped),
        }
    }

    async fn next_batch(&self) -> Result<Batch, End> {
        let (options, context) = (self.options.clone(), self.context.clone());
        let read = self.desk.with(move |reader, writer| {
            let after = writer.position(&options.name, Feed::Indicator)?;
            let rows = reader.indicators_after(after, BATCH_ROWS_MAX)?;
            let position = rows.last().map_or(after, |row| row.seq);
            let inventory = context.inventory();
            let mut batch = Batch { messages: Vec::new(), skipped: 0, position, behind: 0 };
            batch.behind = reader.feed_end(Feed::Indicator)?.saturating_sub(position);
            for row in &rows {
                // One that is no longer configured has no name or unit to go by.
                let Some(description) = describe(&context.descriptions, &row.id) else {
                    batch.skipped += 1;
                    continue;
                };
                let json = IndicatorJson::of(row, description, &inventory, &context.zone);
                let retain = if is_newest(reader, row, context.clock.now())? { Retain::Yes } else { Retain::No };
                batch.messages.push(message::indicator(&options.topic_prefix, row, &json, retain));
            }
            Ok(batch)
        });
        read.await.map_err(End::Failed)
    }

    async fn settle(&self, position: u64) -> Result<(), End> {
        let name = self.options.name.clone();
        let noted = self.desk.with(move |_, writer| writer.set_position(&name, Feed::Indicator, position));
        noted.await.map_err(End::Failed)
    }
}

/// Whether no later window of the same indicator and group is stored. One that has not begun yet is a clock's that ran
/// ahead, and does not count.
fn is_newest(reader: &Reader, row: &IndicatorRow, now: Timestamp) -> Result<bool, StoreError> {
    if row.start > now {
        return Ok(false);
    }
    let later = IndicatorQuery {
        id: Some(row.id.to_string()),
        level: Some(row.level),
        area: Some(row.area.to_string()),
        operator: Some(row.operator.to_string()),
        site: Some(row.site.to_string()),
        window: Some(row.window),
        from: row.start.plus_millis(1),
        to: now.plus_millis(1),
        limit: 1,
    };
    Ok(reader.indicators(&later)?.is_empty())
}

/// `host:port`, for people.
struct Broker<'a>(&'a Options);

impl fmt::Display for Broker<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { host, port, .. } = self.0;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What the broker says.
enum Word {
    Connected,
    Acknowledged,
    Lost(String),
}

/// One client and the task that drives it.
struct Line {
    client: AsyncClient,
    words: mpsc::Receiver<Word>,
    open: usize,
    driver: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Line {
    fn open(options: &Options) -> Self {
        let mut mqtt = MqttOptions::new(&options.client_id, &options.host, options.port);
        // There is nothing of ours that a session could keep: what is not acknowledged is sent again.
        mqtt.set_clean_session(true)
            .set_keep_alive(options.keep_alive)
            .set_inflight(IN_FLIGHT_MAX)
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(login) = &options.login {
            mqtt.set_credentials(&login.user, &login.password);
        }
        let will = message::offline(&options.topic_prefix);
        mqtt.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true));
        let (client, mut events) = AsyncClient::new(mqtt, usize::from(IN_FLIGHT_MAX));
        let mut network = NetworkOptions::new();
        // The client flushes message by message; none is to wait for the answer to the one before.
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        // Every message gets one word back, so this never fills and the driver never waits.
        let (speak, words) = mpsc::channel(2 * usize::from(IN_FLIGHT_MAX));
        Self { client, words, open: 0, driver: tokio::spawn(drive(events, speak)) }
    }

    fn send(&mut self, message: Message) -> Result<(), End> {
        let retain = message.retain == Retain::Yes;
        self.client.try_publish(message.topic, QoS::AtLeastOnce, retain, message.payload)?;
        self.open += 1;
        Ok(())
    }

    async fn connected(&mut self) -> Result<(), End> {
        match self.words.recv().await {
            Some(Word::Connected) => Ok(()),
            Some(Word::Acknowledged) => Err(End::Failed("the broker speaks out of turn".to_owned())),
            Some(Word::Lost(reason)) => Err(End::Failed(reason)),
            None => Err(End::Failed("the client ended".to_owned())),
        }
    }

    /// Waits until everything sent is acknowledged.
    async fn acknowledged(&mut self) -> Result<(), End> {
        let deadline = time::Instant::now() + ACK_TIME_MAX;
        while self.open > 0 {
            match time::timeout_at(deadline, self.words.recv()).await {
                Ok(Some(Word::Acknowledged)) => self.open -= 1,
                Ok(Some(Word::Connected)) => {}
                Ok(Some(Word::Lost(reason))) => return Err(End::Failed(reason)),
                Ok(None) => return Err(End::Failed("the client ended".to_owned())),
                Err(_) => return Err(End::Failed(format!("no acknowledgement within {ACK_TIME_MAX:?}"))),
            }
        }
        Ok(())
    }

    /// Waits for `span`, or for the end of the connection.
    async fn quiet(&mut self, span: Duration) -> Result<(), End> {
        match time::timeout(span, self.words.recv()).await {
            Ok(Some(Word::Lost(reason))) => Err(End::Failed(reason)),
            Ok(None) => Err(End::Failed("the client ended".to_owned())),
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    async fn leave(&mut self, prefix: &str) -> Result<(), End> {
        self.send(message::offline(prefix))?;
        self.acknowledged().await?;
        self.client.try_disconnect()?;
        // The driver ends when the connection does.
        while !matches!(self.words.recv().await, Some(Word::Lost(_)) | None) {}
        Ok(())
    }
}

/// Drives the client until its connection ends.
async fn drive(mut events: EventLoop, speak: mpsc::Sender<Word>) {
    loop {
        let word = match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => Word::Connected,
            Ok(Event::Incoming(Packet::PubAck(_))) => Word::Acknowledged,
            Ok(_) => continue,
            Err(error) => {
                // An error means that nobody listens any more.
                let _ = speak.send(Word::Lost(reason(&error))).await;
                return;
            }
        };
        if speak.send(word).await.is_err() {
            return;
        }
    }
}

/// What an operator can act on.
fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => "the broker refuses user or password; check city_brain.user and its password".to_owned(),
        error => with_causes(error),
    }
}
