//! One endpoint: a connection that its devices share, polled by the schedule, each poll a frame.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::link::{Failure, Link, exception_name};
use super::plan::{ReadRequest, plan};
use super::schedule::{Entry, Next, Schedule};
use super::{Deliver, Options};
use crate::clock::Clock;
use crate::decode::modbus::{Block, BlockData, encode_poll};
use crate::health::{Counter, Part, State};
use crate::inventory::{Connection, Device, Inventory, RegisterTable};
use crate::journal::RefusedCause;
use crate::model::{Frame, FrameKind, Timestamp};

/// Interval of a device for which neither the inventory nor its profile declares one, in milliseconds.
const INTERVAL_MS_DEFAULT: u32 = 60_000;
/// Longest sleep, so that a clock that was set is noticed.
const SLEEP_MAX: Duration = Duration::from_mins(1);
/// Devices in trouble that a part's detail names.
const NAMED_MAX: usize = 8;

/// A device as this endpoint polls it.
struct Target {
    /// `site/device`.
    topic: Box<str>,
    /// Index of its site.
    site: usize,
    unit: u8,
    requests: Vec<ReadRequest>,
    /// What is wrong with it.
    trouble: Option<String>,
}

struct Counters {
    polls: Counter,
    registers: Counter,
    timeouts: Counter,
    exceptions: Counter,
    connects: Counter,
    late_polls: Counter,
    polls_backed_off: Counter,
    polls_shed: Counter,
    units_failing: Counter,
}

impl Counters {
    fn new(part: &Part) -> Self {
        Self {
            polls: part.counter("polls"),
            registers: part.counter("registers"),
            timeouts: part.counter("timeouts"),
            exceptions: part.counter("exceptions"),
            connects: part.counter("connects"),
            late_polls: part.counter("late_polls"),
            polls_backed_off: part.counter("polls_backed_off"),
            polls_shed: part.counter("polls_shed"),
            units_failing: part.counter("units_failing"),
        }
    }
}

/// What an endpoint shares with the others.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) options: Options,
    pub(super) inventory: Arc<Inventory>,
    pub(super) deliver: Deliver,
    pub(super) clock: Clock,
}

/// How a poll of a device went.
enum Fate {
    /// Its unit answered, if only with exceptions.
    Answered,
    /// Its unit did not.
    Silent,
    /// There was no connection.
    Unreachable(String),
}

/// One `host:port` and the devices behind it.
pub(super) struct Endpoint {
    around: Surroundings,
    address: Arc<str>,
    targets: Vec<Target>,
    /// Unit identifiers; a target's unit is known to the schedule by its index here.
    units: Vec<u8>,
    schedule: Schedule,
    link: Option<Link>,
    part: Arc<Part>,
    counters: Counters,
    unreachable: Option<String>,
    refused: Option<RefusedCause>,
    /// Whether what was reported last no longer holds.
    changed: bool,
}

impl Endpoint {
    /// The endpoint at `address` with its devices.
    pub(super) fn new(around: Surroundings, address: Arc<str>, devices: &[&Device], part: Arc<Part>) -> Self {
        let unit_of = |device: &Device| match device.connection {
            Connection::ModbusTcp { unit, .. } => Some(unit),
            Connection::Mqtt => None,
        };
        let units: Vec<u8> =
            devices.iter().filter_map(|device| unit_of(device)).collect::<BTreeSet<_>>().into_iter().collect();
        let (mut targets, mut entries) = (Vec::new(), Vec::new());
        for device in devices {
            let Some(unit) = unit_of(device) else { continue };
            let Ok(unit_index) = units.binary_search(&unit) else { continue };
            let topic = format!("{}/{}", around.inventory.site_of(device).id, device.name).into_boxed_str();
            let requests = plan(&device.profile, around.options.gap_registers_max);
            if requests.is_empty() {
                warn!(endpoint = %address, device = %topic, profile = device.profile.id, "modbus device has no registers to read");
                continue;
            }
            let interval_ms = device.interval_ms.or(device.profile.interval_ms).unwrap_or(INTERVAL_MS_DEFAULT);
            entries.push(Entry::new(&topic, interval_ms, unit_index));
            targets.push(Target { topic, site: device.site, unit, requests, trouble: None });
        }
        let schedule = Schedule::new(&entries, around.options.backoff_max, around.clock.now());
        let counters = Counters::new(&part);
        let (link, unreachable, refused, changed) = (None, None, None, true);
        Self { around, address, targets, units, schedule, link, part, counters, unreachable, refused, changed }
    }

