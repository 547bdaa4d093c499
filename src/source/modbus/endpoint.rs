//! One endpoint: a connection that its devices share, polled by the schedule, each poll a frame.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::Options;
use super::basket::{Basket, Outlet};
use super::delays::DelayCounters;
use super::link::{Failure, Link, exception_name, is_lasting};
use super::plan::{ReadRequest, plan};
use super::schedule::{Entry, Next, Schedule};
use crate::backoff::Backoff;
use crate::clock::{Clock, StepWatch};
use crate::decode::modbus::{Block, BlockData, encode_poll};
use crate::health::{Counter, Part, State, Trouble};
use crate::inventory::{Connection, Device, Inventory, RegisterTable};
use crate::journal::RefusedCause;
use crate::model::{Frame, FrameKind, Timestamp, millis};

/// Interval of a device for which neither the inventory nor its profile declares one, in milliseconds.
const INTERVAL_MS_DEFAULT: u32 = 60_000;
/// Longest sleep, so that a clock that was set is noticed.
const SLEEP_MAX: Duration = Duration::from_mins(1);
/// Devices in trouble that a part's detail names.
const NAMED_MAX: usize = 8;
/// Least time between two log lines that say of the same device that it is in trouble, so that one that comes and goes
/// does not fill the log; on the daemon's clock.
const LINE_INTERVAL_MS: i64 = 60_000;
/// Wait before registers are asked for again that the device says it does not have, and the longest one.
const HOLE_FIRST: Duration = Duration::from_secs(10);
const HOLE_LONGEST: Duration = Duration::from_hours(1);
/// Wait before registers are asked for again that the device could not give at that moment.
const REFUSED_FIRST: Duration = Duration::from_secs(1);

/// A device as this endpoint polls it.
struct Target {
    /// `site/device`.
    topic: String,
    /// Index of its site.
    site: usize,
    unit: u8,
    requests: Vec<Planned>,
    /// What is wrong with it.
    trouble: Option<Ailing>,
    /// When the log last said that it is in trouble, and whether that is still what the log says.
    told: Option<(Timestamp, bool)>,
}

/// A request of a device's poll.
struct Planned {
    request: ReadRequest,
    /// Set while the device answers it with an exception: it is asked again later, not with every poll.
    rest: Option<Rest>,
}

struct Rest {
    backoff: Backoff,
    longest: Duration,
    until: Timestamp,
    reason: String,
}

impl Planned {
    fn new(request: ReadRequest) -> Self {
        Self { request, rest: None }
    }

    /// Why it is not to be asked at `now`, where it is not.
    fn resting(&self, now: Timestamp) -> Option<&str> {
        let rest = self.rest.as_ref()?;
        // A wait that is longer than any may be is one of before the clock was set.
        let left_ms = rest.until.millis_since(now);
        (left_ms > 0 && left_ms <= millis(rest.longest)).then_some(rest.reason.as_str())
    }

    /// Notes that the device answered it with exception `code`.
    fn refused(&mut self, code: u8, reason: String, backoff_max: Duration, now: Timestamp) {
        let (first, longest) = if is_lasting(code) { (HOLE_FIRST, HOLE_LONGEST) } else { (REFUSED_FIRST, backoff_max) };
        let earlier = self.rest.take().filter(|rest| rest.longest == longest);
        let mut backoff = earlier.map_or_else(|| Backoff::between(first, longest), |rest| rest.backoff);
        let until = now.plus_millis(millis(backoff.failed(fastrand::f64())));
        self.rest = Some(Rest { backoff, longest, until, reason });
    }
}

/// A trouble of a device that lasts.
struct Ailing {
    reason: String,
    since: Timestamp,
    count: u64,
}

struct Counters {
    polls: Counter,
    registers: Counter,
    timeouts: Counter,
    exceptions: Counter,
    connects: Counter,
    late_polls: Counter,
    polls_backed_off: Counter,
    units_failing: Counter,
    delays: DelayCounters,
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
            units_failing: part.counter("units_failing"),
            delays: DelayCounters::of(part),
        }
    }
}

/// What an endpoint shares with the others.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) options: Options,
    pub(super) inventory: Arc<Inventory>,
    pub(super) basket: Arc<Basket>,
    pub(super) clock: Clock,
    /// Requests that were sent since the thread last waited.
    pub(super) asked: Arc<AtomicUsize>,
}

