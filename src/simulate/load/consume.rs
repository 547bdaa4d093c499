//! A subscriber that does the least that a subscriber can: it counts messages and acknowledges them in batches.
//!
//! What it costs is the floor under every collector behind the same broker.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::Subscribe;

use super::connection::connect;
use super::{CpuTime, Error, Qos, cpu_time, io_error};

const NAP: Duration = Duration::from_millis(1);
const READ_BYTES: usize = 256 * 1024;
/// A SUBACK of one filter: type, length, identifier, and what was granted.
const SUBACK_BYTES: usize = 5;
const SUBSCRIBE_ID: u16 = 1;
/// Largest remaining length whose packet fits the buffer.
const REMAINING_MAX: usize = READ_BYTES / 2;

/// What is to be consumed.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// The broker.
    pub broker: SocketAddr,
    /// The topic filter.
    pub filter: String,
    /// Quality of service to ask for.
    pub qos: Qos,
    /// After how many messages to end.
    pub messages_max: Option<u64>,
    /// After how long without a message to end, once there was one.
    pub idle_max: Option<Duration>,
}

/// What was consumed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Consumed {
    /// Messages.
    pub messages: u64,
    /// Their bytes with everything around them.
    pub bytes: u64,
    /// Acknowledgements.
    pub acks: u64,
    /// Reads that brought something.
    pub reads: u64,
    /// Times that the socket was dry.
    pub naps: u64,
    /// From the first message to the last one.
    pub elapsed: Duration,
    /// CPU time of the process since the subscription.
    pub cpu: CpuTime,
}

/// A consumer while it runs.
#[derive(Debug)]
pub struct Consumer {
    consumed: Arc<Mutex<Consumed>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Error>>,
    cpu: CpuTime,
}

impl Consumer {
    /// Subscribes, and begins to count.
    ///
    /// # Errors
    /// [`Error`] where the broker refuses, or the system gives no thread.
    pub fn start(options: &ConsumerOptions) -> Result<Self, Error> {
        let stream = subscribe(options)?;
        let (consumed, stop) = (Arc::<Mutex<Consumed>>::default(), Arc::<AtomicBool>::default());
        let counter = Counter {
            stream,
            messages_max: options.messages_max.unwrap_or(u64::MAX),
            idle_max: options.idle_max.unwrap_or(Duration::MAX),
            input: vec![0; READ_BYTES],
            input_len: 0,
            acks: Vec::with_capacity(READ_BYTES),
            consumed: Consumed::default(),
            board: consumed.clone(),
        };
        let (cpu, stopped) = (cpu_time(), stop.clone());
        let thread = thread::Builder::new().name("consume".to_owned());
        let thread = thread.spawn(move || counter.run(&stopped).map_err(io_error("read from the broker")));
        Ok(Self { consumed, stop, thread: thread.map_err(io_error("start a thread"))?, cpu })
    }

    /// What was consumed so far.
    #[must_use]
    pub fn consumed(&self) -> Consumed {
        let consumed = *self.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        Consumed { cpu: cpu_time().since(self.cpu), ..consumed }
    }

    /// Whether it has ended, by a failure or because it has all.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`Error`] where it had failed before.
    pub fn finish(self) -> Result<Consumed, Error> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::Broker("made the consumer fail"))??;
        let consumed = *self.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Consumed { cpu: cpu_time().since(self.cpu), ..consumed })
    }
}

fn subscribe(options: &ConsumerOptions) -> Result<TcpStream, Error> {
    let mut stream = connect(options.broker, &format!("sitepulse-consume-{}", std::process::id()))?;
    let qos = if options.qos == Qos::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let mut ask = || -> io::Result<[u8; SUBACK_BYTES]> {
        let mut packet = BytesMut::new();
        let mut subscribe = Subscribe::new(options.filter.as_str(), qos);
        subscribe.pkid = SUBSCRIBE_ID;
        subscribe.write(&mut packet).map_err(io::Error::other)?;
        stream.write_all(&packet)?;
        let mut answer = [0; SUBACK_BYTES];
        stream.read_exact(&mut answer)?;
        stream.set_nonblocking(true)?;
        Ok(answer)
    };
    match ask().map_err(io_error("subscribe"))? {
        [0x90, 3, _, _, granted] if granted < 3 => Ok(stream),
        [0x90, 3, ..] => Err(Error::Broker("refuses the subscription")),
        _ => Err(Error::Broker("does not answer a SUBSCRIBE")),
    }
}

