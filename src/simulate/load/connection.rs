//! One connection that publishes: a socket that never blocks, the packets on their way, their acknowledgements.
//!
//! Owns every packet until the broker has it: until it was written (QoS 0) or acknowledged (QoS 1). After a break the
//! rest is sent again. Keep-alive is off, so nothing else is ever sent.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::Connect;

use super::deck::{Deck, Identify};
use super::template::DUPLICATE_FLAG;
use super::{Error, Qos, io_error};

/// Bytes that are written at once, and read at once: a thousand acknowledgements.
const WRITE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 4 * 1024;
/// How long a broker may take to answer a connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before a connection that broke is made anew.
const RECONNECT_WAIT: Duration = Duration::from_millis(250);
/// A CONNACK that accepts, and its length; the second byte of two says whether there was a session.
const CONNACK: [u8; 2] = [0x20, 2];
/// An acknowledgement: type and length, then two bytes of identifier.
const PUBACK: [u8; 2] = [0x40, 2];
const PUBACK_BYTES: usize = 4;

/// Opens a connection with no session of before and no keep-alive.
pub(super) fn connect(broker: SocketAddr, client_id: &str) -> Result<TcpStream, Error> {
    let place = || format!("connect to the broker at {broker}");
    let mut stream = TcpStream::connect_timeout(&broker, ANSWER_TIMEOUT).map_err(io_error(place()))?;
    let mut greet = || -> io::Result<[u8; 4]> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut packet = BytesMut::new();
        let mut connect = Connect::new(client_id);
        (connect.keep_alive, connect.clean_session) = (0, true);
        connect.write(&mut packet).map_err(io::Error::other)?;
        stream.write_all(&packet)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    let answer = greet().map_err(io_error(place()))?;
    match answer {
        [first, length, _, 0] if [first, length] == CONNACK => Ok(stream),
        [first, length, _, _] if [first, length] == CONNACK => Err(Error::Broker("refuses clients without a login")),
        _ => Err(Error::Broker("answers with something that is no MQTT 3.1.1")),
    }
}

/// What a connection did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) packets: u64,
    pub(super) acked: u64,
    pub(super) resent: u64,
    pub(super) breaks: u64,
}

/// Packets that the broker may not have yet, the oldest first.
#[derive(Debug)]
struct InFlight {
    /// Identifier, and length; an identifier of 0 is acknowledged out of turn.
    packets: VecDeque<(u16, usize)>,
    next_id: u16,
    count: u64,
}

impl Identify for InFlight {
    fn next(&mut self) -> u16 {
        self.next_id
    }

    fn appended(&mut self, length: usize) {
        self.packets.push_back((self.next_id, length));
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.count += 1;
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    broker: SocketAddr,
    client_id: String,
    qos: Qos,
    window: usize,
    stream: Option<TcpStream>,
    retry_at: Instant,
    /// Packets, the first `released` bytes of which the broker has, and the first `written` bytes of which were written.
    buffer: Vec<u8>,
    released: usize,
    written: usize,
    in_flight: InFlight,
    /// Bytes of an acknowledgement that came in part, and how many.
    input: Box<[u8; READ_BYTES]>,
    input_len: usize,
    tally: Tally,
}

impl Connection {
    /// Opens a connection with `window` packets on their way at the most.
    pub(super) fn open(broker: SocketAddr, client_id: String, qos: Qos, window: usize) -> Result<Self, Error> {
        let mut connection = Self {
            broker,
            client_id,
            qos,
            window,
            stream: None,
            retry_at: Instant::now(),
            buffer: Vec::with_capacity(8 * WRITE_BYTES),
            released: 0,
            written: 0,
            in_flight: InFlight { packets: VecDeque::with_capacity(window + 2), next_id: 1, count: 0 },
            input: Box::new([0; READ_BYTES]),
            input_len: 0,
            tally: Tally::default(),
        };
        connection.dial()?;
        Ok(connection)
    }

    pub(super) fn tally(&self) -> Tally {
        Tally { packets: self.in_flight.count, ..self.tally }
    }

    /// Packets that the broker may not have.
    pub(super) fn waiting(&self) -> usize {
        self.in_flight.packets.len()
    }

