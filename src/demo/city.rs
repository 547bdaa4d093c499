//! The demo while it runs: the simulated city, the broker between, and the daemon.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use super::findings::{self, Report};
use super::folder::{Contents, Folder};
use super::{Args, Error, io_error, load};
use crate::app::Daemon;
use crate::clock::Clock;
use crate::health::{PartKind, State};
use crate::indicator::{Description, Level};
use crate::inventory::Inventory;
use crate::ledger::{Counts, Ledger};
use crate::model::{BASE_WINDOW_MS, Timestamp, Window, millis};
use crate::simulate::{Broker, City, CityOptions, FaultTally, ModbusServer, Publisher};
use crate::store::{IndicatorRow, Reader};

/// Racks of the data centre.
const RACKS: usize = 40;
/// Seed of the city, so that every demo shows the same one.
const SEED: u64 = 350_100;
/// Real time from the start of the clock to the first message, for the collector to be there by then.
const LEAD: Duration = Duration::from_millis(1_500);
/// Time that the collector may take to hear the broker.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(15);
/// Time that what is on its way may take at the end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(8);
/// Time between looks while waiting.
const STEP: Duration = Duration::from_millis(20);
/// Where the page listens where nothing else does.
const PORT: u16 = 8_800;

/// The demo while it runs.
pub(super) struct Demo {
    daemon: Daemon,
    publisher: Publisher,
    city: City,
    tally: Arc<FaultTally>,
    clock: Clock,
    start: Timestamp,
    args: Args,
    reader: Reader,
    /// What the daemon uses; dropped after it.
    _around: (Vec<ModbusServer>, Broker, Folder),
}

/// What is told at the start.
#[derive(Debug)]
pub(super) struct Intro {
    pub(super) page: SocketAddr,
    pub(super) stations: u16,
    pub(super) racks: usize,
    pub(super) devices: usize,
    pub(super) speed: u16,
    pub(super) start: Timestamp,
}

/// What is shown while it runs.
#[derive(Debug)]
pub(super) struct View {
    pub(super) now: Timestamp,
    pub(super) at: Instant,
    pub(super) lag_ms: i64,
    pub(super) ledger: Ledger,
    pub(super) faults: u64,
    /// Newest city row of each indicator and window.
    pub(super) rows: Vec<IndicatorRow>,
    pub(super) descriptions: Arc<[Description]>,
}

impl Demo {
    /// Starts broker, devices and collector.
    pub(super) async fn start(args: &Args) -> Result<Self, Error> {
        let broker = Broker::start().await?;
        let zone = jiff::tz::TimeZone::get("Asia/Shanghai").unwrap_or(jiff::tz::TimeZone::UTC);
        // From a full hour on, so that windows of every length fill from their start.
        let start = Window::Hour1.bounds(Clock::system().now(), &zone).0;
        let options = CityOptions { stations: args.sites.into(), racks: RACKS, start, zone, seed: SEED };
        let mut city = City::new(&options).map_err(Error::Config)?;
        let tally = Arc::<FaultTally>::default();
        let clock = clock(start, args.speed);
        let mut servers = Vec::new();
        for endpoint in city.endpoints() {
            let server = ModbusServer::start(endpoint.clone(), clock, city.midnight(), tally.clone()).await;
            servers.push(server.map_err(io_error("simulate a Modbus endpoint"))?);
        }
        let addresses: Vec<_> = servers.iter().map(ModbusServer::address).collect();
        let contents = Contents {
            sites_csv: city.sites_csv(),
            devices_csv: city.devices_csv(&addresses),
            broker: broker.address(),
            listen: listen_address(args.listen).await,
            speed: args.speed,
        };
        let folder = Folder::write(&contents).map_err(io_error("write its configuration folder"))?;
        let daemon = Daemon::start(load(&folder)?, clock).await?;
        wait_for_broker(&daemon).await?;
        let publisher = Publisher::start(city.take_outbox(tally.clone()), broker.address(), clock);
        let reader = Reader::open(daemon.store())?;
        let args = args.clone();
        Ok(Self { daemon, publisher, city, tally, clock, start, args, reader, _around: (servers, broker, folder) })
    }

