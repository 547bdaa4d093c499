//! Bytes of a connection become packets.
//!
//! Owns the bytes that are no whole packet yet; never more than one packet of the largest size taken in, plus what one
//! read brought. A larger message is passed over while it streams by: of it, topic, packet identifier and the head of
//! the payload remain. Pure: never touches a socket or a clock.

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::mqttbytes::v4::{ConnAck, Packet, SubAck};

/// Bytes of the payload that are kept of a message over the limit.
pub(super) const OVERSIZE_HEAD_BYTES: usize = 256;

/// Remaining length up to which a packet other than PUBLISH is believed; a SUBACK has one byte per topic filter.
const CONTROL_BYTES_MAX: usize = 16 * 1024;

/// A packet that a broker may send to a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    ConnAck(ConnAck),
    SubAck(SubAck),
    PingResp,
    Message(Message),
}

/// One PUBLISH at QoS 0 or 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    /// The packet identifier to acknowledge; `None` at QoS 0.
    pub(super) packet_id: Option<u16>,
    pub(super) body: Body,
}

/// What a message carried.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The whole payload. Keeps all of the buffer that it was read into alive, so that it must not be kept itself.
    Whole(Bytes),
    /// The first bytes of a payload over the limit; the rest was passed over.
    Oversize(Vec<u8>),
}

/// Bytes that a broker must not send. The connection cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the broker sent a packet of type {0}, which a subscriber never gets")]
    UnexpectedType(u8),
    #[error("the broker sent a packet with reserved flags set (first byte {0:#04x})")]
    ReservedFlags(u8),
    #[error(
        "the broker sent a message at QoS 2, though we subscribe at QoS 1; the session of this client id was opened by \
         another program: give `client_id` a value of its own"
    )]
    ExactlyOnce,
    #[error("the broker announced a packet of type {packet_type} with {remaining} bytes")]
    TooLong { packet_type: u8, remaining: usize },
    #[error("the broker sent a topic that is not UTF-8")]
    TopicNotUtf8,
    #[error("the broker sent a malformed packet: {0}")]
    Codec(#[source] CodecError),
}

/// A message over the limit whose rest is still to come.
#[derive(Debug)]
struct PassingBy {
    message: Message,
    remaining: usize,
}

/// Collects bytes and hands out whole packets.
#[derive(Debug)]
pub(super) struct Assembler {
    buffer: BytesMut,
    payload_bytes_max: usize,
    passing_by: Option<PassingBy>,
}

impl Assembler {
    /// An assembler at the start of a connection; payloads over `payload_bytes_max` are passed over.
    pub(super) fn new(payload_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), payload_bytes_max, passing_by: None }
    }

    /// Takes the next bytes of the connection.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        if let Some(passing_by) = &mut self.passing_by {
            let skipped = passing_by.remaining.min(bytes.len());
            passing_by.remaining -= skipped;
            bytes = &bytes[skipped..];
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that wait for the rest of their packet.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole packet, or `None` until more bytes are fed.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, Malformed> {
        if let Some(passed) = self.passing_by.take_if(|passing_by| passing_by.remaining == 0) {
            return Ok(Some(Incoming::Message(passed.message)));
        }
        if self.passing_by.is_some() {
            return Ok(None);
        }
        let Some(&first) = self.buffer.first() else { return Ok(None) };
        check_first_byte(first)?;
        // A PUBLISH whose remaining length is within the limit cannot have a payload over it.
        match Packet::read(&mut self.buffer, self.payload_bytes_max) {
            Err(CodecError::PayloadSizeLimitExceeded(remaining)) => self.next_large(first, remaining),
            read => taken(read),
        }
    }

    /// The next packet where its remaining length alone does not tell that it is within the limit.
    fn next_large(&mut self, first: u8, remaining: usize) -> Result<Option<Incoming>, Malformed> {
        if !is_publish(first) {
            if remaining > CONTROL_BYTES_MAX {
                return Err(Malformed::TooLong { packet_type: first >> 4, remaining });
            }
            return taken(Packet::read(&mut self.buffer, remaining));
        }
        let Some(head) = PublishHead::of(&self.buffer, remaining)? else { return Ok(None) };
        if head.payload_bytes <= self.payload_bytes_max {
            return taken(Packet::read(&mut self.buffer, remaining));
        }
        let kept = head.payload_bytes.min(OVERSIZE_HEAD_BYTES);
        if self.buffer.len() < head.payload_at + kept {
            return Ok(None);
        }
        let message = head.oversize_message(&self.buffer, kept)?;
        self.buffer.advance(head.payload_at + kept);
        let rest = head.payload_bytes - kept;
        let skipped = rest.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.passing_by = Some(PassingBy { message, remaining: rest - skipped });
        self.next()
    }
}

