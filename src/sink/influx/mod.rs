//! The InfluxDB v2 sink: roll-ups and indicators as line protocol over the write API.
//!
//! The two feeds take turns, a batch each. A batch is in the store's hands before the position goes forward, and before
//! the next one is sent, so that of a row the newest version is always the last. While one is on its way the next of its
//! feed is read and made a body, and no more than that; where anything had to wait, it is read again and so is all that
//! was read ahead, since a store may keep either of two versions. What the store cannot do now is tried again; what it
//! will never take is put into quarantine with the store's own words; what a person has to put right is said to that
//! person, and loses nothing.

#[cfg(feature = "bench")]
pub mod bench;
mod client;
mod feed;
mod field;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod line;
mod lines;
mod policy;
mod spare;
#[cfg(test)]
pub(crate) mod stepped;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::pending;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time;
use tracing::{error, info, warn};

use self::client::{Body, Client, FarSide};
use self::feed::{Batch, Prepared};
pub use self::field::{Field, Fields, UnknownField};
use self::policy::{Answer, Delivery, Next, Refusal, Trouble};
use self::spare::Spare;
use super::desk::Desk;
use super::{Context, stopped};
use crate::backoff::Backoff;
use crate::health::{Counter, Part, State};
use crate::model::{Window, millis};
use crate::store::{Feed, Quarantined};

/// Wait at the end of both feeds where no flush ends it: indicators come without one.
const IDLE: Duration = Duration::from_millis(500);
/// Time that a request under way has left when the daemon stops.
const LEAVE: Duration = Duration::from_millis(1_500);
/// Bytes of a refused line that are kept.
const QUARANTINED_BYTES_MAX: usize = 16 * 1_024;

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is, which spares both ends CPU time.
    Plain,
    /// Compressed, to about a third of its size.
    Gzip,
}

/// One time-series store that takes the InfluxDB v2 write API.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the sink in configuration and metrics.
    pub name: String,
    /// Base address (`http://host:8086`), checked to be a URL.
    pub url: String,
    /// Organisation.
    pub org: String,
    /// Bucket.
    pub bucket: String,
    /// Token; empty where the store wants none. Never logged.
    pub token: String,
    /// Whether to make the bucket where it is missing.
    pub create_bucket: bool,
    /// Windows whose roll-ups are sent.
    pub windows: BTreeSet<Window>,
    /// Aggregates of each metric that are sent.
    pub fields: Fields,
    /// Lines of one write at the most.
    pub batch_lines_max: usize,
    /// How writes are sent.
    pub encoding: Encoding,
    /// Time that one request may take.
    pub timeout: Duration,
    /// Longest wait between attempts.
    pub backoff_max: Duration,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// Sends the store everything that changes until `stop` says true; leaves within two seconds of that.
pub async fn run(options: Options, context: Context, part: Arc<Part>, mut stop: watch::Receiver<bool>) {
    let client = match Client::new(&options) {
        Ok(client) => client,
        Err(wrong) => {
            error!(sink = options.name, error = %wrong, "store cannot be written to");
            part.report(State::Down, wrong.to_string(), context.clock.now());
            return stopped(&mut stop).await;
        }
    };
    Sink::new(client, options, context, part, stop).run().await;
}

struct Counters {
    lines_written: Counter,
    lines_quarantined: Counter,
    lines_empty: Counter,
    requests: Counter,
    retries: Counter,
    bytes_sent: Counter,
    feed_behind: Counter,
    batches_read: Counter,
}

impl Counters {
    fn of(part: &Part) -> Self {
        Self {
            lines_written: part.counter("lines_written"),
            lines_quarantined: part.counter("lines_quarantined"),
            lines_empty: part.counter("lines_empty"),
            requests: part.counter("requests"),
            retries: part.counter("retries"),
            bytes_sent: part.counter("bytes_sent"),
            feed_behind: part.counter("feed_behind"),
            batches_read: part.counter("batches_read"),
        }
    }
}

/// The daemon stops.
struct Stopped;

/// How a batch ended.
enum Outcome {
    /// All of it is in the store, but for these lines.
    Delivered(Vec<Refusal>),
    /// It is to be read again.
    Again,
}

