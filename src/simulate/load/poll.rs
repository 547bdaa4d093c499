//! A poller that does the least that a poller can: it reads registers at a pace and counts.
//!
//! What it costs is the floor under every collector that polls the same devices with the same library.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_modbus::client::{Context, Reader, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};

use super::{CpuTime, Error, ModbusOptions, cpu_time, io_error};

/// Classes of how late polls started, a millisecond each; the last is for all that were later.
const DELAY_CLASSES: usize = 1_001;

/// How the devices are polled.
#[derive(Clone, Copy, Debug)]
pub struct PollOptions {
    /// The devices, as [`super::ModbusLoad`] serves them.
    pub devices: ModbusOptions,
    /// From a device's poll to its next one.
    pub interval: Duration,
    /// First polls lie evenly over the interval, moved back to a multiple of this: the devices of one step are polled
    /// together.
    pub step: Duration,
}

/// A poller that is connected to all of its devices and has not asked any.
pub struct BarePoller {
    links: Vec<Link>,
    interval: Duration,
    board: Arc<PollBoard>,
}

/// The counts, which may be looked at while it polls.
#[derive(Debug)]
pub struct PollBoard {
    polls: AtomicU64,
    failures: AtomicU64,
    delays: Vec<AtomicU64>,
    began: Instant,
    cpu: CpuTime,
}

/// What was polled so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Polled {
    /// Polls that were answered.
    pub polls: u64,
    /// Polls that were not.
    pub failures: u64,
    /// Half of the polls began no later than this after their instant, ms.
    pub delay_ms_p50: u64,
    /// 99 of a hundred.
    pub delay_ms_p99: u64,
    /// Since the connections stand.
    pub elapsed: Duration,
    /// CPU time of the process since then.
    pub cpu: CpuTime,
}

struct Link {
    context: Context,
    units: u8,
    registers: u16,
    /// When its first poll is due, after the start.
    phase: Duration,
}

impl BarePoller {
    /// Connects to every port.
    ///
    /// # Errors
    /// [`Error`] where nobody listens at one.
    pub async fn connect(options: PollOptions) -> Result<Self, Error> {
        let PollOptions { devices, interval, step } = options;
        let units_per_port = usize::from(devices.units_per_port.max(1));
        let ports = devices.devices.div_ceil(units_per_port);
        let mut links = Vec::with_capacity(ports);
        for index in 0..ports {
            let port = u16::try_from(usize::from(devices.port) + index).unwrap_or(u16::MAX);
            let address = SocketAddr::new(devices.host, port);
            let failed = |source| io_error(format!("connect to {address}"))(source);
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let units = (devices.devices - index * units_per_port).min(units_per_port);
            links.push(Link {
                context: tcp::attach(stream),
                units: u8::try_from(units).unwrap_or(u8::MAX),
                registers: devices.registers,
                phase: stepped(share(interval, index, ports), step),
            });
        }
        let board = PollBoard {
            polls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            delays: (0..DELAY_CLASSES).map(|_| AtomicU64::new(0)).collect(),
            began: Instant::now(),
            cpu: cpu_time(),
        };
        Ok(Self { links, interval, board: Arc::new(board) })
    }

    /// Where it counts.
    #[must_use]
    pub fn board(&self) -> Arc<PollBoard> {
        self.board.clone()
    }

