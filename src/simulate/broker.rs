//! The embedded MQTT broker of the demo: rumqttd on a free port of this machine.
//!
//! It keeps messages in memory only and lets a subscriber that falls far behind skip ahead, so it is for demos and tests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rumqttd::protocol::v4::V4;
use rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Attempts at a port that nobody takes between our asking for it and the broker's listening on it.
const PORT_ATTEMPTS: u32 = 5;
/// Time that the broker may take to listen.
const START_TIME_MAX: Duration = Duration::from_secs(5);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no port to be had.
    #[error("no free port for the broker")]
    Port(#[from] io::Error),
    /// It does not listen.
    #[error("the embedded broker does not listen")]
    Deaf,
}

/// A running broker; it takes no more connections when it is dropped.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Broker {
    /// Starts a broker and waits until it takes connections.
    ///
    /// # Errors
    /// [`BrokerError`] where it does not come up.
    pub async fn start() -> Result<Self, BrokerError> {
        for _ in 0..PORT_ATTEMPTS {
            // The broker binds by itself and does not tell where, so it gets a port that was free a moment ago.
            let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let broker = Self { address, task: tokio::spawn(serve(address)) };
            let deadline = Instant::now() + START_TIME_MAX;
            while !broker.task.is_finished() && Instant::now() < deadline {
                if TcpStream::connect(address).await.is_ok() {
                    return Ok(broker);
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
        Err(BrokerError::Deaf)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(address: SocketAddr) {
    let router = RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        // What a subscriber may lag behind before it skips ahead; also what the broker comes to in memory.
        max_segment_size: 8 << 20,
        max_segment_count: 8,
        ..RouterConfig::default()
    };
    // Its thread lives as long as the process: the router keeps a sender of its own channel.
    let router = Router::new(0, router).spawn();
    let settings = ServerSettings {
        name: "demo".to_owned(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: 1 << 20,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            // A topic that nobody subscribed to yet is no reason to hang up on who publishes to it.
            dynamic_filters: true,
        },
    };
    if let Err(error) = Server::new(settings, router, V4).start(LinkType::Remote).await {
        tracing::warn!(%address, %error, "the embedded broker ended");
    }
}