/// What was read after a place of a feed, and that place.
type Read = Result<(u64, Option<Prepared>), String>;

struct Sink<F> {
    client: F,
    desk: Desk,
    shared: Arc<(Options, Context)>,
    part: Arc<Part>,
    counters: Counters,
    backoff: Backoff,
    /// Lines of one write, lowered by every body that was too large.
    lines_max: usize,
    /// Place in each feed, once it was read.
    positions: [Option<u64>; 2],
    /// The next batch of each feed, on its way from our store. It begins where the batch before it ends, and is let go of
    /// where that is not settled at once.
    ahead: [Option<Pin<Box<dyn Future<Output = Read> + Send>>>; 2],
    /// Memory of batches that are done.
    spare: Spare,
    /// Says when the pipeline has written rows.
    flushes: watch::Receiver<()>,
    /// Whether making the bucket was tried since the last write that went well.
    bucket_tried: bool,
    /// Whether the log says already that a person is needed.
    operator_told: bool,
    stop: watch::Receiver<bool>,
}

impl<F: FarSide + 'static> Sink<F> {
    fn new(client: F, options: Options, context: Context, part: Arc<Part>, stop: watch::Receiver<bool>) -> Self {
        Self {
            client,
            desk: Desk::new(context.store.clone()),
            counters: Counters::of(&part),
            backoff: Backoff::new(options.backoff_max),
            lines_max: options.batch_lines_max,
            positions: [None, None],
            ahead: [None, None],
            spare: Spare::default(),
            flushes: context.flushes.clone(),
            bucket_tried: false,
            operator_told: false,
            shared: Arc::new((options, context)),
            part,
            stop,
        }
    }

    async fn run(mut self) {
        loop {
            let (mut behind, mut idle) = (0, true);
            for feed in [Feed::Rollup, Feed::Indicator] {
                match self.turn(feed).await {
                    Err(Stopped) => return,
                    Ok(None) => {}
                    Ok(Some(feed_behind)) => {
                        behind += feed_behind;
                        idle = false;
                    }
                }
            }
            self.counters.feed_behind.set(behind);
            if idle && self.idle().await.is_err() {
                return;
            }
        }
    }

    /// Sends the next batch of a feed and gives what is left behind it; `None` where there was nothing to send.
    async fn turn(&mut self, feed: Feed) -> Result<Option<u64>, Stopped> {
        let Some(Prepared { batch, body }) = self.next_batch(feed).await? else { return Ok(None) };
        if batch.behind > 0 {
            self.ahead[index(feed)] = Some(Box::pin(self.read(feed, Some(batch.position))));
        }
        let outcome = match body {
            None => Outcome::Delivered(Vec::new()),
            Some(body) => self.deliver(&batch, body).await?,
        };
        if let Outcome::Delivered(refused) = outcome {
            self.settle(feed, &batch, refused).await?;
        }
        self.spare.add(batch.lines);
        Ok(Some(batch.behind))
    }

    /// Begins to read the next batch after a place of a feed, or after the saved one.
    fn read(&self, feed: Feed, after: Option<u64>) -> impl Future<Output = Read> + Send + use<F> {
        let (shared, stop, lines_max) = (self.shared.clone(), self.stop.clone(), self.lines_max);
        let (batches_read, spare) = (self.counters.batches_read.clone(), self.spare.clone());
        self.desk.with(move |reader, writer| {
            let (options, context) = &*shared;
            let after = after.map_or_else(|| writer.position(&options.name, feed), Ok)?;
            let batch = feed::next(reader, (feed, after), options, context, &stop, &spare)?;
            batches_read.add(u64::from(batch.is_some()));
            Ok((after, batch.map(|batch| Prepared::new(batch, lines_max, options.encoding))))
        })
    }

    async fn next_batch(&mut self, feed: Feed) -> Result<Option<Prepared>, Stopped> {
        loop {
            let known = self.positions[index(feed)];
            let read = match self.ahead[index(feed)].take() {
                Some(ahead) => ahead.await,
                None => self.read(feed, known).await,
            };
            match read {
                _ if *self.stop.borrow() => return Err(Stopped),
                Ok((after, batch)) => {
                    self.positions[index(feed)] = Some(after);
                    return Ok(batch);
                }
                Err(reason) => self.store_trouble(reason).await?,
            }
        }
    }

    /// Brings a batch to the store, however long it takes once the store has taken some of it; until then it is read
    /// again after each wait.
    async fn deliver(&mut self, batch: &Batch, first: (Range<usize>, Body)) -> Result<Outcome, Stopped> {
        let mut delivery = Delivery::new(batch.lines.len(), self.lines_max);
        let mut ready = Some(first);
        self.counters.feed_behind.set(batch.behind + batch.lines.len() as u64);
        loop {
            let part = match delivery.next() {
                Next::Send(part) => part,
                Next::Done(refused) => {
                    self.counters.lines_written.add(delivery.written() as u64);
                    return Ok(Outcome::Delivered(refused));
                }
                Next::Unproven(reason) => {
                    self.operator_trouble(400, &reason).await?;
                    return Ok(Outcome::Again);
                }
            };
            let body = match ready.take() {
                Some((range, body)) if range == part => body,
                _ => Body::of(&batch.lines, part.clone(), self.shared.0.encoding),
            };
            let answer = self.send(&body).await?;
            ready = Some((part, body));
            let trouble = delivery.answered(answer, &batch.lines);
            self.lines_max = delivery.lines_max();
            let Some(trouble) = trouble else {
                self.backoff.succeeded();
                continue;
            };
            match trouble {
                Trouble::Passing(reason) => self.passing_trouble(reason).await?,
                Trouble::Operator { status, reason } => self.operator_trouble(status, &reason).await?,
            }
            if delivery.is_untouched() {
                return Ok(Outcome::Again);
            }
        }
    }

    async fn send(&mut self, body: &Body) -> Result<Answer, Stopped> {
        if *self.stop.borrow() {
            return Err(Stopped);
        }
        self.counters.requests.add(1);
        self.counters.bytes_sent.add(body.len() as u64);
        let stop = &mut self.stop;
        let leave = async {
            stopped(stop).await;
            time::sleep(LEAVE).await;
        };
        tokio::select! {
            answer = self.client.write(body) => Ok(answer),
            () = leave => Err(Stopped),
        }
    }

    /// Notes that a batch is in the store, and the lines that it does not take.
    async fn settle(&mut self, feed: Feed, batch: &Batch, refused: Vec<Refusal>) -> Result<(), Stopped> {
        let (at, position) = (self.shared.1.clock.now(), batch.position);
        let sink: Arc<str> = Arc::from(self.shared.0.name.as_str());
        let lines: Arc<[Quarantined]> = refused
            .iter()
            .map(|Refusal { line, reason }| {
                let line = batch.lines.get(*line).unwrap_or_default();
                let line = line[..line.floor_char_boundary(QUARANTINED_BYTES_MAX)].to_owned();
                Quarantined { at, sink: sink.clone(), line, reason: reason.clone() }
            })
            .collect();
        loop {
            let (sink, lines) = (sink.clone(), lines.clone());
            let noted = self.desk.with(move |_, writer| {
                lines.iter().try_for_each(|line| writer.quarantine(line))?;
                writer.set_position(&sink, feed, position)
            });
            match noted.await {
                Ok(()) => break,
                Err(reason) => self.store_trouble(reason).await?,
            }
        }
        self.positions[index(feed)] = Some(position);
        self.counters.lines_empty.add(batch.empty);
        self.counters.lines_quarantined.add(lines.len() as u64);
        if !batch.lines.is_empty() {
            self.works(&lines);
        }
        Ok(())
    }

    fn works(&mut self, quarantined: &[Quarantined]) {
        (self.bucket_tried, self.operator_told) = (false, false);
        self.part.set_troubles(Vec::new());
        let (name, url) = (&self.shared.0.name, &self.shared.0.url);
        let now = self.shared.1.clock.now();
        match quarantined.first() {
            None => {
                if self.part.report(State::Up, format!("writing to {url}"), now) {
                    info!(sink = name, url, "store takes rows");
                }
            }
            Some(Quarantined { line, reason, .. }) => {
                let detail = format!("{url} refused {} lines of the last batch: {reason}", quarantined.len());
                if self.part.report(State::Degraded, detail, now) {
                    warn!(
                        sink = name,
                        lines = quarantined.len(),
                        line,
                        reason,
                        "store refused lines, they are in quarantine"
                    );
                }
            }
        }
    }

    /// Lets go of what was read ahead: it will be old when its turn comes.
    fn forget_ahead(&mut self) {
        self.ahead = [None, None];
    }

    async fn passing_trouble(&mut self, reason: String) -> Result<(), Stopped> {
        self.forget_ahead();
        self.counters.retries.add(1);
        let detail = format!("{}: {reason}; trying again, nothing is lost", self.shared.0.url);
        if self.part.report(State::Down, detail, self.shared.1.clock.now()) {
            warn!(sink = self.shared.0.name, reason, "store cannot be written to");
        }
        let wait = self.backoff.failed(fastrand::f64());
        self.trouble(reason, wait);
        self.wait(wait).await
    }

    /// Says what keeps failing, and that it is tried again after `wait`.
    fn trouble(&self, reason: String, wait: Duration) {
        let (options, context) = &*self.shared;
        let next = context.clock.now().plus_millis(millis(wait));
        self.part.set_trouble(options.url.as_str(), reason, self.backoff.failures(), Some(next));
    }

    /// Our own store failed: the disk is full or gone.
    async fn store_trouble(&mut self, reason: String) -> Result<(), Stopped> {
        self.forget_ahead();
        if self.part.report(State::Down, reason.clone(), self.shared.1.clock.now()) {
            error!(sink = self.shared.0.name, reason, "sink cannot use the embedded store");
        }
        let wait = self.backoff.failed(fastrand::f64());
        self.trouble(reason, wait);
        self.wait(wait).await
    }

    async fn operator_trouble(&mut self, status: u16, reason: &str) -> Result<(), Stopped> {
        self.forget_ahead();
        self.counters.retries.add(1);
        let mut detail = self.advice(status, reason);
        if status == 404 && self.shared.0.create_bucket && !self.bucket_tried {
            self.bucket_tried = true;
            let stop = &mut self.stop;
            let made = tokio::select! {
                made = self.client.create_bucket() => made,
                () = stopped(stop) => return Err(Stopped),
            };
            match made {
                Ok(()) => {
                    info!(sink = self.shared.0.name, bucket = self.shared.0.bucket, "bucket made");
                    return Ok(());
                }
                Err(refused) => detail = format!("{detail}. Making it failed: {refused}"),
            }
        }
        self.part.report(State::Down, detail.as_str(), self.shared.1.clock.now());
        if !std::mem::replace(&mut self.operator_told, true) {
            error!(sink = self.shared.0.name, detail, "store refuses to be written to, an operator is needed");
        }
        let wait = self.backoff.slow(fastrand::f64());
        self.trouble(detail, wait);
        self.wait(wait).await
    }

    /// What a person is to do about a refusal.
    fn advice(&self, status: u16, reason: &str) -> String {
        let Options { url, org, bucket, .. } = &self.shared.0;
        let todo = match status {
            401 => "check the token".to_owned(),
            403 => format!("give the token the right to write to bucket {bucket:?}"),
            404 => format!("create bucket {bucket:?} in organisation {org:?}, or correct their names"),
            400 => format!(
                "no line of the batch is taken and none is named, so check bucket {bucket:?} and organisation {org:?}"
            ),
            _ => "check that the address is that of the store's write API".to_owned(),
        };
        format!("{url} answers HTTP {status}: {reason}; {todo}; rows are kept until then")
    }

    /// Waits for what may have brought rows.
    async fn idle(&mut self) -> Result<(), Stopped> {
        let flushes = &mut self.flushes;
        let rows_may_be_there = async {
            if flushes.changed().await.is_err() {
                // The pipeline has ended.
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = rows_may_be_there => Ok(()),
            () = time::sleep(IDLE) => Ok(()),
            () = stopped(&mut self.stop) => Err(Stopped),
        }
    }

    async fn wait(&mut self, span: Duration) -> Result<(), Stopped> {
        tokio::select! {
            () = time::sleep(span) => Ok(()),
            () = stopped(&mut self.stop) => Err(Stopped),
        }
    }
}

const fn index(feed: Feed) -> usize {
    match feed {
        Feed::Rollup => 0,
        Feed::Indicator => 1,
    }
}
