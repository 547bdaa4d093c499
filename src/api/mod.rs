//! HTTP: query, live stream, page, metrics.
//!
//! Owns the outside contract under `/api/v1` (docs/api.md). Reads the store and what the parts report; never changes
//! anything but its own sessions. Store reads run on blocking threads, a few at a time and each with a deadline.

mod chart;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod indicators;
mod inventory;
mod listen;
mod live;
mod metrics;
mod page;
mod params;
mod readers;
mod rollups;
mod session;
mod status;
mod table;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::tz::TimeZone;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::error;

use crate::clock::Clock;
use crate::health::Health;
use crate::indicator::Description;
use crate::inventory::{Inventory, SharedInventory};
use crate::ledger::Ledger;
use crate::store::StorePath;
use error::ApiError;
use listen::Bounded;
use readers::Readers;

/// Connections at once.
const CONNECTIONS_MAX: usize = 512;
/// Time that answers under way have left when the daemon stops.
const LEAVE: Duration = Duration::from_secs(1);

/// How the API listens.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Bearer token; required where the address is not loopback. Never logged.
    pub token: Option<String>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("listen", &self.listen).field("token", &self.token.is_some()).finish()
    }
}

/// What the API answers from.
#[derive(Clone)]
pub struct Context {
    /// The store.
    pub store: StorePath,
    /// Devices, sites, areas.
    pub inventory: SharedInventory,
    /// The indicators that are computed.
    pub descriptions: Arc<[Description]>,
    /// Zone of hours and days.
    pub zone: TimeZone,
    /// Now.
    pub clock: Clock,
    /// How the parts are doing.
    pub health: Arc<Health>,
    /// The ledger now.
    pub ledger: Arc<dyn Fn() -> Ledger + Send + Sync>,
    /// Set once the journal of the last run is in the store.
    pub ready: Arc<AtomicBool>,
}

/// What handlers share.
#[derive(Clone)]
struct Server {
    context: Context,
    readers: Readers,
    live: live::Broadcast,
    token: Option<Arc<str>>,
}

impl Server {
    fn inventory(&self) -> Arc<Inventory> {
        self.context.inventory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until `stop` is true.
pub async fn serve(options: Options, listener: TcpListener, context: Context, stop: watch::Receiver<bool>) {
    let readers = Readers::new(context.store.clone());
    let live = live::start(context.clone(), readers.clone(), stop.clone());
    let server = Server { context, readers, live, token: options.token.map(Arc::from) };
    let (mut stopped, mut leaving) = (stop.clone(), stop);
    let until = async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = stopped.wait_for(|&stop| stop).await;
    };
    // Answers under way have a moment; a client that has sent half a request, or reads nothing, must not hold a stop up.
    let overdue = async move {
        let _ = leaving.wait_for(|&stop| stop).await;
        tokio::time::sleep(LEAVE).await;
    };
    let listener = Bounded::new(listener, CONNECTIONS_MAX, listen::Limits::default());
    tokio::select! {
        ended = axum::serve(listener, router(server)).with_graceful_shutdown(until) => if let Err(error) = ended {
            error!(%error, "the api ended");
        },
        () = overdue => {}
    }
}

fn router(server: Server) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics::show))
        .route("/api/v1/ledger", get(status::ledger))
        .route("/api/v1/health", get(status::parts))
        .route("/api/v1/dead_letters", get(status::dead_letters))
        .route("/api/v1/quarantine", get(status::quarantine))
        .route("/api/v1/sites", get(inventory::sites))
        .route("/api/v1/rollups", get(rollups::show))
        .route("/api/v1/indicators", get(indicators::show))
        .route("/api/v1/indicators/latest", get(indicators::latest))
        .route("/api/v1/indicators/chart.svg", get(indicators::chart))
        .route("/api/v1/indicator_definitions", get(indicators::definitions))
        .route("/api/v1/live", get(live::stream))
        .layer(from_fn_with_state(server.clone(), session::require_token));
    Router::new()
        .route("/health", get(status::alive))
        .route("/ready", get(status::ready))
        .route("/api/v1/session", post(session::open))
        .merge(page::routes())
        .merge(guarded)
        .fallback(|request: Request| async move { ApiError::no_route(request.uri().path()) })
        .method_not_allowed_fallback(|request: Request| async move { ApiError::method(request.method().as_str()) })
        .layer(from_fn(secure_headers))
        .with_state(server)
}

async fn secure_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
