//! The thread of one MQTT source: dials, reads, writes, waits.
//!
//! Reads all there is and naps a millisecond when the socket is dry: behind a real broker, which writes packet by packet,
//! the cost is in the wake-ups (docs/adr/0002-own-mqtt-connection-loop.md). Where naps bring nothing it waits for the
//! socket, or the journal's word, instead. What the protocol asks for is decided in `session`; here are the socket, the
//! clock and the reports.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::health::{Counter, Part, State, Trouble};
use crate::journal::{Inlet, RefusedCause};
use crate::model::millis;

use super::Options;
use super::ack_waits::AckCounters;
use super::assembler::{Assembler, Body, Message};
use super::bell::Bell;
use super::dial::{DialError, Dialler};
use super::intake::{Intake, Settlement};
use super::rival::{Ending, RivalWatch};
use super::session::{Epoch, Event, Failure, Session, Shortfalls};

/// How long to sleep when the socket is dry; more and more, up to the second, while the journal takes nothing for long.
const NAP: Duration = Duration::from_millis(1);
const BLOCKED_NAP_MAX: Duration = Duration::from_millis(10);

/// Naps in a row that bring nothing, before it waits until something comes.
const DRY_NAPS_MAX: u32 = 2;
/// How long such a wait may take: a stop, and what the protocol asks for by time, is noticed so soon.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(200);

/// How long to sleep while an attempt is under way, and between attempts.
const DIAL_NAP_MAX: Duration = Duration::from_millis(10);
const PAUSE_NAP_MAX: Duration = Duration::from_millis(50);

/// How often a batch is offered again that the full journal refused.
const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// What one read asks for, and how many reads may follow each other before acknowledgements and pings have their turn.
const CHUNK_BYTES: usize = 64 * 1024;
const READS_IN_A_ROW_MAX: usize = 16;

/// Bytes for a broker that takes none, at which we stop giving it reason for more.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// How long a connection has to hold for the waits between attempts to start over.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// How long a stop waits for the journal, and then for the broker to take leave.
const STOP_JOURNAL_TIMEOUT: Duration = Duration::from_secs(3);
const STOP_BROKER_TIMEOUT: Duration = Duration::from_millis(500);

/// The source's counters.
struct Counters {
    messages: Counter,
    bytes: Counter,
    acks: AckCounters,
    oversize: Counter,
    connects: Counter,
    disconnects: Counter,
    protocol_errors: Counter,
    refused: Counter,
}

/// One connection over some stream that never blocks.
pub(super) struct Link<S> {
    stream: S,
    assembler: Assembler,
    session: Session,
    subscribed_at: Option<Instant>,
    heard_at: Instant,
}

impl<S: Read + Write> Link<S> {
    /// How long to sleep while nothing may be read.
    fn blocked_nap(&self, now: Instant) -> Duration {
        if self.session.has_outstanding() {
            return NAP;
        }
        (now.duration_since(self.heard_at) / 16).clamp(NAP, BLOCKED_NAP_MAX)
    }