    /// What is told at the start.
    pub(super) fn intro(&self) -> Intro {
        Intro {
            page: self.daemon.address(),
            stations: self.args.sites,
            racks: RACKS,
            devices: self.city.device_count(),
            speed: self.args.speed,
            start: self.start,
        }
    }

    /// Real time until the devices begin to send.
    pub(super) fn time_to_start(&self) -> Duration {
        self.clock.real_until(self.start)
    }

    /// What is to be shown now.
    pub(super) fn view(&self) -> Result<View, Error> {
        Ok(View {
            now: self.clock.now(),
            at: Instant::now(),
            lag_ms: self.publisher.lag_ms(),
            ledger: self.daemon.ledger(),
            faults: self.tally.total(),
            rows: tokio::task::block_in_place(|| city_rows(&self.reader))?,
            descriptions: self.daemon.descriptions().clone(),
        })
    }

    /// Stops the devices, waits for what they sent to become indicators, and stops the collector.
    pub(super) async fn finish(mut self) -> Result<Report, Error> {
        let published = self.publisher.stop().await;
        let end = self.clock.now();
        self.drain(published, end).await?;
        let inventory = self.inventory();
        let evidence = tokio::task::block_in_place(|| {
            let evidence = findings::Evidence::gather(&self.reader, &inventory, self.start, end)?;
            Ok::<_, Error>((evidence, city_rows(&self.reader)?))
        });
        let (evidence, rows) = evidence?;
        let health = self.daemon.health().snapshot();
        let descriptions = self.daemon.descriptions().clone();
        let Self { daemon, tally, city, start, .. } = self;
        let ledger = daemon.stop().await;
        let faults = findings::compare(&tally, &ledger, &health, &evidence);
        Ok(Report { start, end, published, ledger, faults, rows, descriptions, city })
    }

    fn inventory(&self) -> Arc<Inventory> {
        self.daemon.inventory().read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Waits until what was published before `end` is in final windows and their indicators.
    async fn drain(&self, published: u64, end: Timestamp) -> Result<(), Error> {
        let whole = Timestamp::from_millis(end.as_millis().div_euclid(BASE_WINDOW_MS) * BASE_WINDOW_MS);
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        while Instant::now() < deadline {
            let heard = self.daemon.ledger().sources.get("city-broker").map_or(0, messages);
            let (is_final, computed) = tokio::task::block_in_place(|| {
                let is_final = self.reader.final_until()?.is_some_and(|until| until >= whole);
                let stale = self.reader.stale(1_000)?;
                Ok::<_, Error>((is_final, stale.iter().all(|stale| stale.start >= whole)))
            })?;
            if heard >= published && is_final && computed {
                return Ok(());
            }
            sleep(STEP).await;
        }
        Ok(())
    }
}

/// Messages of a source that were dealt with.
pub(super) fn messages(counts: &Counts) -> u64 {
    counts.messages_decoded + counts.messages_rejected()
}

/// A clock that reaches `start` when the collector is up.
fn clock(start: Timestamp, speed: u16) -> Clock {
    let lead = LEAD.saturating_mul(speed.into());
    Clock::scaled(start.plus_millis(-millis(lead)), speed.into())
}

/// What the user asked for, else the usual port, else a free one.
async fn listen_address(asked: Option<SocketAddr>) -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    match asked {
        Some(asked) => asked,
        None if TcpListener::bind(usual).await.is_ok() => usual,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

async fn wait_for_broker(daemon: &Daemon) -> Result<(), Error> {
    let deadline = Instant::now() + CONNECT_TIME_MAX;
    while Instant::now() < deadline {
        let parts = daemon.health().snapshot();
        if parts.iter().any(|part| part.kind == PartKind::Mqtt && part.state == State::Up) {
            return Ok(());
        }
        sleep(STEP).await;
    }
    Err(Error::Deaf(CONNECT_TIME_MAX))
}

fn city_rows(reader: &Reader) -> Result<Vec<IndicatorRow>, Error> {
    Ok(reader.latest_indicators(None, Some(Level::City), Timestamp::from_millis(i64::MAX))?)
}