    /// Polls until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            match self.schedule.next(self.around.clock.now()) {
                Next::Poll(index) => {
                    self.poll(index).await;
                    self.report();
                }
                Next::Wait(until) => sleep(self.around.clock.real_until(until).min(SLEEP_MAX)).await,
            }
            let skipped = self.schedule.take_skipped();
            self.counters.late_polls.add(skipped.late);
            self.counters.polls_backed_off.add(skipped.backed_off);
        }
    }

    async fn poll(&mut self, index: usize) {
        let asked = self.around.clock.now();
        if !self.around.inventory.sites()[self.targets[index].site].in_service(asked) {
            return;
        }
        self.counters.polls.add(1);
        let (blocks, trouble, fate) = self.read(index).await;
        let now = self.around.clock.now();
        match fate {
            Fate::Answered => {
                self.schedule.answered(index, now);
            }
            Fate::Silent => self.schedule.silent(index, asked, now, fastrand::f64()),
            Fate::Unreachable(reason) => {
                self.schedule.unreachable(now, fastrand::f64());
                self.changed |= self.unreachable.as_ref() != Some(&reason);
                self.unreachable = Some(reason);
            }
        }
        if self.unreachable.is_none() {
            self.note_trouble(index, trouble);
        }
        if !blocks.is_empty() {
            self.deliver(index, &blocks, now);
        }
    }

    /// Asks for all of a device's blocks. What was answered before a failure counts.
    async fn read(&mut self, index: usize) -> (Vec<Block>, Option<String>, Fate) {
        let unit = self.targets[index].unit;
        let mut requests = std::mem::take(&mut self.targets[index].requests).into_iter();
        let (mut blocks, mut kept, mut trouble, mut fate) = (Vec::new(), Vec::new(), None, Fate::Answered);
        for request in requests.by_ref() {
            let failure = match self.ask(unit, &request).await {
                Ok(data) => {
                    self.counters.registers.add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    blocks.push(Block { table: request.table, address: request.address, data });
                    kept.push(request);
                    continue;
                }
                Err(failure) => failure,
            };
            if let Failure::Exception(2 | 3) = failure
                && let Some(parts) = request.split()
            {
                kept.extend(parts);
                continue;
            }
            trouble = trouble.or_else(|| Some(self.describe(&request, &failure)));
            kept.push(request);
            match failure {
                // A gateway says so of a unit behind it that is not there.
                Failure::Exception(10 | 11) | Failure::Timeout | Failure::Lost(_) => fate = Fate::Silent,
                Failure::Exception(_) => continue,
                Failure::Unreachable(reason) => fate = Fate::Unreachable(reason),
            }
            break;
        }
        kept.extend(requests);
        self.targets[index].requests = kept;
        (blocks, trouble, fate)
    }

    /// Sends one request. A connection that served before and is found closed is replaced once: many devices close
    /// what was idle for a while.
    async fn ask(&mut self, unit: u8, request: &ReadRequest) -> Result<BlockData, Failure> {
        let proven = self.link.as_ref().is_some_and(|link| link.proven);
        match self.ask_once(unit, request).await {
            Err(Failure::Lost(_)) if proven => self.ask_once(unit, request).await,
            answer => answer,
        }
    }

    async fn ask_once(&mut self, unit: u8, request: &ReadRequest) -> Result<BlockData, Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect().await?,
        };
        let options = &self.around.options;
        let answer = link.read(unit, request, options.request_timeout, options.request_pause).await;
        match &answer {
            Ok(_) => self.link = Some(link),
            Err(Failure::Exception(_)) => {
                self.counters.exceptions.add(1);
                self.link = Some(link);
            }
            Err(Failure::Timeout) => self.counters.timeouts.add(1),
            Err(Failure::Lost(_) | Failure::Unreachable(_)) => {}
        }
        answer
    }

    async fn connect(&mut self) -> Result<Link, Failure> {
        let link = Link::open(&self.address, self.around.options.connect_timeout).await?;
        self.counters.connects.add(1);
        self.schedule.reachable();
        self.changed |= self.unreachable.take().is_some();
        Ok(link)
    }

    fn describe(&self, request: &ReadRequest, failure: &Failure) -> String {
        match failure {
            Failure::Exception(code) => {
                let table = match request.table {
                    RegisterTable::Coil => "coils",
                    RegisterTable::DiscreteInput => "discrete inputs",
                    RegisterTable::Holding => "holding registers",
                    RegisterTable::Input => "input registers",
                };
                let (first, last) = (request.address, request.address.saturating_add(request.count - 1));
                format!("exception {code} ({}) at {table} {first}-{last}", exception_name(*code))
            }
            Failure::Timeout => format!("no answer within {:?}", self.around.options.request_timeout),
            Failure::Lost(reason) | Failure::Unreachable(reason) => reason.clone(),
        }
    }

    fn note_trouble(&mut self, index: usize, trouble: Option<String>) {
        let target = &mut self.targets[index];
        match (&target.trouble, &trouble) {
            (None, Some(trouble)) => {
                warn!(endpoint = %self.address, device = %target.topic, unit = target.unit, %trouble, "modbus device in trouble");
            }
            (Some(_), None) => {
                info!(endpoint = %self.address, device = %target.topic, unit = target.unit, "modbus device answers again");
            }
            _ => {}
        }
        self.changed |= target.trouble != trouble;
        target.trouble = trouble;
    }

    fn deliver(&mut self, index: usize, blocks: &[Block], arrival: Timestamp) {
        let frame = Frame {
            source: self.around.options.name.clone(),
            kind: FrameKind::ModbusPoll,
            topic: self.targets[index].topic.clone(),
            payload: encode_poll(blocks),
            arrival,
        };
        let refused = (self.around.deliver)(frame).err();
        self.counters.polls_shed.add(u64::from(refused.is_some()));
        self.changed |= self.refused != refused;
        self.refused = refused;
    }

    fn report(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let units_failing = (0..self.units.len()).filter(|&unit| self.schedule.failing(unit)).count();
        let troubles: Vec<_> = self.targets.iter().filter_map(|it| Some((it, it.trouble.as_ref()?))).collect();
        let (state, detail) = if let Some(reason) = &self.unreachable {
            (State::Down, format!("no connection: {reason}"))
        } else if let Some(cause) = self.refused {
            (State::Degraded, format!("the journal takes no polls: {}", cause_name(cause)))
        } else if troubles.is_empty() {
            (State::Up, format!("polling {} devices at {} units", self.targets.len(), self.units.len()))
        } else {
            let state = if units_failing == self.units.len() { State::Down } else { State::Degraded };
            let mut parts: Vec<_> = troubles
                .iter()
                .take(NAMED_MAX)
                .map(|(target, trouble)| format!("unit {} ({}): {trouble}", target.unit, target.topic))
                .collect();
            if troubles.len() > NAMED_MAX {
                parts.push(format!("and {} more", troubles.len() - NAMED_MAX));
            }
            (state, parts.join("; "))
        };
        let units_failing = if self.unreachable.is_some() { self.units.len() } else { units_failing };
        self.counters.units_failing.set(u64::try_from(units_failing).unwrap_or(u64::MAX));
        if self.part.report(state, &detail, self.around.clock.now()) {
            match state {
                State::Down => warn!(endpoint = %self.address, detail, "modbus endpoint is down"),
                State::Degraded => warn!(endpoint = %self.address, detail, "modbus endpoint is degraded"),
                State::Up | State::Starting => info!(endpoint = %self.address, detail, "modbus endpoint is up"),
            }
        }
    }
}

const fn cause_name(cause: RefusedCause) -> &'static str {
    match cause {
        RefusedCause::Busy => "busy",
        RefusedCause::Full => "full",
        RefusedCause::Closed => "closed",
    }
}
