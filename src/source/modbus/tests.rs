//! The source against a Modbus TCP server whose units misbehave, each in its own way.

use std::future::{Future, pending, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};

use super::*;
use crate::decode::modbus::{Block, BlockData, decode, encode_poll};
use crate::health::PartSnapshot;
use crate::inventory::{ByteOrder, DataType, MetricDef, Profile, Register, RegisterTable, Site, UnknownMetrics};
use crate::journal::{self, Entry, Folder, Journal, RefusedCause};
use crate::model::{DeviceId, Frame, FrameKind, JournalPosition, Timestamp};

const DEADLINE: Duration = Duration::from_secs(20);

/// What a unit does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Every register holds its own address, every bit whether its address is odd.
    Good,
    /// Never answers.
    Hangs,
    /// Refuses what touches register 50.
    Hole,
    /// Refuses what touches register 200, three times.
    HoleThrice,
    /// Is not there; the gateway says so.
    Gateway,
    /// Answers the first request when it is told to, the others at once.
    LateOnce,
    /// Answers a register less than it was asked for.
    Short,
}

struct Scripted {
    manners: HashMap<u8, Manner>,
    requests: AtomicU64,
    late: AtomicUsize,
    release: Notify,
    connections: AtomicU64,
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<Response>, ExceptionCode>> + Send>>;

struct Handler(Arc<Scripted>);

impl Service for Handler {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Answer;

    fn call(&self, request: SlaveRequest<'static>) -> Answer {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let (registers, address, count) = match request.request {
            Request::ReadHoldingRegisters(address, count) | Request::ReadInputRegisters(address, count) => {
                ((address..address + count).collect::<Vec<_>>(), address, count)
            }
            Request::ReadCoils(address, count) => {
                let bits = (address..address + count).map(|bit| bit % 2 == 1).collect();
                return Box::pin(ready(Ok(Some(Response::ReadCoils(bits)))));
            }
            _ => return Box::pin(ready(Err(ExceptionCode::IllegalFunction))),
        };
        let holding = matches!(request.request, Request::ReadHoldingRegisters(..));
        let answer = move |registers| {
            let response = if holding {
                Response::ReadHoldingRegisters(registers)
            } else {
                Response::ReadInputRegisters(registers)
            };
            Ok(Some(response))
        };
        match self.0.manners.get(&request.slave) {
            Some(Manner::Hangs) | None => Box::pin(pending()),
            Some(Manner::Gateway) => Box::pin(ready(Err(ExceptionCode::GatewayTargetDevice))),
            Some(Manner::Hole) if (address..address + count).contains(&50) => {
                Box::pin(ready(Err(ExceptionCode::IllegalDataAddress)))
            }
            Some(Manner::HoleThrice)
                if (address..address + count).contains(&200) && self.0.late.fetch_add(1, Ordering::Relaxed) < 3 =>
            {
                Box::pin(ready(Err(ExceptionCode::IllegalDataAddress)))
            }
            Some(Manner::LateOnce) if self.0.late.fetch_add(1, Ordering::Relaxed) == 0 => {
                let server = self.0.clone();
                Box::pin(async move {
                    server.release.notified().await;
                    answer(vec![9_999; registers.len()])
                })
            }
            Some(Manner::Short) => Box::pin(ready(answer(registers[1..].to_vec()))),
            Some(Manner::Good | Manner::Hole | Manner::HoleThrice | Manner::LateOnce) => {
                Box::pin(ready(answer(registers)))
            }
        }
    }
}

