//! What tests of the whole source run against: a broker that does what the test says, and a journal on a real folder
//! whose disk can be made to wait or to fail.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, Publish, SubAck, SubscribeReasonCode};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::health::{Health, Part, PartKind, PartSnapshot};
use crate::journal::{self, AppendFile, Entry, Folder, Journal, ReadFile, Storage};
use crate::model::{Frame, JournalPosition, Timestamp};

use super::driver::Driver;
use super::{Options, start};

/// After this a test has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a sync of the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    Hangs,
    Fails,
}

#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<(Mutex<Disk>, Condvar)>);

impl Gate {
    pub(super) fn set(&self, disk: Disk) {
        *self.0.0.lock().unwrap() = disk;
        self.0.1.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let disk = self.0.1.wait_while(self.0.0.lock().unwrap(), |disk| *disk == Disk::Hangs).unwrap();
        if *disk == Disk::Fails { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }
}

#[derive(Debug)]
struct GatedFolder {
    folder: Folder,
    gate: Gate,
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn AppendFile>,
    gate: Gate,
}

impl AppendFile for GatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync()
    }
}

impl Storage for GatedFolder {
    fn list(&self) -> io::Result<Vec<String>> {
        self.folder.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        Ok(Box::new(GatedFile { file: self.folder.create(name)?, gate: self.gate.clone() }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        self.folder.open(name)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        self.folder.len(name)
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.folder.truncate(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.folder.sync_folder()
    }
}

/// A running source between a scripted broker and a real journal.
pub(super) struct Rig {
    pub(super) broker: Broker,
    pub(super) gate: Gate,
    journal: Option<Journal>,
    part: Arc<Part>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

/// What tests set in their own way.
pub(super) struct Setup {
    pub(super) keep_alive: Duration,
    pub(super) packet_bytes_max: usize,
    pub(super) journal_bytes_max: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { keep_alive: Duration::from_millis(400), packet_bytes_max: 4 << 20, journal_bytes_max: 1 << 30 }
    }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(&Setup::default())
    }

    pub(super) fn with(setup: &Setup) -> Self {
        let (mut rig, options) = Self::before_start(setup);
        let (inlet, part, stop) = (rig.journal().inlet(), rig.part.clone(), rig.stop.clone());
        rig.thread = Some(start(options, inlet, Clock::system(), part, stop).unwrap());
        rig
    }

    /// A source without its thread: the test takes its turns.
    pub(super) fn by_hand(setup: &Setup) -> (Self, Driver) {
        let (rig, options) = Self::before_start(setup);
        let (inlet, part, stop) = (rig.journal().inlet(), rig.part.clone(), rig.stop.clone());
        (rig, Driver::new(options, inlet, Clock::system(), part, stop))
    }

    pub(super) fn before_start(setup: &Setup) -> (Self, Options) {
        let broker = Broker(TcpListener::bind("127.0.0.1:0").unwrap());
        let options = Options {
            name: "east".into(),
            host: "127.0.0.1".into(),
            port: broker.0.local_addr().unwrap().port(),
            client_id: "sitepulse-east".into(),
            topics: vec!["telemetry/#".into(), "more/#".into()],
            login: None,
            keep_alive: setup.keep_alive,
            connect_timeout: PATIENCE,
            packet_bytes_max: setup.packet_bytes_max,
            backoff_max: Duration::from_millis(20),
        };
        let folder = TempDir::new().unwrap();
        let gate = Gate(Arc::new((Mutex::new(Disk::Works), Condvar::new())));
        let storage = GatedFolder { folder: Folder::open(folder.path()).unwrap(), gate: gate.clone() };
        let journal_options = journal::Options {
            folder: folder.path().into(),
            bytes_max: setup.journal_bytes_max,
            segment_bytes: setup.journal_bytes_max / 4,
            commit_interval: Duration::ZERO,
            age_max: Duration::from_hours(1),
        };
        let (health, clock) = (Health::default(), Clock::system());
        let part = |kind, name| health.part(kind, name, Timestamp::from_millis(0));
        let from = JournalPosition(0);
        let journal_part = part(PartKind::Journal, "journal");
        let journal = Journal::open(Arc::new(storage), journal_options, from, journal_part, clock).unwrap();
        let part = part(PartKind::Mqtt, "east");
        let stop = Arc::new(AtomicBool::new(false));
        (Self { broker, gate, journal: Some(journal), part, stop, thread: None, _folder: folder }, options)
    }

    pub(super) fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    pub(super) fn close_journal(&mut self) {
        self.journal.take().unwrap().close();
    }

    pub(super) fn part(&self) -> PartSnapshot {
        self.part.snapshot()
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        self.part().counters[name]
    }

    /// Waits until the part is as `wanted` says.
    pub(super) fn until(&self, wanted: impl Fn(&PartSnapshot) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.part()) {
            assert!(Instant::now() < deadline, "still {:?}", self.part());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the source has taken in `count` messages.
    pub(super) fn until_messages(&self, count: u64) {
        self.until(|part| part.counters["messages"] >= count);
    }

    /// Waits until `count` frames are on disk, and gives them.
    pub(super) fn frames(&self, count: usize) -> Vec<Frame> {
        let mut reader = self.journal().reader(JournalPosition(0));
        let (mut entries, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while entries.len() < count {
            assert!(Instant::now() < deadline, "only {} frames", entries.len());
            reader.wait(Duration::from_millis(50));
            reader.read(1 << 20, &mut entries).unwrap();
        }
        let frames = entries.into_iter().map(|entry| match entry {
            Entry::Frame(frame) => frame,
            Entry::Lost { records } => panic!("{records} records lost"),
        });
        frames.collect()
    }

    pub(super) fn set_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the source's thread to end.
    pub(super) fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.gate.set(Disk::Works);
        self.set_stop();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Waits for connections; the test is the broker.
pub(super) struct Broker(TcpListener);

impl Broker {
    /// The other side of the next connection.
    pub(super) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.0.local_addr().unwrap()).unwrap()
    }

    /// The next connection, its CONNECT taken.
    pub(super) fn accept(&self) -> Peer {
        self.0.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match self.0.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < deadline, "no connection");
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer { stream, writing: Arc::default(), buffer: BytesMut::new() };
        assert!(matches!(peer.next(), Packet::Connect(_)));
        peer
    }

    /// The next connection, subscribed.
    pub(super) fn welcome(&self) -> Peer {
        let mut peer = self.accept();
        peer.answer(ConnectReturnCode::Success);
        peer.grant([SubscribeReasonCode::Success(QoS::AtLeastOnce); 2]);
        peer
    }
}

/// The broker's side of one connection.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    /// Held by whoever writes packets, so that none lands amid another that the socket took in part.
    pub(super) writing: Arc<Mutex<()>>,
    buffer: BytesMut,
}

impl Peer {
    /// The next packet that the source sends.
    pub(super) fn next(&mut self) -> Packet {
        self.try_next().expect("the connection was closed")
    }