struct Counter {
    stream: TcpStream,
    messages_max: u64,
    idle_max: Duration,
    input: Vec<u8>,
    input_len: usize,
    acks: Vec<u8>,
    consumed: Consumed,
    board: Arc<Mutex<Consumed>>,
}

impl Counter {
    fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut first_and_last: Option<(Instant, Instant)> = None;
        while !stop.load(Ordering::Relaxed) && self.consumed.messages < self.messages_max {
            let before = self.consumed.messages;
            let dry = self.read()?;
            if self.consumed.messages > before {
                let now = Instant::now();
                let (first, last) = first_and_last.get_or_insert((now, now));
                *last = now;
                self.consumed.elapsed = last.duration_since(*first);
            } else if first_and_last.is_some_and(|(_, last)| last.elapsed() > self.idle_max) {
                break;
            }
            self.acknowledge()?;
            *self.board.lock().unwrap_or_else(PoisonError::into_inner) = self.consumed;
            if dry {
                self.consumed.naps += 1;
                thread::sleep(NAP);
            }
        }
        Ok(())
    }

    /// Reads once and counts; true where the socket has no more.
    fn read(&mut self) -> io::Result<bool> {
        let count = match self.stream.read(&mut self.input[self.input_len..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(error),
        };
        self.consumed.reads += 1;
        self.input_len += count;
        let dry = self.input_len < READ_BYTES;
        let mut at = 0;
        while let Some(length) = self.packet(at)? {
            at += length;
        }
        self.input.copy_within(at..self.input_len, 0);
        self.input_len -= at;
        Ok(dry)
    }

    /// Counts the packet at `at` and returns its length; `None` until it is whole.
    fn packet(&mut self, at: usize) -> io::Result<Option<usize>> {
        let bytes = &self.input[at..self.input_len];
        let Some((remaining, head)) = remaining_length(bytes)? else { return Ok(None) };
        if bytes.len() < head + remaining {
            return Ok(None);
        }
        if bytes[0] >> 4 == 3 {
            self.consumed.messages += 1;
            self.consumed.bytes += (head + remaining) as u64;
            if bytes[0] & 0b0110 != 0 {
                let id_at = head + 2 + usize::from(u16::from_be_bytes([bytes[head], bytes[head + 1]]));
                let id = bytes.get(id_at..id_at + 2).ok_or(io::ErrorKind::InvalidData)?;
                self.acks.extend_from_slice(&[0x40, 2, id[0], id[1]]);
                self.consumed.acks += 1;
            }
        }
        Ok(Some(head + remaining))
    }

    /// Writes all acknowledgements at once; the little that a full socket leaves is waited for.
    fn acknowledge(&mut self) -> io::Result<()> {
        let mut at = 0;
        while at < self.acks.len() {
            match self.stream.write(&self.acks[at..]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(NAP),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.acks.clear();
        Ok(())
    }
}

/// Remaining length and the bytes before it counts (MQTT 3.1.1, 2.2.3); `None` until they are there.
fn remaining_length(bytes: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut remaining = 0;
    for (index, &byte) in bytes.iter().enumerate().skip(1).take(4) {
        remaining |= usize::from(byte & 0x7F) << (7 * (index - 1));
        if byte & 0x80 == 0 {
            let fits = remaining <= REMAINING_MAX;
            let refusal = || io::Error::new(io::ErrorKind::InvalidData, "a packet larger than any of this city");
            return if fits { Ok(Some((remaining, index + 1))) } else { Err(refusal()) };
        }
    }
    if bytes.len() > 4 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_lengths_are_read_as_the_standard_writes_them() {
        assert_eq!(remaining_length(&[0x30]).expect("good"), None);
        assert_eq!(remaining_length(&[0x30, 0x80]).expect("good"), None);
        assert_eq!(remaining_length(&[0x30, 127]).expect("good"), Some((127, 2)));
        assert_eq!(remaining_length(&[0x30, 0xB5, 0x02]).expect("good"), Some((309, 3)));
        assert!(remaining_length(&[0x30, 0xFF, 0xFF, 0x7F]).is_err(), "too large");
        assert!(remaining_length(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]).is_err(), "five bytes");
    }
}
