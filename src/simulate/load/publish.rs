//! The thread that sends: how much is due, and whose turn it is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::deck::{Deck, Rules};
use super::template::dealt;
use super::{CpuTime, Error, EventTime, Fleet, Qos, Share, cpu_time, io_error};
use crate::clock::Clock;

/// How long to sleep when nothing moves, and between turns where a rate is kept.
const NAP: Duration = Duration::from_millis(1);
/// Packets of a connection's turn where no rate is kept, so that all connections have theirs.
const TURN_PACKETS_MAX: u64 = 4_096;
/// Time that the broker has at the end to acknowledge the rest.
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(30);

/// What is to be sent.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The broker.
    pub broker: SocketAddr,
    /// The city.
    pub fleet: Fleet,
    /// Messages a second; as fast as the broker takes them without it.
    pub rate: Option<f64>,
    /// Quality of service.
    pub qos: Qos,
    /// Connections to the broker.
    pub connections: usize,
    /// Packets of one connection that may wait for their acknowledgement.
    pub window: usize,
    /// Share of messages that come late, and by how much.
    pub late: Share,
    /// How late those are.
    pub late_by: Duration,
    /// Share of messages that are sent twice.
    pub repeat: Share,
    /// Which time messages are of.
    pub time: EventTime,
    /// After how long to end.
    pub duration: Option<Duration>,
    /// After how many messages to end, repeats included.
    pub messages_max: Option<u64>,
    /// Seed of order, values and chances.
    pub seed: u64,
}

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    /// Messages, repeats included and those not that are sent again after a break.
    pub published: u64,
    /// Messages without repeats.
    pub distinct: u64,
    /// Of those, the ones that came late.
    pub late: u64,
    /// Messages that repeat another.
    pub repeated: u64,
    /// Acknowledgements.
    pub acked: u64,
    /// Messages that were sent again after a break.
    pub resent: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// Messages that the broker may not have.
    pub waiting: u64,
    /// Messages by which the rate was missed.
    pub behind: u64,
    /// Time since the start.
    pub elapsed: Duration,
    /// CPU time of the process since then.
    pub cpu: CpuTime,
}

/// A load while it is made.
#[derive(Debug)]
pub struct Load {
    sent: Arc<Mutex<Sent>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    cpu: CpuTime,
}

impl Load {
    /// Encodes the messages, connects, and begins to send.
    ///
    /// # Errors
    /// [`Error`] where the broker takes no connection, or the system gives no thread.
    pub fn start(options: LoadOptions) -> Result<Self, Error> {
        let LoadOptions { time, late, repeat, .. } = options;
        let late_by_ms = u64::try_from(options.late_by.as_millis()).unwrap_or(u64::MAX);
        let rules = Rules { time, late, late_by_ms, repeat };
        let hands = dealt(options.fleet, options.connections, options.seed);
        let mut sites_before = 0;
        let lane = |(index, members): (usize, Vec<_>)| {
            let sites = sites_before..sites_before + members.len() as u64;
            sites_before = sites.end;
            // Every site gets its share, whoever is faster.
            let of_all = |sites: u64| part(options.messages_max.unwrap_or(u64::MAX), sites, options.fleet.sites);
            let packets_max = of_all(sites.end) - of_all(sites.start);
            let deck = Deck::new(&members, options.qos, rules, options.seed.wrapping_add(index as u64));
            let client_id = format!("sitepulse-simulate-{}-{index}", std::process::id());
            let connection = Connection::open(options.broker, client_id, options.qos, options.window)?;
            Ok(Lane { deck, connection, packets_max })
        };
        let lanes = hands.into_iter().enumerate().map(lane).collect::<Result<Vec<_>, Error>>()?;
        let (sent, stop) = (Arc::<Mutex<Sent>>::default(), Arc::<AtomicBool>::default());
        let sender = Sender { lanes, turn: 0, begun: Instant::now(), sent: sent.clone(), options };
        let cpu = cpu_time();
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("simulate".to_owned()).spawn(move || sender.run(&stopped));
        Ok(Self { sent, stop, thread: thread.map_err(io_error("start a thread"))?, cpu })
    }

