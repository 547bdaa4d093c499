//! One connection to an endpoint: connects, asks, checks what comes back.
//!
//! A reply that comes after its deadline would be taken for the answer to the next request, so a link that timed out or
//! saw a transport error must be dropped; only an exception leaves it good.

use std::fmt::Debug;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_modbus::client::{Client, Context, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};
use tokio_modbus::{Error, ExceptionCode, ProtocolError, Request, Response};

use super::plan::ReadRequest;
use crate::decode::modbus::BlockData;
use crate::inventory::RegisterTable;

/// Why a request brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The device refused; the link is good.
    Exception(u8),
    /// Nothing came in time; the link must be dropped.
    Timeout,
    /// The connection broke or carried nonsense, for the reason given; the link must be dropped.
    Lost(String),
    /// No connection could be made, for the reason given.
    Unreachable(String),
}

/// Name of an exception code (Modbus Application Protocol 1.1b3, 7), and what to do about it.
pub(super) const fn exception_name(code: u8) -> (&'static str, &'static str) {
    match code {
        1 => ("illegal function", "the device does not serve this table; check the profile's tables"),
        2 => ("illegal data address", "the device has no such registers; check the profile's addresses"),
        3 => ("illegal data value", "the device refuses so many registers at once; check the profile's addresses"),
        4 => ("server device failure", "the device reports a fault of its own; look at the device"),
        5 => ("acknowledge", "the device is still at work on an earlier request"),
        6 => ("server device busy", "the device is busy; poll it less often, or look who else asks it"),
        8 => ("memory parity error", "the device reports damaged memory; look at the device"),
        10 => ("gateway path unavailable", "the gateway has no way to this unit; check its serial port and unit list"),
        11 => (
            "gateway target device failed to respond",
            "the unit behind the gateway does not answer; check its power, wiring and unit number",
        ),
        _ => ("not in the standard", "look it up in the device's manual"),
    }
}

/// Whether a device that answers with this exception will answer so until its firmware or our profile is another.
pub(super) const fn is_lasting(code: u8) -> bool {
    matches!(code, 1..=3)
}

/// An open connection.
pub(super) struct Link {
    context: Context,
    /// Whether a request was answered on it before.
    pub(super) proven: bool,
    /// The next request may be sent then.
    ready: Instant,
}

impl Link {
    /// Connects to `endpoint` (`host:port`, an IPv6 address in brackets) within `connect_timeout`, which the addresses of
    /// a name share, so that one that leads nowhere does not keep the others from being tried.
    pub(super) async fn open(endpoint: &str, connect_timeout: Duration) -> Result<Self, Failure> {
        let unreachable = |reason: String| Failure::Unreachable(reason);
        let late = |span: Duration| format!("no connection within {span:?}; check address, cable and firewall");
        let addresses: Vec<_> = timeout(connect_timeout, lookup_host(endpoint))
            .await
            .map_err(|_| unreachable(late(connect_timeout)))?
            .map_err(|error| unreachable(format!("the name cannot be resolved: {error}")))?
            .collect();
        let share = connect_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut failure = unreachable("the name has no address".to_owned());
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
                    return Ok(Self::over(stream));
                }
                Ok(Err(error)) => failure = unreachable(words(&error)),
                Err(_) => failure = unreachable(late(share)),
            }
        }
        Err(failure)
    }

    /// Speaks over `stream`, whose other end is a device.
    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + Debug + 'static) -> Self {
        Self { context: tcp::attach(stream), proven: false, ready: Instant::now() }
    }

    /// Waits until the next request may be sent.
    pub(super) async fn rest(&mut self) {
        if self.ready > Instant::now() {
            sleep_until(self.ready).await;
        }
    }

    /// Asks `unit` and waits `request_timeout` for the answer; [`Link::rest`] waits `pause` after that.
    pub(super) async fn read(
        &mut self,
        unit: u8,
        request: &ReadRequest,
        request_timeout: Duration,
        pause: Duration,
    ) -> Result<BlockData, Failure> {
        self.context.set_slave(Slave(unit));
        let (address, count) = (request.address, request.count);
        let call = match request.table {
            RegisterTable::Coil => Request::ReadCoils(address, count),
            RegisterTable::DiscreteInput => Request::ReadDiscreteInputs(address, count),
            RegisterTable::Holding => Request::ReadHoldingRegisters(address, count),
            RegisterTable::Input => Request::ReadInputRegisters(address, count),
        };
        let answer = timeout(request_timeout, self.context.call(call)).await;
        self.ready = Instant::now() + pause;
        match answer {
            Err(_) => Err(Failure::Timeout),
            Ok(Err(error)) => Err(Failure::Lost(reason(error))),
            Ok(Ok(Err(exception))) => {
                self.proven = true;
                Err(Failure::Exception(ExceptionCode::into(exception)))
            }
            Ok(Ok(Ok(response))) => {
                let data = block(response, usize::from(count))?;
                self.proven = true;
                Ok(data)
            }
        }
    }
}

