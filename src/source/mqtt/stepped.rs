//! The source without its thread: a test says over which stream it talks and when it does its rounds.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use super::Options;
use super::driver::{Driver, Link};
use crate::clock::Clock;
use crate::health::Part;
use crate::journal::Inlet;

/// A source that does a round when it is told to.
pub(crate) struct SteppedSource<S> {
    driver: Driver,
    connect_timeout: std::time::Duration,
    link: Option<Link<S>>,
}

impl<S: Read + Write> SteppedSource<S> {
    /// A source that is not connected yet.
    pub(crate) fn new(options: Options, inlet: Inlet, clock: Clock, part: Arc<Part>) -> Self {
        let connect_timeout = options.connect_timeout;
        Self { driver: Driver::new(options, inlet, clock, part, Arc::default()), connect_timeout, link: None }
    }

    /// Begins a connection over `stream`, which must never block.
    pub(crate) fn connect(&mut self, stream: S, now: Instant) {
        let link = self.driver.link(stream, now + self.connect_timeout, now);
        self.link = Some(link.expect("a CONNECT can be written"));
    }

    /// One round. Returns whether there is a connection after it.
    pub(crate) fn round(&mut self, now: Instant) -> bool {
        let Some(link) = &mut self.link else {
            self.driver.turn_without_link(now);
            return false;
        };
        if self.driver.turn(link, now).is_err() {
            self.link = None;
        }
        self.link.is_some()
    }
}