/// A running server; dropping it closes its connections.
struct Running {
    server: Arc<Scripted>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(bind: &str, manners: &[(u8, Manner)]) -> Running {
    let listener = TcpListener::bind(bind).await.expect("bind");
    let address = listener.local_addr().expect("address");
    let server = Arc::new(Scripted {
        manners: manners.iter().copied().collect(),
        requests: AtomicU64::new(0),
        late: AtomicUsize::new(0),
        release: Notify::new(),
        connections: AtomicU64::new(0),
    });
    let serving = server.clone();
    let task = tokio::spawn(async move {
        let on_connected = |stream, _| {
            serving.connections.fetch_add(1, Ordering::Relaxed);
            let handler = Handler(serving.clone());
            async move { Ok(Some((handler, stream))) }
        };
        Server::new(listener).serve(&on_connected, |_| {}).await.expect("serves");
    });
    Running { server, address, task }
}

fn register(table: RegisterTable, address: u16, data_type: DataType) -> Register {
    let order = ByteOrder::Abcd;
    Register { table, address, data_type, order, bit: None, scale: 1.0, offset: 0.0, absent: Vec::new() }
}

fn holding(address: u16) -> Register {
    register(RegisterTable::Holding, address, DataType::U16)
}

fn profile(registers: impl IntoIterator<Item = Register>) -> Arc<Profile> {
    let metric = |register: Register| MetricDef {
        register: Some(register.clone()),
        ..MetricDef::gauge(&format!("m{}", register.address))
    };
    Arc::new(Profile {
        id: "test".to_owned(),
        description: String::new(),
        interval_ms: None,
        unknown_metrics: UnknownMetrics::Refuse,
        time: crate::inventory::TimePolicy::default(),
        metrics: registers.into_iter().map(metric).collect(),
    })
}

/// A site with one device per entry: unit, interval in milliseconds, profile. The device is called `u` and its unit.
fn inventory(address: SocketAddr, devices: &[(u8, u32, &Arc<Profile>)]) -> Arc<Inventory> {
    let mut inventory = Inventory::default();
    let site = inventory.add_site(Site {
        id: Arc::from("S"),
        name: String::new(),
        kind: Arc::from("data_centre"),
        area: Arc::from(""),
        operator: Arc::from(""),
        position: None,
        attributes: BTreeMap::new(),
        in_service_from: None,
        in_service_to: None,
    });
    for &(unit, interval_ms, profile) in devices {
        inventory.add_device(Device {
            id: DeviceId(0),
            site,
            name: Arc::from(format!("u{unit}")),
            profile: profile.clone(),
            connection: Connection::ModbusTcp { endpoint: Arc::from(address.to_string()), unit },
            interval_ms: Some(interval_ms),
            registered: true,
        });
    }
    Arc::new(inventory)
}

fn options() -> Options {
    Options {
        name: Arc::from("modbus"),
        connect_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_millis(150),
        backoff_max: Duration::from_secs(2),
        gap_registers_max: 100,
        request_pause: Duration::ZERO,
    }
}

/// The source at work.
struct Source {
    frames: mpsc::UnboundedReceiver<Frame>,
    inventory: Arc<Inventory>,
    health: Arc<Health>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Source {
    fn start(inventory: Arc<Inventory>) -> Self {
        Self::start_with(Clock::system(), inventory, |_| Ok(()))
    }

    fn start_on(clock: Clock, inventory: Arc<Inventory>) -> Self {
        Self::start_with(clock, inventory, |_| Ok(()))
    }

    fn start_with(
        clock: Clock,
        inventory: Arc<Inventory>,
        verdict: impl Fn(&[Frame]) -> Result<(), RefusedCause> + Send + Sync + 'static,
    ) -> Self {
        let (sender, frames) = mpsc::unbounded_channel();
        let deliver: Deliver = Arc::new(move |frames| {
            verdict(&frames)?;
            for frame in frames {
                let _ = sender.send(frame);
            }
            Ok(())
        });
        let basket = Arc::new(Basket::new(deliver));
        let (health, (stop, stopping)) = (Arc::new(Health::default()), watch::channel(false));
        let around =
            Surroundings { options: options(), inventory: inventory.clone(), basket, clock, asked: Arc::default() };
        let reports = health.clone();
        let task = tokio::spawn(async move { poll_all(&around, &reports, stopping).await });
        Self { frames, inventory, health, stop, task }
    }

    /// The next poll of `unit`: its values by slot.
    async fn next(&mut self, unit: u8) -> Vec<(usize, f64)> {
        loop {
            let frame = timeout(DEADLINE, self.frames.recv()).await.expect("a poll in time").expect("source runs");
            assert_eq!((frame.kind, &*frame.source), (FrameKind::ModbusPoll, "modbus"));
            if *frame.topic == *format!("S/u{unit}") {
                let id = self.inventory.find_device("S", &format!("u{unit}")).expect("listed");
                let profile = &self.inventory.device(id).expect("listed").profile;
                let readings = decode(profile, &frame.payload).expect("well formed");
                return readings.into_iter().map(|(slot, value)| (slot, value.expect("valid"))).collect();
            }
        }
    }

    /// Waits until the endpoint's part fulfils `condition`.
    async fn until(&self, condition: impl Fn(&PartSnapshot) -> bool) -> PartSnapshot {
        let give_up = Instant::now() + DEADLINE;
        loop {
            let parts = self.health.snapshot();
            if let Some(part) = parts.iter().find(|part| condition(part)) {
                return part.clone();
            }
            assert!(Instant::now() < give_up, "{parts:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(self) {
        self.stop.send(true).expect("source runs");
        timeout(DEADLINE, self.task).await.expect("stops in time").expect("no panic");
    }
}

#[tokio::test]
async fn a_poll_brings_every_table_in_one_frame() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Good)]).await;
    let wide = register(RegisterTable::Holding, 16, DataType::U32);
    let input = register(RegisterTable::Input, 65_000, DataType::U16);
    let coil = register(RegisterTable::Coil, 7, DataType::Bool);
    let map = profile([holding(10), wide, input, coil]);
    let mut source = Source::start(inventory(running.address, &[(1, 50, &map)]));
    let expected = vec![(0, 10.0), (1, f64::from(0x0010_0011_u32)), (2, 65_000.0), (3, 1.0)];
    assert_eq!(source.next(1).await, expected);
    assert_eq!(source.next(1).await, expected);
    let part = source.until(|part| part.state == State::Up).await;
    assert_eq!((part.kind, part.name.as_str()), (PartKind::Modbus, running.address.to_string().as_str()));
    assert_eq!((part.counters["connects"], part.counters["exceptions"], part.counters["units_failing"]), (1, 0, 0));
    source.stop().await;
}

