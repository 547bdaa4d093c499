//! From a host name to a TCP connection, over every address of the name, within one time limit.
//!
//! Runs on a thread of its own: neither the system's resolver nor its connect can be told to stop, and the source has to
//! stop in time.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Least time that one address gets, however many there are.
const ADDRESS_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Why there is no TCP connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the name {host:?} cannot be resolved: {source}")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the name {0:?} has no address")]
    NoAddress(String),
    #[error("no connection: {}", .0.iter().map(|(address, error)| format!("{address}: {error}")).collect::<Vec<_>>().join("; "))]
    Connect(Vec<(SocketAddr, io::Error)>),
    #[error("resolving or connecting took too long")]
    TimedOut,
    #[error("no thread to connect on: {0}")]
    Thread(#[source] io::Error),
}

/// Attempts to connect to one host and port; there is one attempt at a time.
#[derive(Debug)]
pub(super) struct Dialler {
    host: String,
    port: u16,
    /// The attempt under way, kept past its deadline so that a hanging resolver never has two threads of ours.
    attempt: Option<JoinHandle<Result<TcpStream, DialError>>>,
}

impl Dialler {
    /// A dialler for `host` (a name or an address, IPv6 without brackets).
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, attempt: None }
    }

    /// Starts an attempt that ends at `deadline`, unless the one before still hangs.
    pub(super) fn begin(&mut self, deadline: Instant) -> Result<(), DialError> {
        if let Some(earlier) = self.attempt.take_if(|attempt| attempt.is_finished()) {
            drop(earlier.join());
        }
        if self.attempt.is_some() {
            return Ok(());
        }
        let (host, port) = (self.host.clone(), self.port);
        let attempt = thread::Builder::new().name("mqtt-dial".into()).spawn(move || dial(&host, port, deadline));
        self.attempt = Some(attempt.map_err(DialError::Thread)?);
        Ok(())
    }

    /// The attempt's outcome, once it has one.
    pub(super) fn outcome(&mut self) -> Option<Result<TcpStream, DialError>> {
        let attempt = self.attempt.take_if(|attempt| attempt.is_finished())?;
        Some(attempt.join().unwrap_or(Err(DialError::TimedOut)))
    }
}

fn dial(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, DialError> {
    let addresses = addresses(host, port)?;
    let mut failed = Vec::new();
    for (index, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && index > 0 {
            break;
        }
        // A share of the time each, so that one address behind a silent firewall does not cost the others their turn.
        let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(&address, (left / others).max(ADDRESS_TIMEOUT_MIN)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed.push((address, error)),
        }
    }
    Err(DialError::Connect(failed))
}

fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let resolved =
        (host, port).to_socket_addrs().map_err(|source| DialError::Resolve { host: host.to_owned(), source })?;
    let addresses: Vec<SocketAddr> = resolved.collect();
    if addresses.is_empty() {
        return Err(DialError::NoAddress(host.to_owned()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn reached(host: &str, port: u16) -> Result<TcpStream, DialError> {
        dial(host, port, Instant::now() + Duration::from_secs(5))
    }

    #[test]
    fn a_name_with_an_address_nobody_listens_on_is_reached_through_its_other_one() {
        // `localhost` is ::1 and 127.0.0.1, or 127.0.0.1 alone: only the IPv4 side listens.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(reached("localhost", port).is_ok());
    }

    #[test]
    fn an_ipv6_address_needs_no_brackets() {
        let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        assert!(reached("::1", port).is_ok());
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = reached("127.0.0.1", address.port()).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
