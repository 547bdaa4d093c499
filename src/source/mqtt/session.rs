//! The protocol of one connection, from CONNECT to DISCONNECT.
//!
//! Owns what is still to be acknowledged and the bytes still to be written. Acknowledgements leave in the order in which
//! the messages came (MQTT-4.6.0-2), whatever the order of the receipts. Pure: never touches a socket, and `now` is an
//! argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, PingReq, PubAck, SubAck, Subscribe, SubscribeFilter,
    SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error as CodecError, QoS};

use super::Options;
use super::ack_waits::AckWaits;
use super::assembler::{Incoming, Malformed, Message};
use super::dial::DialError;
use crate::backoff::Backoff;

/// The packet identifier of our only SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

/// Wait before a filter that the broker refused is asked for again, on the same connection, and the longest one: its
/// access rules may have been put right meanwhile.
const REFUSED_FIRST: Duration = Duration::from_secs(30);
const REFUSED_LONGEST: Duration = Duration::from_mins(30);

/// Shortest keep-alive that is used, so that a tiny one floods nobody with pings.
const KEEP_ALIVE_MIN: Duration = Duration::from_millis(50);

/// Which connection: receipts of an earlier one acknowledge nothing on this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch(pub(super) u64);

/// A batch's number within its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchNumber(u64);

/// Why a connection ended. Every text tells the operator what to do, where there is something to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the broker refused the user name or password; check `user` and `password_env` or `password_file`")]
    BadLogin,
    #[error("the broker does not authorise this client; give it `user` and a password, or rights on the broker")]
    NotAuthorised,
    #[error("the broker rejected client id {0:?}; choose another `client_id`")]
    ClientIdRejected(String),
    #[error("the broker refused the connection: {0}")]
    Refused(&'static str),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the broker broke the protocol: {0}")]
    OutOfTurn(&'static str),
    #[error("the broker did not answer {0} in time")]
    Silent(&'static str),
    #[error("the broker takes nothing from us any more")]
    WriteStalled,
    #[error("the broker closed the connection")]
    ClosedByBroker,
    #[error("the journal gave up a batch; the broker has to deliver it again")]
    JournalGaveUp,
    #[error("a packet of ours cannot be written: {0}")]
    Encode(#[source] CodecError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

impl Failure {
    /// Whether the broker closed the connection and gave no reason.
    pub(super) fn is_closed_by_broker(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match self {
            Self::ClosedByBroker => true,
            Self::Io(error) => matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset),
            _ => false,
        }
    }

    /// Whether the broker sent what it must not.
    pub(super) fn is_protocol_error(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::OutOfTurn(_))
    }
}

/// What became of a batch in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All its frames are on disk.
    Kept,
    /// The journal dropped it; the broker still has it.
    GivenUp,
}

/// What the driver has to do about a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing.
    None,
    /// Tell that the subscriptions stand, for the first time on this connection or once more.
    Subscribed { first: bool, shortfalls: Shortfalls },
    /// Journal the message.
    Message(Message),
}

/// The filters that are not served at QoS 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shortfalls {
    /// Not served at all.
    pub(super) refused: Vec<String>,
    /// Served at QoS 0 only.
    pub(super) lowered: Vec<String>,
    /// Time until those that were refused are asked for again.
    pub(super) next: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// CONNECT is sent.
    Connecting,
    /// SUBSCRIBE is sent.
    Subscribing { since: Instant },
    /// SUBACK is here.
    Subscribed,
    /// SUBSCRIBE is sent again, for the filters that were refused.
    Resubscribing { since: Instant },
}

#[derive(Debug)]
struct Outstanding {
    packet_ids: Vec<u16>,
    since: Instant,
    kept: bool,
}

/// The protocol state of one connection.
#[derive(Debug)]
pub(super) struct Session {
    epoch: Epoch,
    phase: Phase,
    client_id: String,
    filters: Vec<String>,
    /// Filters that the last SUBSCRIBE asked for.
    asked: Vec<String>,
    /// Filters that are served at QoS 0 only, which is what they stay at.
    lowered: Vec<String>,
    /// Set while the broker refuses filters: when they are asked for again.
    resubscribe_at: Option<Instant>,
    refused: Backoff,
    keep_alive: Duration,
    answer_timeout: Duration,
    /// When CONNACK is overdue.
    deadline: Instant,
    /// Bytes to be written, the oldest first.
    out: BytesMut,
    /// When bytes began to wait in `out`, or when some of them were last taken.
    out_moved: Instant,
    /// When we last queued a packet.
    sent: Instant,
    /// The ping that has had no sign of life since.
    ping: Option<Instant>,
    /// Since when we read: deadlines of the broker don't count while we don't listen.
    listening_since: Instant,
    /// Batches in the journal's hands, in receive order.
    outstanding: VecDeque<Outstanding>,
    /// Number of the batch at the front of `outstanding`.
    front: u64,
    acks: AckWaits,
}