#[tokio::test]
async fn an_endpoint_may_be_ipv6() {
    let running = serve("[::1]:0", &[(1, Manner::Good)]).await;
    let mut source = Source::start(inventory(running.address, &[(1, 50, &profile([holding(3)]))]));
    assert_eq!(source.next(1).await, [(0, 3.0)]);
    source.stop().await;
}

#[tokio::test]
async fn a_refused_range_is_split_and_only_the_hole_is_missing() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Hole)]).await;
    let map = profile([holding(10), holding(49), holding(50), holding(90)]);
    let mut source = Source::start(inventory(running.address, &[(1, 50, &map)]));
    while source.next(1).await != [(0, 10.0), (1, 49.0), (3, 90.0)] {}
    let part = source.until(|part| part.state == State::Degraded).await;
    let hole = "exception 2 (illegal data address) at holding registers 50-50; \
                the device has no such registers; check the profile's addresses";
    assert_eq!(part.detail, format!("unit 1 (S/u1): {hole}"));
    assert_eq!((part.counters["connects"], part.counters["units_failing"]), (1, 0), "an exception leaves both good");
    assert_eq!(part.counters["exceptions"], 3, "the whole, the part with the hole, the hole");
    // From now on the hole is left alone: three polls of three requests each, and nothing is refused.
    let before = running.server.requests.load(Ordering::Relaxed);
    for _ in 0..3 {
        assert_eq!(source.next(1).await, [(0, 10.0), (1, 49.0), (3, 90.0)]);
    }
    let part = source.until(|part| part.counters["exceptions"] >= 3).await;
    assert_eq!((part.counters["exceptions"], part.state), (3, State::Degraded), "it is known all the same");
    assert!(running.server.requests.load(Ordering::Relaxed) <= before + 4 * 3);
    let [trouble] = part.troubles.as_slice() else { panic!("{part:?}") };
    assert_eq!((trouble.subject.as_str(), trouble.reason.as_str()), ("unit 1 (S/u1)", hole));
    let wait_ms = trouble.next.expect("it is asked again").millis_since(trouble.since);
    assert!((5_000..=10_500).contains(&wait_ms), "{wait_ms}");
    source.stop().await;
}

#[tokio::test]
async fn a_hole_is_asked_for_again_less_and_less_and_is_found_when_it_is_filled() {
    let running = serve("127.0.0.1:0", &[(1, Manner::HoleThrice)]).await;
    let map = profile([holding(10), holding(200)]);
    // Ten minutes pass in a second.
    let clock = Clock::scaled(Timestamp::from_millis(1_764_000_000_000), 600.0);
    let mut source = Source::start_on(clock, inventory(running.address, &[(1, 5_000, &map)]));
    source.until(|part| part.state == State::Degraded).await;
    let mut partial = 0;
    while source.next(1).await != [(0, 10.0), (1, 200.0)] {
        partial += 1;
    }
    // Asked for at once, then after 5 to 10 s, 10 to 20 s and 20 to 40 s more, at a poll every 5 s.
    assert!((5..=16).contains(&partial), "{partial}");
    let part = source.until(|part| part.state == State::Up).await;
    assert_eq!((part.counters["exceptions"], part.troubles.len()), (3, 0));
    source.stop().await;
}