/// Where the parts of a PUBLISH lie in the buffer.
#[derive(Debug)]
struct PublishHead {
    topic_at: usize,
    topic_bytes: usize,
    has_packet_id: bool,
    payload_at: usize,
    payload_bytes: usize,
}

impl PublishHead {
    /// Reads the head of the PUBLISH at the start of `buffer`; `None` until its topic length is there.
    fn of(buffer: &[u8], remaining: usize) -> Result<Option<Self>, Malformed> {
        let length_bytes = buffer[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
        let start = 1 + length_bytes;
        let (Some(&high), Some(&low)) = (buffer.get(start), buffer.get(start + 1)) else { return Ok(None) };
        let topic_bytes = usize::from(u16::from_be_bytes([high, low]));
        let has_packet_id = buffer[0] & 0b0110 != 0;
        let before_payload = 2 + topic_bytes + if has_packet_id { 2 } else { 0 };
        let payload_bytes =
            remaining.checked_sub(before_payload).ok_or(Malformed::Codec(CodecError::BoundaryCrossed(topic_bytes)))?;
        let payload_at = start + before_payload;
        Ok(Some(Self { topic_at: start + 2, topic_bytes, has_packet_id, payload_at, payload_bytes }))
    }

    /// The message as far as it is kept; `buffer` holds it up to `kept` bytes of its payload.
    fn oversize_message(&self, buffer: &[u8], kept: usize) -> Result<Message, Malformed> {
        let topic_end = self.topic_at + self.topic_bytes;
        let topic = std::str::from_utf8(&buffer[self.topic_at..topic_end]).map_err(|_| Malformed::TopicNotUtf8)?;
        let packet_id = self.has_packet_id.then(|| u16::from_be_bytes([buffer[topic_end], buffer[topic_end + 1]]));
        if packet_id == Some(0) {
            return Err(Malformed::Codec(CodecError::PacketIdZero));
        }
        let head = buffer[self.payload_at..self.payload_at + kept].into();
        Ok(Message { topic: topic.into(), packet_id, body: Body::Oversize(head) })
    }
}

fn is_publish(first: u8) -> bool {
    first >> 4 == 3
}

/// Refuses at its first byte what a broker must not send, before any of it is gathered.
fn check_first_byte(first: u8) -> Result<(), Malformed> {
    match (first >> 4, first & 0x0f) {
        (2 | 9 | 13, 0) => Ok(()),
        (2 | 9 | 13, _) => Err(Malformed::ReservedFlags(first)),
        (3, flags) if flags & 0b0110 == 0b0100 => Err(Malformed::ExactlyOnce),
        (3, flags) if flags & 0b0110 == 0b0110 => Err(Malformed::Codec(CodecError::InvalidQoS(3))),
        (3, _) => Ok(()),
        (packet_type, _) => Err(Malformed::UnexpectedType(packet_type)),
    }
}

fn taken(read: Result<Packet, CodecError>) -> Result<Option<Incoming>, Malformed> {
    match read {
        Ok(Packet::Publish(publish)) => Ok(Some(Incoming::Message(Message {
            topic: publish.topic,
            packet_id: (publish.pkid != 0).then_some(publish.pkid),
            body: Body::Whole(publish.payload),
        }))),
        Ok(Packet::ConnAck(connack)) => Ok(Some(Incoming::ConnAck(connack))),
        Ok(Packet::SubAck(suback)) => Ok(Some(Incoming::SubAck(suback))),
        Ok(Packet::PingResp) => Ok(Some(Incoming::PingResp)),
        Ok(_) => Err(Malformed::Codec(CodecError::IncorrectPacketFormat)),
        Err(CodecError::InsufficientBytes(_)) => Ok(None),
        Err(CodecError::TopicNotUtf8) => Err(Malformed::TopicNotUtf8),
        Err(error) => Err(Malformed::Codec(error)),
    }
}

#[cfg(test)]
#[path = "assembler_tests.rs"]
mod tests;