    /// Writes what is due, all of it in one write where the socket takes it.
    fn write(&mut self, now: Instant) -> Result<(), Failure> {
        while !self.session.output().is_empty() {
            match self.stream.write(self.session.output()) {
                Ok(0) => return Err(Failure::ClosedByBroker),
                Ok(count) => self.session.written(count, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        Ok(())
    }
}

/// Whether the socket had more than was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    Dry,
    More,
}

/// What keeps the thread running, and all it knows.
pub(super) struct Driver {
    options: Options,
    clock: Clock,
    part: Arc<Part>,
    stop: Arc<AtomicBool>,
    counters: Counters,
    intake: Intake,
    settlements: Receiver<Settlement>,
    /// Rings for each settlement.
    bell: Arc<Bell>,
    dialler: Dialler,
    backoff: Backoff,
    rival: RivalWatch,
    epoch: Epoch,
    chunk: Vec<u8>,
    /// What there is to say about the connection while the journal takes everything.
    standing: (State, String),
    /// Why the journal takes nothing, where that has been reported.
    blocked: Option<RefusedCause>,
    retry_at: Instant,
}

impl Driver {
    pub(super) fn new(options: Options, inlet: Inlet, clock: Clock, part: Arc<Part>, stop: Arc<AtomicBool>) -> Self {
        let counters = Counters {
            messages: part.counter("messages"),
            bytes: part.counter("bytes"),
            acks: AckCounters::of(&part),
            oversize: part.counter("oversize"),
            connects: part.counter("connects"),
            disconnects: part.counter("disconnects"),
            protocol_errors: part.counter("protocol_errors"),
            refused: part.counter("refused"),
        };
        let (sender, settlements) = mpsc::channel();
        let bell = Arc::new(Bell::new());
        Self {
            intake: Intake::new(options.name.clone(), inlet, sender, bell.clone()),
            bell,
            dialler: Dialler::new(&options.host, options.port),
            backoff: Backoff::new(options.backoff_max),
            rival: RivalWatch::new(STEADY_AFTER, options.backoff_max),
            epoch: Epoch::default(),
            chunk: vec![0; CHUNK_BYTES],
            standing: (State::Starting, String::new()),
            blocked: None,
            retry_at: Instant::now(),
            options,
            clock,
            part,
            stop,
            counters,
            settlements,
        }
    }

    /// Keeps connected until the stop flag is set.
    pub(super) fn run(mut self) {
        while !self.is_stopping() {
            let Err(failure) = self.connect_and_converse() else { break };
            if failure.is_protocol_error() {
                self.counters.protocol_errors.add(1);
            }
            let wait = self.backoff.failed(fastrand::f64());
            let place = self.place();
            self.standing = (State::Down, format!("{place}: {failure}; next attempt in {} ms", wait.as_millis()));
            self.report();
            let next = self.clock.now().plus_millis(millis(wait));
            self.part.set_trouble(place, failure.to_string(), self.backoff.failures(), Some(next));
            self.wait(wait);
        }
        self.part.report(State::Down, "stopped", self.clock.now());
    }

    /// One connection from dialling to its end; `Ok` when it ended because of the stop flag.
    fn connect_and_converse(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.options.connect_timeout;
        let dialled = self.dial(deadline).inspect_err(|_| self.rival.ended(Ending::Explained));
        let Some(stream) = dialled? else { return Ok(()) };
        // The acknowledgements of a turn are one small write; they must not wait for the broker's TCP to answer.
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut link = self.link(stream, deadline, Instant::now())?;
        let outcome = self.converse(&mut link);
        let held = link.subscribed_at.map(|since| since.elapsed());
        if let Some(held) = held {
            self.counters.disconnects.add(1);
            if held >= self.rival.holds_after() {
                self.backoff.succeeded();
            }
        }
        self.rival.ended(match (&outcome, held) {
            (Err(failure), Some(held)) if failure.is_closed_by_broker() => Ending::Closed { held },
            (Err(failure), None) if failure.is_closed_by_broker() => Ending::ClosedEarly,
            _ => Ending::Explained,
        });
        outcome
    }

    /// Begins the next connection over `stream`; CONNACK has to come before `deadline`.
    pub(super) fn link<S>(&mut self, stream: S, deadline: Instant, now: Instant) -> Result<Link<S>, Failure> {
        self.epoch = Epoch(self.epoch.0 + 1);
        let session = Session::new(&self.options, self.epoch, deadline, now)?;
        let assembler = Assembler::new(self.options.packet_bytes_max);
        Ok(Link { stream, assembler, session, subscribed_at: None, heard_at: now })
    }

    fn dial(&mut self, deadline: Instant) -> Result<Option<TcpStream>, DialError> {
        let began = Instant::now();
        self.dialler.begin(deadline)?;
        while !self.is_stopping() {
            if let Some(outcome) = self.dialler.outcome() {
                return outcome.map(Some);
            }
            if Instant::now() >= deadline + DIAL_NAP_MAX {
                return Err(DialError::TimedOut);
            }
            self.turn_without_link(Instant::now());
            thread::sleep((began.elapsed() / 16).clamp(NAP, DIAL_NAP_MAX));
        }
        Ok(None)
    }

    fn converse(&mut self, link: &mut Link<TcpStream>) -> Result<(), Failure> {
        let mut dry_naps = 0;
        while !self.is_stopping() {
            let now = Instant::now();
            let socket = self.turn(link, now)?;
            self.watch_for_rival(link.subscribed_at, now);
            if socket == Socket::More || link.heard_at == now {
                dry_naps = 0;
            }
            if socket == Socket::More {
                continue;
            }
            // What may not be read, or not be written yet, would end a wait at once, or nothing would.
            if self.intake.is_holding() || !link.session.output().is_empty() {
                thread::sleep(link.blocked_nap(now));
            } else if dry_naps < DRY_NAPS_MAX {
                dry_naps += 1;
                thread::sleep(NAP);
            } else {
                self.wait_for_either(link, QUIET_WAIT_MAX)?;
            }
        }
        if let Err(failure) = self.take_leave(link) {
            debug!(source = %self.options.name, %failure, "mqtt connection ended before it was closed");
        }
        Ok(())
    }

    /// Waits for the socket or for the journal, now that naps bring nothing. Returns whether anything came.
    fn wait_for_either(&mut self, link: &mut Link<TcpStream>, time_max: Duration) -> Result<bool, Failure> {
        self.bell.listen();
        // What was settled before the bell was listened for does not ring it.
        Ok(self.settle(link, Instant::now())? > 0 || self.bell.wait(&link.stream, time_max, NAP))
    }

    /// One round: hears from the journal, reads, keeps time, writes. Never blocks.
    pub(super) fn turn<S: Read + Write>(&mut self, link: &mut Link<S>, now: Instant) -> Result<Socket, Failure> {
        self.settle(link, now)?;
        let socket = self.take_in(link, now)?;
        link.session.tick(now)?;
        link.write(now)?;
        Ok(socket)
    }

    /// Hears from the journal what is on disk. Returns how many batches it told of.
    fn settle<S>(&mut self, link: &mut Link<S>, now: Instant) -> Result<usize, Failure> {
        let mut told = 0;
        while let Ok(settlement) = self.settlements.try_recv() {
            self.intake.take_back(settlement.frames);
            link.session.settle(settlement.epoch, settlement.batch, settlement.fate, now)?;
            told += 1;
        }
        self.counters.acks.add(&link.session.take_acks());
        Ok(told)
    }

    /// Reads unless the journal or the broker takes nothing: then TCP holds the broker back.
    fn take_in<S: Read + Write>(&mut self, link: &mut Link<S>, now: Instant) -> Result<Socket, Failure> {
        self.retry_held(now);
        if self.intake.is_holding() || link.session.output().len() > OUTPUT_BYTES_MAX {
            link.session.not_listening(now);
            return Ok(Socket::Dry);
        }
        let read = self.read(link, now);
        // Also after a failure: what came whole before it is good.
        if !self.intake.is_holding() {
            self.submit(&mut link.session, now);
        }
        read
    }

    fn read<S: Read + Write>(&mut self, link: &mut Link<S>, now: Instant) -> Result<Socket, Failure> {
        // Packets may be left over from before the journal refused a batch.
        self.take_packets(link, now)?;
        for _ in 0..READS_IN_A_ROW_MAX {
            if self.intake.is_holding() {
                break;
            }
            let count = match link.stream.read(&mut self.chunk) {
                Ok(0) => return Err(Failure::ClosedByBroker),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Socket::Dry),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Io(error)),
            };
            self.counters.bytes.add(count as u64);
            link.session.heard();
            link.heard_at = now;
            link.assembler.feed(&self.chunk[..count]);
            self.take_packets(link, now)?;
            if count < CHUNK_BYTES {
                return Ok(Socket::Dry);
            }
        }
        Ok(Socket::More)
    }