#[tokio::test]
async fn a_gap_that_the_device_refuses_is_not_read_over_again() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Hole)]).await;
    let mut source = Source::start(inventory(running.address, &[(1, 50, &profile([holding(40), holding(60)]))]));
    assert_eq!(source.next(1).await, [(0, 40.0), (1, 60.0)]);
    let part = source.until(|part| part.state == State::Up).await;
    assert_eq!(part.counters["exceptions"], 1);
    source.stop().await;
}

#[tokio::test]
async fn a_unit_that_hangs_costs_its_neighbour_no_poll() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Good), (2, Manner::Hangs), (3, Manner::Gateway)]).await;
    let map = profile([holding(5)]);
    let devices = [(1, 600, &map), (2, 100, &map), (3, 100, &map)];
    let mut source = Source::start(inventory(running.address, &devices));
    for _ in 0..5 {
        assert_eq!(source.next(1).await, [(0, 5.0)]);
    }
    let part = source.until(|part| part.counters["timeouts"] >= 2).await;
    assert_eq!((part.state, part.counters["units_failing"]), (State::Degraded, 2));
    assert!(part.detail.contains("unit 2 (S/u2): no answer within 150ms"), "{}", part.detail);
    let gateway = "unit 3 (S/u3): exception 11 (gateway target device failed to respond)";
    assert!(part.detail.contains(gateway), "{}", part.detail);
    assert!(part.counters["polls_backed_off"] > part.counters["timeouts"]);
    // The hung unit may have had its own polls skipped while the connection was busy, never the neighbour.
    assert!(part.counters["late_polls"] <= 2 * part.counters["timeouts"], "{part:?}");
    source.stop().await;
}

#[tokio::test]
async fn a_late_reply_does_not_shift_later_answers() {
    let running = serve("127.0.0.1:0", &[(1, Manner::LateOnce), (2, Manner::Good)]).await;
    let (late, good) = (profile([holding(100)]), profile([holding(200)]));
    let mut source = Source::start(inventory(running.address, &[(1, 50, &late), (2, 50, &good)]));
    source.until(|part| part.counters["timeouts"] == 1).await;
    while source.frames.try_recv().is_ok() {}
    // The late reply is still to come, and when it comes nobody listens to it.
    assert_eq!(source.next(2).await, [(0, 200.0)]);
    running.server.release.notify_one();
    for _ in 0..5 {
        assert_eq!(source.next(2).await, [(0, 200.0)]);
    }
    assert_eq!(source.next(1).await, [(0, 100.0)]);
    assert_eq!(source.until(|part| part.state == State::Up).await.counters["timeouts"], 1);
    assert_eq!(running.server.connections.load(Ordering::Relaxed), 2, "the late one was dropped");
    source.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_too_short_is_never_journalled() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Short), (2, Manner::Good)]).await;
    let map = profile([holding(5), holding(6)]);
    let mut source = Source::start(inventory(running.address, &[(1, 50, &map), (2, 50, &map)]));
    let part = source.until(|part| part.detail.contains("not as long")).await;
    assert_eq!(part.state, State::Degraded);
    for _ in 0..5 {
        assert_eq!(source.next(2).await, [(0, 5.0), (1, 6.0)]);
    }
    source.stop().await;
}

#[tokio::test]
async fn what_was_answered_before_a_failure_is_journalled() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Good)]).await;
    let unanswered = register(RegisterTable::DiscreteInput, 0, DataType::Bool);
    let map = profile([unanswered, holding(5)]);
    let mut source = Source::start(inventory(running.address, &[(1, 50, &map)]));
    assert_eq!(source.next(1).await, [(1, 5.0)]);
    let part = source.until(|part| part.state == State::Degraded).await;
    let expected = "unit 1 (S/u1): exception 1 (illegal function) at discrete inputs 0-0; ";
    assert!(part.detail.starts_with(expected), "{}", part.detail);
    source.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_restarts_is_found_again() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Good)]).await;
    let address = running.address;
    let mut source = Source::start(inventory(address, &[(1, 50, &profile([holding(5)]))]));
    source.next(1).await;
    drop(running);
    let part = source.until(|part| part.state == State::Down).await;
    assert!(part.detail.starts_with("no connection: "), "{}", part.detail);
    assert_eq!(part.counters["units_failing"], 1);
    let _running = serve(&address.to_string(), &[(1, Manner::Good)]).await;
    let part = source.until(|part| part.state == State::Up).await;
    assert_eq!(part.counters["units_failing"], 0);
    while let Ok(frame) = source.frames.try_recv() {
        assert_eq!(*frame.topic, *"S/u1");
    }
    assert_eq!(source.next(1).await, [(0, 5.0)]);
    source.stop().await;
}