    /// Takes acknowledgements, then deals up to `packets_max` packets and writes. Returns whether anything moved.
    pub(super) fn turn(&mut self, deck: &mut Deck, now_ms: u64, packets_max: u64) -> bool {
        if self.stream.is_none() && !self.redial() {
            return false;
        }
        match self.exchange(deck, now_ms, packets_max) {
            Ok(moved) => moved,
            Err(error) => {
                tracing::warn!(%error, client = self.client_id, "the connection broke; what is on its way is sent again");
                self.stream = None;
                self.tally.breaks += 1;
                false
            }
        }
    }

    fn exchange(&mut self, deck: &mut Deck, now_ms: u64, packets_max: u64) -> io::Result<bool> {
        let mut moved = self.qos == Qos::AtLeastOnce && !self.in_flight.packets.is_empty() && self.take_acks()?;
        let end = self.in_flight.count + packets_max;
        loop {
            while self.in_flight.count < end
                && self.in_flight.packets.len() < self.window
                && self.buffer.len() - self.written < WRITE_BYTES
            {
                deck.deal(now_ms, end - self.in_flight.count, &mut self.buffer, &mut self.in_flight);
            }
            if self.written == self.buffer.len() || !self.write()? {
                break;
            }
            moved = true;
        }
        self.compact();
        Ok(moved)
    }

    fn write(&mut self) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        match stream.write(&self.buffer[self.written..]) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                self.written += count;
                if self.qos == Qos::AtMostOnce {
                    while let Some(&(_, length)) = self.in_flight.packets.front()
                        && self.released + length <= self.written
                    {
                        self.in_flight.packets.pop_front();
                        self.released += length;
                    }
                }
                Ok(true)
            }
            Err(error) if is_to_wait(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn take_acks(&mut self) -> io::Result<bool> {
        let mut moved = false;
        while let Some(stream) = &mut self.stream {
            let count = match stream.read(&mut self.input[self.input_len..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if is_to_wait(&error) => break,
                Err(error) => return Err(error),
            };
            moved = true;
            let read_to_the_end = self.input_len + count < READ_BYTES;
            self.input_len += count;
            let whole = self.input_len / PUBACK_BYTES * PUBACK_BYTES;
            for at in (0..whole).step_by(PUBACK_BYTES) {
                let [first, length, high, low] =
                    [self.input[at], self.input[at + 1], self.input[at + 2], self.input[at + 3]];
                if [first, length] != PUBACK {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the broker sent no PUBACK"));
                }
                self.acknowledged(u16::from_be_bytes([high, low]));
            }
            self.input.copy_within(whole..self.input_len, 0);
            self.input_len -= whole;
            if read_to_the_end {
                break;
            }
        }
        Ok(moved)
    }

    /// Lets go of the packet with this identifier; of those that wait behind another, when its turn comes.
    fn acknowledged(&mut self, id: u16) {
        let Some(at) = self.in_flight.packets.iter().position(|&(waiting, _)| waiting == id) else { return };
        self.tally.acked += 1;
        self.in_flight.packets[at].0 = 0;
        while let Some((_, length)) = self.in_flight.packets.pop_front_if(|packet| packet.0 == 0) {
            self.released += length;
        }
    }

    /// Forgets what the broker has, once that is most of the buffer.
    fn compact(&mut self) {
        if self.released == self.buffer.len() {
            self.buffer.clear();
        } else if self.released > 4 * WRITE_BYTES && self.released > self.buffer.len() / 2 {
            self.buffer.drain(..self.released);
        } else {
            return;
        }
        self.written -= self.released;
        self.released = 0;
    }

    fn redial(&mut self) -> bool {
        let now = Instant::now();
        if now < self.retry_at {
            return false;
        }
        self.retry_at = now + RECONNECT_WAIT;
        self.dial().is_ok()
    }

    fn dial(&mut self) -> Result<(), Error> {
        let stream = connect(self.broker, &self.client_id)?;
        stream.set_nonblocking(true).map_err(io_error("use its socket"))?;
        self.stream = Some(stream);
        self.input_len = 0;
        // What the broker may not have is sent again, marked where some of it was sent before.
        let mut at = self.released;
        for (_, length) in &self.in_flight.packets {
            if at >= self.written {
                break;
            }
            if self.qos == Qos::AtLeastOnce {
                self.buffer[at] |= DUPLICATE_FLAG;
            }
            self.tally.resent += 1;
            at += length;
        }
        self.written = self.released;
        Ok(())
    }
}

fn is_to_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
