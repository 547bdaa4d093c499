//! Devices that answer over Modbus TCP: one server per endpoint, its units behind it.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};

use super::fault::{FaultKind, FaultTally, Recurring};
use super::{Image, Model, Moment};
use crate::clock::Clock;
use crate::decode::modbus::BlockData;
use crate::inventory::{Profile, RegisterTable};
use crate::model::Timestamp;

/// Registers, and bits, that one request may ask for (Modbus Application Protocol 1.1b3, 6.1-6.4).
const REGISTERS_MAX: u16 = 125;
const BITS_MAX: u16 = 2_000;

/// A unit behind an endpoint.
#[derive(Clone, Debug)]
pub struct UnitPlan {
    /// Its register map.
    pub profile: Arc<Profile>,
    /// What it shows.
    pub model: Arc<dyn Model>,
    /// When it answers with exception 4 only.
    pub failing: Option<Recurring>,
}

/// One address with the units behind it.
#[derive(Clone, Debug)]
pub struct EndpointPlan {
    /// The units by their identifier.
    pub units: BTreeMap<u8, UnitPlan>,
    /// When it takes requests and never answers.
    pub silent: Option<Recurring>,
}

impl EndpointPlan {
    /// What it answers at `at`; `None` where it does not.
    ///
    /// # Errors
    /// The exception it answers with.
    fn answer(
        &self,
        at: Timestamp,
        midnight: Timestamp,
        request: &SlaveRequest<'_>,
        tally: &FaultTally,
    ) -> Result<Option<Response>, ExceptionCode> {
        if self.silent.is_some_and(|spans| spans.holds(at)) {
            tally.count(FaultKind::Timeout);
            return Ok(None);
        }
        let unit = self.units.get(&request.slave).ok_or(ExceptionCode::GatewayTargetDevice)?;
        if unit.failing.is_some_and(|spans| spans.holds(at)) {
            tally.count(FaultKind::Exception);
            return Err(ExceptionCode::ServerDeviceFailure);
        }
        let (table, address, count, count_max) = match request.request {
            Request::ReadCoils(address, count) => (RegisterTable::Coil, address, count, BITS_MAX),
            Request::ReadDiscreteInputs(address, count) => (RegisterTable::DiscreteInput, address, count, BITS_MAX),
            Request::ReadHoldingRegisters(address, count) => (RegisterTable::Holding, address, count, REGISTERS_MAX),
            Request::ReadInputRegisters(address, count) => (RegisterTable::Input, address, count, REGISTERS_MAX),
            _ => return Err(ExceptionCode::IllegalFunction),
        };
        if count == 0 || count > count_max {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let image = image(&unit.profile, &*unit.model, Moment::of(at, midnight));
        let data = image.read(table, address, count).ok_or(ExceptionCode::IllegalDataAddress)?;
        Ok(Some(match (table, data) {
            (RegisterTable::Coil, BlockData::Bits(bits)) => Response::ReadCoils(bits),
            (_, BlockData::Bits(bits)) => Response::ReadDiscreteInputs(bits),
            (RegisterTable::Holding, BlockData::Registers(words)) => Response::ReadHoldingRegisters(words),
            (_, BlockData::Registers(words)) => Response::ReadInputRegisters(words),
        }))
    }
}

/// The registers of a device at a moment.
fn image(profile: &Profile, model: &dyn Model, at: Moment) -> Image {
    let mut image = Image::default();
    for (name, value) in model.values(at) {
        let metric = profile.metrics.iter().find(|metric| metric.name == name);
        if let Some(register) = metric.and_then(|metric| metric.register.as_ref()) {
            image.put(register, value);
        }
    }
    image
}

/// What a connection is answered by.
struct Answering {
    plan: EndpointPlan,
    clock: Clock,
    midnight: Timestamp,
    tally: Arc<FaultTally>,
}

impl Service for Answering {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Self::Response, Self::Exception>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(self.plan.answer(self.clock.now(), self.midnight, &request, &self.tally))
    }
}