#[tokio::test]
async fn a_poll_that_the_journal_refuses_is_shed_and_counted() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Good)]).await;
    let (seen, refused) = (AtomicU64::new(0), Arc::new(AtomicUsize::new(0)));
    let noted = refused.clone();
    let verdict = move |frames: &[Frame]| match seen.fetch_add(1, Ordering::Relaxed) {
        0..3 => {
            noted.fetch_add(frames.len(), Ordering::Relaxed);
            Err(RefusedCause::Busy)
        }
        _ => Ok(()),
    };
    let mut source =
        Source::start_with(Clock::system(), inventory(running.address, &[(1, 50, &profile([holding(5)]))]), verdict);
    let part = source.until(|part| part.state == State::Degraded).await;
    assert_eq!(part.detail, "the journal takes no polls: busy");
    assert_eq!(source.next(1).await, [(0, 5.0)]);
    let shed = source.until(|part| part.state == State::Up).await.counters["polls_shed"];
    assert!(shed >= 3 && shed == refused.load(Ordering::Relaxed) as u64, "{shed} of {refused:?}");
    source.stop().await;
}

#[tokio::test]
async fn polls_are_in_the_journal_as_they_came() {
    let running = serve("127.0.0.1:0", &[(1, Manner::Good)]).await;
    let folder = tempfile::tempdir().expect("folder");
    let journal_options = journal::Options {
        folder: folder.path().to_owned(),
        bytes_max: 1 << 24,
        segment_bytes: 1 << 20,
        commit_interval: Duration::from_millis(1),
        age_max: Duration::from_hours(1),
    };
    let health = Arc::new(Health::default());
    let part = health.part(PartKind::Journal, "", Clock::system().now());
    let storage = Arc::new(Folder::open(folder.path()).expect("folder"));
    let journal = Journal::open(storage, journal_options, JournalPosition(0), part, Clock::system()).expect("opens");
    let (clock, nobody) = (Clock::system(), Arc::new(Inventory::default()));
    let (stop, stopping) = watch::channel(false);
    let idle = start(options(), nobody, journal.inlet(), clock, health.clone(), stopping.clone());
    assert!(idle.expect("nothing to start").is_none());
    let inventory = inventory(running.address, &[(1, 50, &profile([holding(10)]))]);
    let source = start(options(), inventory, journal.inlet(), clock, health, stopping).expect("a thread");
    let give_up = Instant::now() + DEADLINE;
    while journal.end() < JournalPosition(2) {
        assert!(Instant::now() < give_up);
        sleep(Duration::from_millis(2)).await;
    }
    let mut entries = Vec::new();
    journal.reader(JournalPosition(0)).read(1 << 20, &mut entries).expect("reads");
    for entry in entries {
        let Entry::Frame(frame) = entry else { panic!("{entry:?}") };
        let data = BlockData::Registers(vec![10]);
        let expected = encode_poll(&[Block { table: RegisterTable::Holding, address: 10, data }]);
        assert_eq!((frame.kind, &*frame.topic, frame.payload), (FrameKind::ModbusPoll, "S/u1", expected));
    }
    stop.send(true).expect("source runs");
    let stopping = tokio::task::spawn_blocking(move || {
        source.expect("there is a device").join().expect("no panic");
        journal.close();
    });
    timeout(DEADLINE, stopping).await.expect("stops in time").expect("closes");
}

#[test]
fn only_listed_modbus_devices_are_polled() {
    let address: SocketAddr = "192.0.2.1:502".parse().expect("address");
    let map = profile([holding(5)]);
    let mut inventory = Arc::unwrap_or_clone(inventory(address, &[(1, 50, &map), (2, 50, &map)]));
    inventory.device_mut(DeviceId(1)).expect("listed").registered = false;
    let mut heard = inventory.device(DeviceId(0)).expect("listed").clone();
    (heard.name, heard.connection) = (Arc::from("publishes"), Connection::Mqtt);
    inventory.add_device(heard);
    let found: Vec<_> = endpoints(&inventory).into_iter().map(|(address, devices)| (address, devices.len())).collect();
    assert_eq!(found, [(Arc::from("192.0.2.1:502"), 1)]);
}
