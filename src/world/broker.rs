//! A broker that keeps a session, redelivers, renumbers and reorders, and holds the client to the protocol.
//!
//! Speaks MQTT 3.1.1 bytes. Panics where the client acknowledges what was not sent to it on this connection, or out of
//! order (MQTT-4.6.0-2): a test fails by it.

use std::collections::VecDeque;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PingResp, Publish, SubAck, SubscribeReasonCode};
use rumqttc::mqttbytes::{Error as CodecError, QoS};

use super::devices::Message;
use super::wire::Wire;

const PACKET_BYTES_MAX: usize = 1 << 20;
/// Messages among which the next one is chosen: how far topics overtake each other.
const REORDER_MAX: usize = 6;

/// One broker with one session.
pub(super) struct Broker {
    rng: fastrand::Rng,
    inflight_max: usize,
    wire: Option<Wire>,
    received: BytesMut,
    subscribed: bool,
    /// Whether it still has the session.
    session: bool,
    /// Not sent yet.
    queue: VecDeque<Message>,
    /// Sent on this connection, or to be sent again, in order.
    inflight: VecDeque<(u16, Message)>,
    /// How many of `inflight` were sent on this connection.
    sent: usize,
    next_id: u16,
    /// Messages that were acknowledged.
    pub(super) acknowledged: u64,
    /// Messages that were sent more than once.
    pub(super) redelivered: u64,
}

impl Broker {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let inflight_max = rng.usize(1..30);
        Self {
            rng,
            inflight_max,
            wire: None,
            received: BytesMut::new(),
            subscribed: false,
            session: false,
            queue: VecDeque::new(),
            inflight: VecDeque::new(),
            sent: 0,
            next_id: 1,
            acknowledged: 0,
            redelivered: 0,
        }
    }

    /// A device publishes.
    pub(super) fn publish(&mut self, message: Message) {
        self.queue.push_back(message);
    }

    /// Whether everything that was published is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.inflight.is_empty()
    }

    /// Takes a new connection; one that there was is closed.
    pub(super) fn accept(&mut self, wire: Wire) {
        self.disconnect();
        self.wire = Some(wire);
    }

    /// The network between broker and client breaks. What was sent and not acknowledged is to be sent again.
    pub(super) fn disconnect(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.cut();
        }
        self.received.clear();
        self.subscribed = false;
        self.sent = 0;
    }

    /// The broker is started again from what it has saved: its session goes on under new packet identifiers.
    pub(super) fn restart(&mut self) {
        self.disconnect();
        for (id, _) in &mut self.inflight {
            *id = self.next_id;
            self.next_id = next_id(self.next_id);
        }
    }

    /// The broker forgets the session; the devices notice, and publish again what was not acknowledged.
    pub(super) fn forget_session(&mut self) {
        self.disconnect();
        self.session = false;
        let mut unacknowledged: Vec<Message> =
            self.inflight.drain(..).map(|(_, message)| message).chain(self.queue.drain(..)).collect();
        self.rng.shuffle(&mut unacknowledged);
        self.queue = unacknowledged.into();
    }

    /// One round: reads what the client wrote and sends what may be sent.
    pub(super) fn round(&mut self) {
        let Some(wire) = self.wire.clone() else { return };
        if wire.is_cut() {
            return self.disconnect();
        }
        self.received.extend_from_slice(&wire.take());
        loop {
            match Packet::read(&mut self.received, PACKET_BYTES_MAX) {
                Ok(packet) => self.hear(&wire, packet),
                Err(CodecError::InsufficientBytes(_)) => break,
                Err(error) => panic!("the client broke the protocol: {error}"),
            }
            if self.wire.is_none() {
                return;
            }
        }
        if self.subscribed {
            self.deliver(&wire);
        }
    }

    fn hear(&mut self, wire: &Wire, packet: Packet) {
        let mut answer = BytesMut::new();
        match packet {
            Packet::Connect(connect) => {
                assert!(!connect.clean_session, "the session is to be kept");
                let connack = ConnAck::new(ConnectReturnCode::Success, self.session);
                connack.write(&mut answer).expect("writes");
                self.session = true;
            }
            Packet::Subscribe(subscribe) => {
                let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                SubAck::new(subscribe.pkid, codes).write(&mut answer).expect("writes");
                self.subscribed = true;
            }
            Packet::PubAck(puback) => self.acknowledge(puback.pkid),
            Packet::PingReq => {
                PingResp.write(&mut answer).expect("writes");
            }
            Packet::Disconnect => return self.disconnect(),
            other => panic!("a subscriber does not send {other:?}"),
        }
        wire.send(&answer);
    }

    fn acknowledge(&mut self, id: u16) {
        assert!(self.sent > 0, "packet {id} is acknowledged and was not sent on this connection");
        let (expected, _) = self.inflight.pop_front().expect("what was sent is in flight");
        assert_eq!(id, expected, "acknowledged out of order");
        self.sent -= 1;
        self.acknowledged += 1;
    }

    fn deliver(&mut self, wire: &Wire) {
        while self.inflight.len() < self.inflight_max && !self.queue.is_empty() {
            let index = self.rng.usize(..self.queue.len().min(REORDER_MAX));
            let message = self.queue.remove(index).expect("in range");
            self.inflight.push_back((self.next_id, message));
            self.next_id = next_id(self.next_id);
        }
        let again = self.inflight.iter().skip(self.sent);
        let mut bytes = BytesMut::new();
        for (id, message) in again {
            let mut publish = Publish::from_bytes(&*message.topic, QoS::AtLeastOnce, message.payload.clone());
            publish.pkid = *id;
            publish.write(&mut bytes).expect("writes");
            self.redelivered += u64::from(message.was_sent.replace(true));
        }
        wire.send(&bytes);
        self.sent = self.inflight.len();
    }
}

fn next_id(id: u16) -> u16 {
    if id == u16::MAX { 1 } else { id + 1 }
}
