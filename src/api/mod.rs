//! HTTP: query, live stream, page, metrics.

use std::net::SocketAddr;

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