/// How a poll of a device went.
enum Fate {
    /// It was asked nothing: all that it is to be asked rests.
    Unasked,
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
    /// Why there is no connection, and since when.
    unreachable: Option<(String, Timestamp)>,
    outlet: Arc<Outlet>,
    /// Why the journal refused the last poll, as it was reported.
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
            let topic = format!("{}/{}", around.inventory.site_of(device).id, device.name);
            let requests = plan(&device.profile, around.options.gap_registers_max);
            let requests: Vec<_> = requests.into_iter().map(Planned::new).collect();
            if requests.is_empty() {
                warn!(endpoint = %address, device = %topic, profile = device.profile.id, "modbus device has no registers to read");
                continue;
            }
            let interval_ms = device.interval_ms.or(device.profile.interval_ms).unwrap_or(INTERVAL_MS_DEFAULT);
            entries.push(Entry::new(&topic, interval_ms, unit_index));
            targets.push(Target { topic, site: device.site, unit, requests, trouble: None, told: None });
        }
        let Options { backoff_max, request_timeout, .. } = around.options;
        let schedule = Schedule::new(&entries, backoff_max, request_timeout, around.clock.now());
        let counters = Counters::new(&part);
        let outlet = Arc::new(Outlet::new(part.counter("polls_shed")));
        let (link, unreachable, refused, changed) = (None, None, None, true);
        Self { around, address, targets, units, schedule, link, part, counters, unreachable, outlet, refused, changed }
    }

    /// Polls until it is dropped.
    pub(super) async fn run(mut self) {
        let clock = self.around.clock;
        let mut watch = StepWatch::new(clock.now(), Instant::now());
        loop {
            let now = clock.now();
            if watch.look(&clock, now, Instant::now()).is_some() {
                self.schedule.clock_was_set(now);
            }
            let next = self.schedule.next(now);
            match next {
                Next::Poll(index) => self.poll(index).await,
                Next::Wait(until) => sleep(clock.real_until(until).min(SLEEP_MAX)).await,
            }
            let skipped = self.schedule.take_skipped();
            self.counters.late_polls.add(skipped.late);
            self.counters.polls_backed_off.add(skipped.backed_off);
            // What the journal says of a poll is known a while after it.
            if matches!(next, Next::Poll(_)) || self.outlet.refused() != self.refused {
                self.report();
            }
        }
    }

    async fn poll(&mut self, index: usize) {
        let asked = self.around.clock.now();
        if !self.around.inventory.sites()[self.targets[index].site].in_service(asked) {
            return;
        }
        let delay_ms = self.schedule.delay_ms(index, asked);
        let (blocks, trouble, fate) = self.read(index, asked).await;
        let now = self.around.clock.now();
        match fate {
            Fate::Unasked => return self.counters.polls_backed_off.add(1),
            Fate::Answered => self.schedule.answered(index, asked, now),
            Fate::Silent => self.schedule.silent(index, asked, now, fastrand::f64()),
            Fate::Unreachable(reason) => {
                self.schedule.unreachable(now, fastrand::f64());
                self.changed = true;
                let since = self.unreachable.take().map_or(asked, |(_, since)| since);
                self.unreachable = Some((reason, since));
            }
        }
        self.counters.polls.add(1);
        if let Some(delay_ms) = delay_ms {
            self.counters.delays.note(delay_ms);
        }
        if self.unreachable.is_none() {
            self.note_trouble(index, trouble, now);
        }
        if !blocks.is_empty() {
            self.deliver(index, &blocks, now);
        }
    }

    /// Asks for all of a device's blocks but those that rest. What was answered before a failure counts.
    async fn read(&mut self, index: usize, now: Timestamp) -> (Vec<Block>, Option<String>, Fate) {
        let unit = self.targets[index].unit;
        let mut requests = std::mem::take(&mut self.targets[index].requests);
        let (mut blocks, mut trouble, mut fate, mut next) = (Vec::new(), None, Fate::Unasked, 0);
        while let Some(planned) = requests.get_mut(next) {
            next += 1;
            if let Some(reason) = planned.resting(now) {
                trouble.get_or_insert_with(|| reason.to_owned());
                continue;
            }
            fate = Fate::Answered;
            let request = &planned.request;
            let failure = match self.ask(unit, request).await {
                Ok(data) => {
                    self.counters.registers.add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    blocks.push(Block { table: request.table, address: request.address, data });
                    planned.rest = None;
                    continue;
                }
                Err(failure) => failure,
            };
            if let Failure::Exception(2 | 3) = failure
                && let Some(parts) = request.split()
            {
                let after = next - 1 + parts.len();
                requests.splice(next - 1..next, parts.into_iter().map(Planned::new));
                next = after;
                continue;
            }
            let reason = self.describe(request, &failure);
            trouble.get_or_insert_with(|| reason.clone());
            match failure {
                // A gateway says so of a unit behind it that is not there.
                Failure::Exception(10 | 11) | Failure::Timeout | Failure::Lost(_) => fate = Fate::Silent,
                Failure::Exception(code) => {
                    planned.refused(code, reason, self.around.options.backoff_max, now);
                    continue;
                }
                Failure::Unreachable(reason) => fate = Fate::Unreachable(reason),
            }
            break;
        }
        self.targets[index].requests = requests;
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
        link.rest().await;
        self.around.asked.fetch_add(1, Ordering::Relaxed);
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
                let (name, advice) = exception_name(*code);
                format!("exception {code} ({name}) at {table} {first}-{last}; {advice}")
            }
            Failure::Timeout => {
                let span = self.around.options.request_timeout;
                format!("no answer within {span:?}; check the unit number, and that the device is on")
            }
            Failure::Lost(reason) | Failure::Unreachable(reason) => reason.clone(),
        }
    }

    fn note_trouble(&mut self, index: usize, trouble: Option<String>, now: Timestamp) {
        let target = &mut self.targets[index];
        self.changed |= target.trouble.is_some() || trouble.is_some();
        match trouble {
            None => {
                target.trouble = None;
                if let Some((_, told @ true)) = &mut target.told {
                    *told = false;
                    info!(endpoint = %self.address, device = %target.topic, unit = target.unit, "modbus device answers again");
                }
            }
            Some(reason) => {
                let since = target.trouble.as_ref().map_or(now, |ailing| ailing.since);
                let count = target.trouble.as_ref().map_or(0, |ailing| ailing.count) + 1;
                let due = match target.told {
                    None => true,
                    Some((_, true)) => false,
                    Some((at, false)) => !(0..LINE_INTERVAL_MS).contains(&now.millis_since(at)),
                };
                if due {
                    target.told = Some((now, true));
                    warn!(endpoint = %self.address, device = %target.topic, unit = target.unit, trouble = reason, "modbus device in trouble");
                }
                target.trouble = Some(Ailing { reason, since, count });
            }
        }
    }

    /// What keeps failing, for people: the endpoint as a whole, or its devices.
    fn troubles(&self) -> Vec<Trouble> {
        if let Some((reason, since)) = &self.unreachable {
            let (count, next) = self.schedule.outlook(0);
            let (subject, reason) = (self.address.to_string(), reason.clone());
            return vec![Trouble { subject, reason, since: *since, count, next: Some(next) }];
        }
        let ailing = self.targets.iter().enumerate().filter_map(|(index, it)| Some((index, it, it.trouble.as_ref()?)));
        let trouble = |(index, target, ailing): (usize, &Target, &Ailing)| {
            let resting = target.requests.iter().filter_map(|planned| Some(planned.rest.as_ref()?.until)).min();
            let next = self.schedule.outlook(index).1;
            Trouble {
                subject: format!("unit {} ({})", target.unit, target.topic),
                reason: ailing.reason.clone(),
                since: ailing.since,
                count: ailing.count,
                next: Some(resting.map_or(next, |until| until.max(next))),
            }
        };
        ailing.map(trouble).collect()
    }

    fn deliver(&self, index: usize, blocks: &[Block], arrival: Timestamp) {
        let frame = Frame {
            source: self.around.options.name.clone(),
            kind: FrameKind::ModbusPoll,
            topic: self.targets[index].topic.clone(),
            payload: encode_poll(blocks),
            arrival,
        };
        self.around.basket.put(frame, &self.outlet);
    }

    fn report(&mut self) {
        let refused = self.outlet.refused();
        self.changed |= self.refused != refused;
        self.refused = refused;
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let units_failing = (0..self.units.len()).filter(|&unit| self.schedule.failing(unit)).count();
        let troubles = self.troubles();
        let (state, detail) = if let Some((reason, _)) = &self.unreachable {
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
                .map(|trouble| format!("{}: {}", trouble.subject, trouble.reason))
                .collect();
            if troubles.len() > NAMED_MAX {
                parts.push(format!("and {} more", troubles.len() - NAMED_MAX));
            }
            (state, parts.join("; "))
        };
        let units_failing = if self.unreachable.is_some() { self.units.len() } else { units_failing };
        self.counters.units_failing.set(u64::try_from(units_failing).unwrap_or(u64::MAX));
        self.part.set_troubles(troubles);
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
