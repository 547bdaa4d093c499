//! Messages on their way into the journal: gathered into batches, and held where the journal takes none.
//!
//! Owns at most one batch that is gathered and one that was refused. Outlives a connection: what it holds goes into the
//! journal even when the connection that brought it has ended, so that QoS 0 messages are not lost over it.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::journal::{Inlet, Refused, RefusedCause};
use crate::model::{Frame, FrameKind, Timestamp};

use super::assembler::{Body, Message};
use super::bell::Bell;
use super::session::{BatchNumber, Epoch, Fate, Session};

/// Frames and bytes at which a batch goes to the journal, even while there is more to read.
const BATCH_FRAMES_MAX: usize = 4_096;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// The journal's word on one batch.
#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) epoch: Epoch,
    pub(super) batch: BatchNumber,
    pub(super) fate: Fate,
}

/// Sends a settlement when it goes: `Kept` where the receipt ran, `GivenUp` where the journal dropped it unrun.
struct Pledge {
    epoch: Epoch,
    batch: BatchNumber,
    fate: Fate,
    settlements: Sender<Settlement>,
    bell: Arc<Bell>,
}

impl Pledge {
    fn fulfil(mut self) {
        self.fate = Fate::Kept;
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        // Nobody listens once the source has stopped; the broker then delivers again.
        let _ = self.settlements.send(Settlement { epoch: self.epoch, batch: self.batch, fate: self.fate });
        self.bell.ring();
    }
}

/// Gathers messages and hands them to the journal.
pub(super) struct Intake {
    source: Arc<str>,
    inlet: Inlet,
    settlements: Sender<Settlement>,
    bell: Arc<Bell>,
    frames: Vec<Frame>,
    packet_ids: Vec<u16>,
    bytes: usize,
    held: Option<Refused>,
}

impl Intake {
    /// An intake without messages; each settlement is sent to `settlements`, then `bell` rings.
    pub(super) fn new(source: Arc<str>, inlet: Inlet, settlements: Sender<Settlement>, bell: Arc<Bell>) -> Self {
        Self { source, inlet, settlements, bell, frames: Vec::new(), packet_ids: Vec::new(), bytes: 0, held: None }
    }

    /// Adds a message to the batch.
    pub(super) fn gather(&mut self, message: Message, arrival: Timestamp) {
        let (kind, payload) = match message.body {
            Body::Whole(payload) => (FrameKind::NativeJson, payload),
            Body::Oversize(head) => (FrameKind::Oversize, head),
        };
        self.bytes += message.topic.len() + payload.len();
        self.packet_ids.extend(message.packet_id);
        self.frames.push(Frame { source: self.source.clone(), kind, topic: message.topic, payload, arrival });
    }

    /// Whether the batch is large enough to go.
    pub(super) fn is_batch_full(&self) -> bool {
        self.frames.len() >= BATCH_FRAMES_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Hands the batch, read at `now`, to the journal; holds it where the journal refuses it. Must not be called while one
    /// is held.
    pub(super) fn submit(&mut self, session: &mut Session, now: Instant) -> Option<RefusedCause> {
        if self.frames.is_empty() {
            return None;
        }
        let frames = std::mem::take(&mut self.frames);
        self.bytes = 0;
        let batch = session.hand_over(std::mem::take(&mut self.packet_ids), now);
        let (settlements, bell) = (self.settlements.clone(), self.bell.clone());
        let pledge = Pledge { epoch: session.epoch(), batch, fate: Fate::GivenUp, settlements, bell };
        let outcome = self.inlet.append(frames, Box::new(move || pledge.fulfil()));
        self.hold(outcome)
    }

    /// Offers the held batch again. Returns why it was refused, if it was.
    pub(super) fn retry(&mut self) -> Option<RefusedCause> {
        let refused = self.held.take()?;
        let outcome = self.inlet.append(refused.frames, refused.receipt);
        self.hold(outcome)
    }

    /// Whether a batch is held, so that nothing more may be read.
    pub(super) fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    fn hold(&mut self, outcome: Result<(), Refused>) -> Option<RefusedCause> {
        let refused = outcome.err()?;
        let cause = refused.cause;
        self.held = Some(refused);
        Some(cause)
    }
}