    /// What was sent so far.
    #[must_use]
    pub fn sent(&self) -> Sent {
        let sent = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        Sent { cpu: cpu_time().since(self.cpu), ..sent }
    }

    /// Whether all is sent.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Sends nothing new, waits for the broker to acknowledge the rest, and says what was sent.
    #[must_use]
    pub fn finish(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the thread that sends failed");
        }
        let sent = *self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        Sent { cpu: cpu_time().since(self.cpu), ..sent }
    }
}

/// A connection with the sites that are behind it.
struct Lane {
    deck: Deck,
    connection: Connection,
    packets_max: u64,
}

struct Sender {
    lanes: Vec<Lane>,
    turn: usize,
    begun: Instant,
    sent: Arc<Mutex<Sent>>,
    options: LoadOptions,
}

impl Sender {
    fn run(mut self, stop: &AtomicBool) {
        let until = self.options.duration.map(|span| self.begun + span);
        let mut behind = 0;
        while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            if self.lanes.iter().all(|lane| lane.left() == 0) {
                break;
            }
            let moved = match self.options.rate {
                Some(rate) => {
                    behind = self.paced_turn(rate);
                    false
                }
                None => self.lanes.iter_mut().fold(false, |moved, lane| moved | lane.turn(TURN_PACKETS_MAX)),
            };
            self.tell(behind);
            if !moved {
                thread::sleep(NAP);
            }
        }
        let deadline = Instant::now() + LAST_ACKS_TIMEOUT;
        while self.waiting() > 0 && Instant::now() < deadline {
            let moved = self.lanes.iter_mut().fold(false, |moved, lane| moved | lane.turn(0));
            self.tell(behind);
            if !moved {
                thread::sleep(NAP);
            }
        }
        self.tell(behind);
    }

    /// One connection sends what it owes by now, so that writes are large and few. Returns what all owe.
    fn paced_turn(&mut self, rate: f64) -> u64 {
        let due = whole(self.begun.elapsed().as_secs_f64() * rate);
        self.turn = (self.turn + 1) % self.lanes.len();
        let lane = &mut self.lanes[self.turn];
        let of_lane = part(due, lane.deck.sites() as u64, self.options.fleet.sites);
        lane.turn(of_lane.saturating_sub(lane.connection.tally().packets));
        due.min(self.options.messages_max.unwrap_or(u64::MAX)).saturating_sub(self.packets())
    }

    fn packets(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.connection.tally().packets).sum()
    }

    fn waiting(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.connection.waiting() as u64).sum()
    }

    fn tell(&self, behind: u64) {
        let mut sent = Sent { waiting: self.waiting(), behind, elapsed: self.begun.elapsed(), ..Sent::default() };
        for lane in &self.lanes {
            let (tally, dealt) = (lane.connection.tally(), lane.deck.dealt());
            sent.published += tally.packets;
            sent.acked += tally.acked;
            sent.resent += tally.resent;
            sent.breaks += tally.breaks;
            sent.distinct += dealt.distinct;
            sent.late += dealt.late;
            sent.repeated += dealt.repeated;
        }
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = sent;
    }
}

impl Lane {
    fn turn(&mut self, packets_max: u64) -> bool {
        let now_ms = u64::try_from(Clock::system().now().as_millis()).unwrap_or(0);
        let packets_max = packets_max.min(self.left());
        self.connection.turn(&mut self.deck, now_ms, packets_max)
    }

    fn left(&self) -> u64 {
        self.packets_max.saturating_sub(self.connection.tally().packets)
    }
}

/// What of `all` falls to `sites` of so many sites.
fn part(all: u64, sites: u64, of: usize) -> u64 {
    u64::try_from(u128::from(all) * u128::from(sites) / of as u128).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count that is not negative")]
fn whole(value: f64) -> u64 {
    value as u64
}