    fn take_packets<S>(&mut self, link: &mut Link<S>, now: Instant) -> Result<(), Failure> {
        let arrival = self.clock.now();
        while !self.intake.is_holding() {
            let Some(packet) = link.assembler.next()? else { break };
            match link.session.take(packet, now)? {
                Event::None => {}
                Event::Subscribed { first, shortfalls } => {
                    if first {
                        link.subscribed_at = Some(now);
                        self.counters.connects.add(1);
                    }
                    self.subscribed(&shortfalls);
                }
                Event::Message(message) => {
                    self.count(&message);
                    self.intake.gather(&message, arrival);
                    if self.intake.is_batch_full() {
                        self.submit(&mut link.session, now);
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&self, message: &Message) {
        self.counters.messages.add(1);
        if matches!(message.body, Body::Oversize(_)) {
            self.counters.oversize.add(1);
        }
    }

    fn subscribed(&mut self, shortfalls: &Shortfalls) {
        let refused = shortfalls.refused.iter().map(|filter| format!("the broker refused topic filter {filter:?}"));
        let lowered =
            shortfalls.lowered.iter().map(|filter| format!("the broker serves topic filter {filter:?} at QoS 0 only"));
        let words: Vec<_> = refused.chain(lowered).collect();
        self.note_refused(shortfalls);
        let detail = format!("connected to {}, {} filters", self.place(), self.options.topics.len());
        self.standing = if words.is_empty() {
            (State::Up, detail)
        } else {
            (State::Degraded, format!("{detail}; {}; check the broker's access rules", words.join("; ")))
        };
        self.report();
    }

    /// Ends the suspicion of a rival when the connection has held for long enough.
    fn watch_for_rival(&mut self, subscribed_at: Option<Instant>, now: Instant) {
        let held = subscribed_at.map(|since| now.duration_since(since));
        if held.is_some_and(|held| held >= self.rival.holds_after()) && self.rival.held() {
            self.report();
        }
    }

    /// Names the filters that the broker refuses, each since when and how often.
    fn note_refused(&self, shortfalls: &Shortfalls) {
        let now = self.clock.now();
        let earlier = self.part.snapshot().troubles;
        let trouble = |filter: &String| {
            let subject = format!("topic filter {filter:?}");
            let before = earlier.iter().find(|trouble| trouble.subject == subject);
            Trouble {
                reason: "the broker refuses the subscription; check its access rules".to_owned(),
                since: before.map_or(now, |trouble| trouble.since),
                count: before.map_or(0, |trouble| trouble.count) + 1,
                next: shortfalls.next.map(|span| now.plus_millis(millis(span))),
                subject,
            }
        };
        self.part.set_troubles(shortfalls.refused.iter().map(trouble).collect());
    }

    fn submit(&mut self, session: &mut Session, now: Instant) {
        let refusal = self.intake.submit(session, now);
        if refusal.is_some() {
            self.counters.refused.add(1);
        }
        self.note_refusal(refusal, now);
    }

    /// What goes on without a connection. Nobody is acknowledged: what is settled is of one that has ended.
    pub(super) fn turn_without_link(&mut self, now: Instant) {
        self.settlements.try_iter().for_each(|settlement| self.intake.take_back(settlement.frames));
        self.retry_held(now);
    }

    fn retry_held(&mut self, now: Instant) {
        if self.intake.is_holding() && now >= self.retry_at {
            let refusal = self.intake.retry();
            self.note_refusal(refusal, now);
        }
    }

    fn note_refusal(&mut self, refusal: Option<RefusedCause>, now: Instant) {
        let pause = if refusal == Some(RefusedCause::Busy) { NAP } else { FULL_RETRY_INTERVAL };
        self.retry_at = now + pause;
        // A busy journal is back in a moment and worth no report.
        let blocked = refusal.filter(|&cause| cause != RefusedCause::Busy);
        if blocked != self.blocked {
            self.blocked = blocked;
            self.report();
        }
    }

    /// Acknowledges what the journal still gets on disk in time, then closes. The rest the broker delivers again.
    fn take_leave(&mut self, link: &mut Link<TcpStream>) -> Result<(), Failure> {
        let deadline = Instant::now() + STOP_JOURNAL_TIMEOUT;
        while link.session.has_outstanding() && self.blocked.is_none() && Instant::now() < deadline {
            self.retry_held(Instant::now());
            self.settle(link, Instant::now())?;
            link.write(Instant::now())?;
            thread::sleep(NAP);
        }
        link.session.disconnect(Instant::now())?;
        let deadline = Instant::now() + STOP_BROKER_TIMEOUT;
        while !link.session.output().is_empty() && Instant::now() < deadline {
            link.write(Instant::now())?;
            thread::sleep(NAP);
        }
        // Closing with unread bytes would reset the connection, and could cost the broker our last acknowledgements.
        link.stream.shutdown(Shutdown::Write)?;
        while Instant::now() < deadline {
            match link.stream.read(&mut self.chunk) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(NAP),
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        Ok(())
    }

    /// Waits before the next attempt, and until the journal has taken the held batch: a new connection would only bring
    /// more that cannot be placed.
    fn wait(&mut self, span: Duration) {
        let until = Instant::now() + span;
        while !self.is_stopping() && (Instant::now() < until || self.intake.is_holding()) {
            self.turn_without_link(Instant::now());
            // A refused batch is offered again as often as while there is a connection.
            let nap_max = if self.intake.is_holding() { DIAL_NAP_MAX } else { PAUSE_NAP_MAX };
            thread::sleep(until.saturating_duration_since(Instant::now()).clamp(NAP, nap_max));
        }
    }

    fn report(&self) {
        let (state, detail) = &self.standing;
        let (state, detail) = match self.blocked {
            Some(RefusedCause::Full) => {
                let reason = "the journal is full, nothing more is read until the store has passed some of it";
                (if *state == State::Up { State::Degraded } else { *state }, format!("{detail}; {reason}"))
            }
            Some(RefusedCause::Closed) => (State::Down, format!("{detail}; the journal is closed")),
            // With a rival it works by turns: one state for as long as that lasts, so one line in the log.
            Some(RefusedCause::Busy) | None if self.rival.suspects() => {
                let rival =
                    format!("another client seems to use client_id {:?} on this broker", self.options.client_id);
                let advice = "it closes each connection after a short while; give each collector its own client_id";
                (State::Degraded, format!("{rival}: {advice}; {detail}"))
            }
            Some(RefusedCause::Busy) | None => (*state, detail.clone()),
        };
        if self.part.report(state, detail.clone(), self.clock.now()) {
            let source = &self.options.name;
            match state {
                State::Up | State::Starting => info!(%source, detail, "mqtt source is up"),
                State::Degraded => warn!(%source, detail, "mqtt source is degraded"),
                State::Down => warn!(%source, detail, "mqtt source is down"),
            }
        }
    }

    fn place(&self) -> String {
        let Options { host, port, .. } = &self.options;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
