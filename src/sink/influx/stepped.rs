//! The sink over a store in memory, a batch at a time: a test says when it works and what the store answers.

use std::io::Read as _;
use std::sync::Arc;

use flate2::read::GzDecoder;
use tokio::sync::watch;

use super::client::{Body, FarSide};
use super::policy::Answer;
use super::{Encoding, Options, Sink, index};
use crate::health::Part;
use crate::sink::Context;
use crate::store::Feed;

/// What a store in memory does with the lines of a request: the status of its answer, or none in time.
pub(crate) trait Script: Send + Sync {
    /// The store hears these lines.
    fn hear(&self, lines: &[&str]) -> Option<(u16, String)>;
}

struct Scripted(Arc<dyn Script>, Encoding);

impl FarSide for Scripted {
    async fn write(&self, body: &Body) -> Answer {
        let mut text = String::new();
        match self.1 {
            Encoding::Plain => body.bytes().read_to_string(&mut text).expect("text"),
            Encoding::Gzip => GzDecoder::new(body.bytes()).read_to_string(&mut text).expect("gzip"),
        };
        let lines: Vec<&str> = text.lines().collect();
        match self.0.hear(&lines) {
            Some((status, reason)) => Answer::of(status, reason),
            None => Answer::Busy { reason: "no answer".to_owned() },
        }
    }

    async fn create_bucket(&self) -> Result<(), String> {
        Err("there is none to be made".to_owned())
    }
}

/// A sink that sends a batch when it is told to.
pub(crate) struct SteppedSink {
    sink: Sink<Scripted>,
    // Nobody stops it.
    _stop: watch::Sender<bool>,
}

impl SteppedSink {
    /// A sink over the store that `script` plays.
    pub(crate) fn new(script: Arc<dyn Script>, options: Options, context: Context, part: Arc<Part>) -> Self {
        let (sender, stop) = watch::channel(false);
        Self { sink: Sink::new(Scripted(script, options.encoding), options, context, part, stop), _stop: sender }
    }

    /// Sends the next batch of a feed, if the store takes it. Returns whether there was one. What is read ahead
    /// meanwhile was read by then, so that it does not depend on the machine what is in it.
    pub(crate) async fn turn(&mut self, feed: Feed) -> bool {
        let turn = self.sink.turn(feed).await;
        if let Some(ahead) = self.sink.ahead[index(feed)].take() {
            let read = ahead.await;
            self.sink.ahead[index(feed)] = Some(Box::pin(std::future::ready(read)));
        }
        matches!(turn, Ok(Some(_)))
    }

    /// Waits as the sink does at the end of both feeds.
    pub(crate) async fn idle(&mut self) {
        let _ = self.sink.idle().await;
    }
}