impl Session {
    /// A session whose CONNECT is ready to be written; CONNACK has to come before `deadline`.
    pub(super) fn new(options: &Options, epoch: Epoch, deadline: Instant, now: Instant) -> Result<Self, Failure> {
        let mut session = Self {
            epoch,
            phase: Phase::Connecting,
            client_id: options.client_id.clone(),
            filters: options.topics.clone(),
            asked: Vec::new(),
            lowered: Vec::new(),
            resubscribe_at: None,
            refused: Backoff::between(REFUSED_FIRST, REFUSED_LONGEST),
            keep_alive: options.keep_alive.max(KEEP_ALIVE_MIN),
            answer_timeout: options.connect_timeout,
            deadline,
            out: BytesMut::new(),
            out_moved: now,
            sent: now,
            ping: None,
            listening_since: now,
            outstanding: VecDeque::new(),
            front: 0,
            acks: AckWaits::default(),
        };
        let mut connect = Connect::new(options.client_id.as_str());
        connect.clean_session = false;
        let keep_alive_s = session.keep_alive.as_millis().div_ceil(1_000);
        connect.keep_alive = u16::try_from(keep_alive_s).unwrap_or(u16::MAX);
        if let Some(login) = &options.login {
            connect.set_login(login.user.as_str(), login.password.as_str());
        }
        session.queue(now, |out| connect.write(out))?;
        Ok(session)
    }

    /// This connection's number.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes the next packet.
    pub(super) fn take(&mut self, packet: Incoming, now: Instant) -> Result<Event, Failure> {
        match (packet, self.phase) {
            (Incoming::ConnAck(connack), Phase::Connecting) => self.connected(&connack, now),
            (_, Phase::Connecting) => Err(Failure::OutOfTurn("a packet before CONNACK")),
            (Incoming::ConnAck(_), _) => Err(Failure::OutOfTurn("a second CONNACK")),
            (Incoming::SubAck(suback), Phase::Subscribing { .. } | Phase::Resubscribing { .. }) => {
                self.subscribed(&suback, now)
            }
            (Incoming::SubAck(_), Phase::Subscribed) => Err(Failure::OutOfTurn("a second SUBACK")),
            (Incoming::PingResp, _) => Ok(Event::None),
            (Incoming::Message(message), _) => Ok(Event::Message(message)),
        }
    }

    fn connected(&mut self, connack: &ConnAck, now: Instant) -> Result<Event, Failure> {
        match connack.code {
            ConnectReturnCode::Success => {}
            ConnectReturnCode::BadUserNamePassword => return Err(Failure::BadLogin),
            ConnectReturnCode::NotAuthorized => return Err(Failure::NotAuthorised),
            ConnectReturnCode::BadClientId => return Err(Failure::ClientIdRejected(self.client_id.clone())),
            ConnectReturnCode::ServiceUnavailable => return Err(Failure::Refused("it is not available")),
            ConnectReturnCode::RefusedProtocolVersion => {
                return Err(Failure::Refused("it does not speak MQTT 3.1.1"));
            }
        }
        // After every CONNACK, not only where no session is present: the filters may have changed since.
        self.subscribe(self.filters.clone(), now)?;
        self.phase = Phase::Subscribing { since: now };
        Ok(Event::None)
    }

    fn subscribe(&mut self, filters: Vec<String>, now: Instant) -> Result<(), Failure> {
        let asked = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        let mut subscribe = Subscribe::new_many(asked);
        subscribe.pkid = SUBSCRIBE_ID;
        self.asked = filters;
        self.queue(now, |out| subscribe.write(out))
    }

    fn subscribed(&mut self, suback: &SubAck, now: Instant) -> Result<Event, Failure> {
        if suback.pkid != SUBSCRIBE_ID || suback.return_codes.len() != self.asked.len() {
            return Err(Failure::OutOfTurn("a SUBACK that does not fit our SUBSCRIBE"));
        }
        let first = matches!(self.phase, Phase::Subscribing { .. });
        self.phase = Phase::Subscribed;
        let mut refused = Vec::new();
        for (filter, code) in std::mem::take(&mut self.asked).into_iter().zip(&suback.return_codes) {
            match code {
                SubscribeReasonCode::Failure => refused.push(filter),
                SubscribeReasonCode::Success(QoS::AtMostOnce) => self.lowered.push(filter),
                SubscribeReasonCode::Success(_) => {}
            }
        }
        // One client per broker: nobody of ours knocks in step with it.
        self.resubscribe_at = (!refused.is_empty()).then(|| now + self.refused.failed(1.0));
        let next = self.resubscribe_at.map(|at| at.duration_since(now));
        self.asked.clone_from(&refused);
        Ok(Event::Subscribed { first, shortfalls: Shortfalls { refused, lowered: self.lowered.clone(), next } })
    }