    /// The next packet, or `None` when the source has closed the connection.
    pub(super) fn try_next(&mut self) -> Option<Packet> {
        let mut chunk = [0; 4_096];
        loop {
            if let Ok(packet) = Packet::read(&mut self.buffer, usize::MAX) {
                return Some(packet);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next `count` acknowledgements, pings answered on the way.
    pub(super) fn acks(&mut self, count: usize) -> Vec<u16> {
        let mut acks = Vec::new();
        while acks.len() < count {
            match self.next() {
                Packet::PubAck(ack) => acks.push(ack.pkid),
                Packet::PingReq => self.send(&[Packet::PingResp]),
                other => panic!("no acknowledgement: {other:?}"),
            }
        }
        acks
    }

    /// Takes a ping, which shows that the source had nothing else to send.
    pub(super) fn answer_ping(&mut self) {
        assert_eq!(self.next(), Packet::PingReq);
        self.send(&[Packet::PingResp]);
    }

    pub(super) fn send(&mut self, packets: &[Packet]) {
        let _writing = self.writing.lock().unwrap();
        self.stream.write_all(&bytes_of(packets)).unwrap();
    }

    pub(super) fn answer(&mut self, code: ConnectReturnCode) {
        self.send(&[Packet::ConnAck(ConnAck::new(code, false))]);
    }

    pub(super) fn grant(&mut self, codes: [SubscribeReasonCode; 2]) {
        let Packet::Subscribe(subscribe) = self.next() else { panic!("no SUBSCRIBE") };
        assert_eq!(subscribe.filters.len(), codes.len());
        self.send(&[Packet::SubAck(SubAck::new(subscribe.pkid, codes.to_vec()))]);
    }
}

pub(super) fn publish(packet_id: u16, payload: &[u8]) -> Packet {
    let mut publish = Publish::new("telemetry/t", QoS::AtLeastOnce, payload);
    publish.pkid = packet_id;
    Packet::Publish(publish)
}

pub(super) fn bytes_of(packets: &[Packet]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for packet in packets {
        packet.write(&mut bytes, usize::MAX).unwrap();
    }
    bytes.to_vec()
}