    /// Polls until it is dropped: a task per connection, whose units take turns.
    pub async fn run(self) {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for mut link in self.links {
            let board = self.board.clone();
            let mut ticks = interval_at(begin + link.phase, self.interval / u32::from(link.units.max(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            tasks.spawn(async move {
                for unit in (1..=link.units).cycle() {
                    let due = ticks.tick().await;
                    board.begun(due.elapsed());
                    link.context.set_slave(Slave(unit));
                    let answer = link.context.read_holding_registers(0, link.registers).await;
                    let whole = matches!(answer, Ok(Ok(words)) if words.len() == usize::from(link.registers));
                    let counter = if whole { &board.polls } else { &board.failures };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl PollBoard {
    fn begun(&self, delay: Duration) {
        let class = usize::try_from(delay.as_millis()).unwrap_or(usize::MAX).min(DELAY_CLASSES - 1);
        self.delays[class].fetch_add(1, Ordering::Relaxed);
    }

    /// What was polled so far.
    #[must_use]
    pub fn polled(&self) -> Polled {
        let delays: Vec<u64> = self.delays.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Polled {
            polls: self.polls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            delay_ms_p50: quantile(&delays, 50),
            delay_ms_p99: quantile(&delays, 99),
            elapsed: self.began.elapsed(),
            cpu: cpu_time().since(self.cpu),
        }
    }
}

/// The upper end of the class, a millisecond wide, within which `percent` of what was counted lies.
fn quantile(classes: &[u64], percent: u64) -> u64 {
    let wanted = (classes.iter().sum::<u64>() * percent).div_ceil(100);
    let mut sum = 0;
    let found = classes.iter().position(|count| {
        sum += count;
        sum >= wanted
    });
    found.map_or(0, |class| class as u64 + 1)
}

/// Where the `index`-th of `count` begins in `span`, so that they lie evenly.
fn share(span: Duration, index: usize, count: usize) -> Duration {
    let (index, count) = (u32::try_from(index).unwrap_or(u32::MAX), u32::try_from(count).unwrap_or(u32::MAX));
    span * index / count.max(1)
}

/// The last multiple of `step` that is no longer than `span`; `span` where there is no step.
fn stepped(span: Duration, step: Duration) -> Duration {
    let rest = span.as_nanos().checked_rem(step.as_nanos()).unwrap_or(0);
    span.saturating_sub(Duration::from_nanos(u64::try_from(rest).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    use super::*;
    use crate::simulate::load::ModbusLoad;

    #[test]
    fn a_quantile_is_the_end_of_its_class() {
        assert_eq!(quantile(&[0, 0], 99), 1, "of nothing");
        assert_eq!((quantile(&[98, 1, 1], 50), quantile(&[98, 1, 1], 99), quantile(&[98, 0, 2], 99)), (1, 2, 3));
    }

    #[test]
    fn phases_are_moved_back_to_their_step() {
        let ms = Duration::from_millis;
        assert_eq!([19, 20, 21].map(|phase| stepped(ms(phase), ms(10))), [10, 20, 20].map(ms));
        assert_eq!(stepped(ms(19), Duration::ZERO), ms(19));
    }

    /// Five devices at two neighbouring ports.
    async fn bound() -> (ModbusLoad, ModbusOptions) {
        for _ in 0..100 {
            // A port that was free a moment ago; the one after it may be taken, as may both by now.
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
            let devices = ModbusOptions {
                host: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: free.port(),
                devices: 5,
                units_per_port: 4,
                registers: 60,
            };
            if let Ok(load) = ModbusLoad::bind(devices).await {
                return (load, devices);
            }
        }
        panic!("no two neighbouring ports are free");
    }

    #[tokio::test]
    async fn every_unit_of_every_port_is_asked() {
        let (load, devices) = bound().await;
        let requests = load.requests();
        let options = PollOptions { devices, interval: Duration::from_millis(40), step: Duration::ZERO };
        let polls = async {
            let poller = BarePoller::connect(options).await;
            let poller = poller.expect("connected");
            let board = poller.board();
            let enough = async {
                while board.polled().polls < 10 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { () = poller.run() => {}, () = enough => {} }
            board.polled()
        };
        let polled = tokio::select! { () = load.serve() => None, polled = polls => Some(polled) }.expect("served");
        assert!(polled.polls >= 10 && polled.failures == 0, "{polled:?}");
        assert!(requests.load(Ordering::Relaxed) >= polled.polls);
    }
}