    /// Asks again for the filters that the broker refused, where it is time.
    fn resubscribe(&mut self, now: Instant) -> Result<(), Failure> {
        if self.phase == Phase::Subscribed && self.resubscribe_at.take_if(|at| now >= *at).is_some() {
            self.subscribe(self.asked.clone(), now)?;
            self.phase = Phase::Resubscribing { since: now };
        }
        Ok(())
    }

    /// Notes that a batch, read at `since`, goes to the journal; its messages are acknowledged when [`Self::settle`] hears
    /// it was kept.
    pub(super) fn hand_over(&mut self, packet_ids: Vec<u16>, since: Instant) -> BatchNumber {
        self.outstanding.push_back(Outstanding { packet_ids, since, kept: false });
        BatchNumber(self.front + self.outstanding.len() as u64 - 1)
    }

    /// Takes the journal's word on a batch and queues the acknowledgements that are due.
    pub(super) fn settle(&mut self, epoch: Epoch, batch: BatchNumber, fate: Fate, now: Instant) -> Result<(), Failure> {
        if epoch != self.epoch {
            return Ok(());
        }
        if fate == Fate::GivenUp {
            return Err(Failure::JournalGaveUp);
        }
        let index = batch.0.checked_sub(self.front).and_then(|index| usize::try_from(index).ok());
        if let Some(outstanding) = index.and_then(|index| self.outstanding.get_mut(index)) {
            outstanding.kept = true;
        }
        while let Some(due) = self.outstanding.pop_front_if(|outstanding| outstanding.kept) {
            self.front += 1;
            for &packet_id in &due.packet_ids {
                self.queue(now, |out| PubAck::new(packet_id).write(out))?;
            }
            self.acks.note(now.saturating_duration_since(due.since), due.packet_ids.len());
        }
        Ok(())
    }

    /// Whether the journal still has batches of this connection in hand.
    pub(super) fn has_outstanding(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Acknowledgements queued since the last call.
    pub(super) fn take_acks(&mut self) -> AckWaits {
        std::mem::take(&mut self.acks)
    }

    /// Notes that bytes came: the broker is alive, even where its PINGRESP waits behind messages.
    pub(super) fn heard(&mut self) {
        self.ping = None;
    }

    /// Notes that we don't read now, so that the broker cannot be late.
    pub(super) fn not_listening(&mut self, now: Instant) {
        self.listening_since = now;
    }

    /// Pings when we have been silent, and finds out what is overdue.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Failure> {
        let overdue = |since: Instant, limit: Duration| now.duration_since(since.max(self.listening_since)) >= limit;
        match self.phase {
            Phase::Connecting if now >= self.deadline => return Err(Failure::Silent("CONNECT")),
            Phase::Connecting => return Ok(()),
            Phase::Subscribing { since } | Phase::Resubscribing { since } if overdue(since, self.answer_timeout) => {
                return Err(Failure::Silent("SUBSCRIBE"));
            }
            Phase::Subscribing { .. } | Phase::Resubscribing { .. } | Phase::Subscribed => {}
        }
        if self.ping.is_some_and(|since| overdue(since, self.keep_alive)) {
            return Err(Failure::Silent("a ping"));
        }
        if !self.out.is_empty() && now.duration_since(self.out_moved) >= self.keep_alive {
            return Err(Failure::WriteStalled);
        }
        if now.duration_since(self.sent) >= self.keep_alive * 3 / 4 {
            self.queue(now, |out| PingReq.write(out))?;
            self.ping.get_or_insert(now);
        }
        self.resubscribe(now)
    }

    /// Takes leave; the broker keeps the session.
    pub(super) fn disconnect(&mut self, now: Instant) -> Result<(), Failure> {
        self.queue(now, |out| Disconnect.write(out))
    }

    /// The bytes to be written.
    pub(super) fn output(&self) -> &[u8] {
        &self.out
    }

    /// Notes that the first `count` bytes of the output were written.
    pub(super) fn written(&mut self, count: usize, now: Instant) {
        let _ = self.out.split_to(count);
        self.out_moved = now;
    }

    fn queue(
        &mut self,
        now: Instant,
        write: impl FnOnce(&mut BytesMut) -> Result<usize, CodecError>,
    ) -> Result<(), Failure> {
        if self.out.is_empty() {
            self.out_moved = now;
        }
        write(&mut self.out).map_err(Failure::Encode)?;
        self.sent = now;
        Ok(())
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