/// A running endpoint; it ends when it is dropped.
#[derive(Debug)]
pub struct ModbusServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ModbusServer {
    /// Serves the endpoint at a free port of this machine.
    ///
    /// # Errors
    /// Where there is no port to be had.
    pub async fn start(
        plan: EndpointPlan,
        clock: Clock,
        midnight: Timestamp,
        tally: Arc<FaultTally>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let answering = Arc::new(Answering { plan, clock, midnight, tally });
        let task = tokio::spawn(async move {
            let server = Server::new(listener);
            let connected = |stream, from| {
                let answering = answering.clone();
                async move { accept_tcp_connection(stream, from, |_| Ok(Some(answering.clone()))) }
            };
            // A collector that hangs up is no event; accepting that fails (no descriptors left) ends the endpoint.
            if let Err(error) = server.serve(&connected, |_| {}).await {
                tracing::warn!(%address, %error, "simulated modbus endpoint ended");
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ModbusServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::modbus::{Block, decode, encode_poll};
    use crate::inventory::parse_profile;
    use crate::simulate::data_centre::RackPdu;
    use crate::simulate::{DataCentre, PROFILES};

    const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_000);
    const MIDNIGHT: Timestamp = Timestamp::from_millis(1_763_900_000_000);

    fn rack() -> UnitPlan {
        let (file, text) = PROFILES.into_iter().find(|(file, _)| *file == "rack-pdu.toml").expect("ships");
        let centre = Arc::new(DataCentre::new(1, &mut fastrand::Rng::with_seed(1)));
        UnitPlan {
            profile: Arc::new(parse_profile(file, text).expect("good")),
            model: Arc::new(RackPdu { centre, index: 0 }),
            failing: None,
        }
    }

    fn ask(plan: &EndpointPlan, slave: u8, request: Request<'static>) -> Result<Option<Response>, ExceptionCode> {
        plan.answer(NOW, MIDNIGHT, &SlaveRequest { slave, request }, &FaultTally::default())
    }

    #[test]
    fn what_a_collector_reads_is_what_the_model_shows() {
        let rack = rack();
        let (profile, shown) = (rack.profile.clone(), rack.model.values(Moment::of(NOW, MIDNIGHT)));
        let plan = EndpointPlan { units: BTreeMap::from([(3, rack)]), silent: None };
        let Ok(Some(Response::ReadInputRegisters(words))) = ask(&plan, 3, Request::ReadInputRegisters(0, 7)) else {
            panic!("input registers")
        };
        let Ok(Some(Response::ReadCoils(bits))) = ask(&plan, 3, Request::ReadCoils(0, 1)) else { panic!("coils") };
        let poll = encode_poll(&[
            Block { table: RegisterTable::Input, address: 0, data: BlockData::Registers(words) },
            Block { table: RegisterTable::Coil, address: 0, data: BlockData::Bits(bits) },
        ]);
        let readings = decode(&profile, &poll).expect("well formed");
        assert_eq!(readings.len(), shown.len());
        for ((slot, read), (name, value)) in readings.into_iter().zip(shown) {
            assert_eq!(profile.metrics[slot].name, name);
            assert!((read.expect("a value") - value).abs() <= 0.006, "{name}: {read:?} {value}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_its_exception() {
        let plan = EndpointPlan { units: BTreeMap::from([(3, rack())]), silent: None };
        let refused = |unit, request| ask(&plan, unit, request).expect_err("refused");
        assert_eq!(refused(4, Request::ReadCoils(0, 1)), ExceptionCode::GatewayTargetDevice);
        assert_eq!(refused(3, Request::ReadInputRegisters(0, 9)), ExceptionCode::IllegalDataAddress);
        assert_eq!(refused(3, Request::ReadInputRegisters(0, 126)), ExceptionCode::IllegalDataValue);
        assert_eq!(refused(3, Request::WriteSingleCoil(0, true)), ExceptionCode::IllegalFunction);
    }

    #[test]
    fn faults_come_in_their_spans_and_are_counted() {
        let spans = Recurring { first: NOW, every_ms: 1_000, length_ms: 10 };
        let tally = FaultTally::default();
        let request = SlaveRequest { slave: 3, request: Request::ReadCoils(0, 1) };
        let silent = EndpointPlan { units: BTreeMap::from([(3, rack())]), silent: Some(spans) };
        assert_eq!(silent.answer(NOW, MIDNIGHT, &request, &tally), Ok(None));
        assert!(matches!(silent.answer(NOW.plus_millis(10), MIDNIGHT, &request, &tally), Ok(Some(_))));
        let failing = UnitPlan { failing: Some(spans), ..rack() };
        let failing = EndpointPlan { units: BTreeMap::from([(3, failing)]), silent: None };
        assert_eq!(failing.answer(NOW, MIDNIGHT, &request, &tally), Err(ExceptionCode::ServerDeviceFailure));
        assert_eq!((tally.get(FaultKind::Timeout), tally.get(FaultKind::Exception)), (1, 1));
    }
}