/// The data of an answer to a request for `count`; the library checks that it is of the function asked for, but not how
/// much it holds.
fn block(response: Response, count: usize) -> Result<BlockData, Failure> {
    match response {
        Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) if words.len() == count => {
            Ok(BlockData::Registers(words))
        }
        // Bits come in whole bytes.
        Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits)
            if bits.len() == count.next_multiple_of(8) =>
        {
            bits.truncate(count);
            Ok(BlockData::Bits(bits))
        }
        _ => Err(Failure::Lost("the answer is not as long as was asked for".to_owned())),
    }
}

fn reason(error: Error) -> String {
    match error {
        Error::Protocol(ProtocolError::HeaderMismatch { .. }) => {
            "an answer with another transaction or unit number came; check the gateway's unit numbers".to_owned()
        }
        Error::Protocol(ProtocolError::FunctionCodeMismatch { .. }) => "an answer of another function came".to_owned(),
        // The library reports a connection that was closed as whatever error the thread saw last.
        Error::Transport(error) if error.raw_os_error().is_some() && !is_of_a_connection(error.kind()) => {
            "the connection was closed without an answer; the device may serve too few clients at once".to_owned()
        }
        Error::Transport(error) if error.kind() == ErrorKind::Other => {
            format!("the answer broke off ({error}); look at the device or the gateway")
        }
        Error::Transport(error) => words(&error),
    }
}

/// Whether the system says this of a connection that breaks.
fn is_of_a_connection(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

/// An error of the system or the codec, and what to do about it.
fn words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => {
            "connection refused; check the port, and that Modbus TCP is enabled in the device".to_owned()
        }
        ErrorKind::ConnectionReset => {
            "the connection was reset; the device may serve too few clients at once".to_owned()
        }
        ErrorKind::InvalidData => {
            format!("what came is not Modbus TCP ({error}); check the port, and that it is not RTU over TCP")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_is_told_as_such_whatever_error_the_thread_saw_last() {
        let said = |error: std::io::Error| reason(Error::Transport(error));
        for stale in [0, 11, 115] {
            assert!(said(std::io::Error::from_raw_os_error(stale)).contains("was closed without an answer"));
        }
        assert!(said(std::io::Error::from_raw_os_error(104)).contains("was reset"));
        assert!(said(ErrorKind::InvalidData.into()).contains("not Modbus TCP"));
        assert!(said(std::io::Error::other("bytes remaining on stream")).contains("broke off"));
    }

    #[test]
    fn an_answer_of_another_length_is_refused() {
        assert_eq!(block(Response::ReadHoldingRegisters(vec![1, 2]), 2), Ok(BlockData::Registers(vec![1, 2])));
        assert_eq!(block(Response::ReadCoils(vec![true; 16]), 9), Ok(BlockData::Bits(vec![true; 9])));
        for (response, count) in [
            (Response::ReadHoldingRegisters(vec![1]), 2),
            (Response::ReadInputRegisters(vec![1, 2, 3]), 2),
            (Response::ReadCoils(vec![true; 8]), 9),
            (Response::ReadDiscreteInputs(vec![true; 16]), 8),
            (Response::WriteSingleRegister(1, 1), 1),
        ] {
            assert!(matches!(block(response, count), Err(Failure::Lost(_))));
        }
    }
}
