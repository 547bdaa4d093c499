//! Messages on their way into the journal: gathered into batches, and held where the journal takes none.
//!
//! Owns at most one batch that is gathered and one that was refused. Outlives a connection: what it holds goes into the
//! journal even when the connection that brought it has ended, so that QoS 0 messages are not lost over it.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::journal::{Inlet, Refused, RefusedCause, Spare};
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
    /// The batch's frames where they are on disk, whose memory may serve again.
    pub(super) frames: Vec<Frame>,
}

/// Sends a settlement when it goes: `Kept` where the receipt ran, `GivenUp` where the journal dropped it unrun.
struct Pledge {
    epoch: Epoch,
    batch: BatchNumber,
    fate: Fate,
    frames: Vec<Frame>,
    settlements: Sender<Settlement>,
    bell: Arc<Bell>,
}

impl Pledge {
    fn fulfil(mut self, frames: Vec<Frame>) {
        (self.fate, self.frames) = (Fate::Kept, frames);
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        // Nobody listens once the source has stopped; the broker then delivers again.
        let (epoch, batch, fate, frames) = (self.epoch, self.batch, self.fate, std::mem::take(&mut self.frames));
        let _ = self.settlements.send(Settlement { epoch, batch, fate, frames });
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
    /// Frames that are on disk, and the vector of a batch of them, for their memory.
    spare: Spare,
    spare_batch: Vec<Frame>,
}

impl Intake {
    /// An intake without messages; each settlement is sent to `settlements`, then `bell` rings.
    pub(super) fn new(source: Arc<str>, inlet: Inlet, settlements: Sender<Settlement>, bell: Arc<Bell>) -> Self {
        Self {
            source,
            inlet,
            settlements,
            bell,
            frames: Vec::new(),
            packet_ids: Vec::new(),
            bytes: 0,
            held: None,
            spare: Spare::default(),
            spare_batch: Vec::new(),
        }
    }

    /// Adds a message to the batch.
    pub(super) fn gather(&mut self, message: &Message, arrival: Timestamp) {
        self.packet_ids.extend(message.packet_id);
        let frame = frame(message, &self.source, arrival, &mut self.spare);
        self.bytes += frame.topic.len() + frame.payload.len();
        self.frames.push(frame);
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
        let frames = std::mem::replace(&mut self.frames, std::mem::take(&mut self.spare_batch));
        self.bytes = 0;
        let batch = session.hand_over(std::mem::take(&mut self.packet_ids), now);
        let (settlements, bell) = (self.settlements.clone(), self.bell.clone());
        let pledge =
            Pledge { epoch: session.epoch(), batch, fate: Fate::GivenUp, frames: Vec::new(), settlements, bell };
        let outcome = self.inlet.append(frames, Box::new(move |frames| pledge.fulfil(frames)));
        self.hold(outcome)
    }

    /// Offers the held batch again. Returns why it was refused, if it was.
    pub(super) fn retry(&mut self) -> Option<RefusedCause> {
        let refused = self.held.take()?;
        let outcome = self.inlet.append(refused.frames, refused.receipt);
        self.hold(outcome)
    }

    /// Takes back frames that are on disk.
    pub(super) fn take_back(&mut self, mut frames: Vec<Frame>) {
        frames.drain(..).for_each(|frame| self.spare.add(frame));
        if self.spare_batch.capacity() < frames.capacity() {
            self.spare_batch = frames;
        }
    }

    /// Frames whose memory waits for messages.
    #[cfg(test)]
    pub(super) fn spare_frames(&self) -> usize {
        self.spare.len()
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

/// What the journal keeps of a message, copied into memory of an earlier one.
pub(super) fn frame(message: &Message, source: &Arc<str>, arrival: Timestamp, spare: &mut Spare) -> Frame {
    let (kind, payload) = match &message.body {
        Body::Whole(payload) => (FrameKind::NativeJson, payload.as_ref()),
        Body::Oversize(head) => (FrameKind::Oversize, head.as_slice()),
    };
    let (topic, payload) = spare.texts(&message.topic, payload);
    Frame { source: source.clone(), kind, topic, payload, arrival }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::super::test_rig::{Rig, Setup};
    use super::*;

    fn message(payload: &'static [u8]) -> Message {
        Message { topic: "telemetry/t".to_owned(), packet_id: Some(1), body: Body::Whole(payload.into()) }
    }

    #[test]
    fn what_is_on_disk_comes_back_and_the_next_message_takes_its_memory() {
        let (rig, options) = Rig::before_start(&Setup::default());
        let (now, arrival) = (Instant::now(), Timestamp::from_millis(7));
        let mut session = Session::new(&options, Epoch(1), now + Duration::from_secs(1), now).expect("a CONNECT");
        let (sender, settlements) = channel();
        let mut intake = Intake::new("east".into(), rig.journal().inlet(), sender, Arc::new(Bell::new()));
        // Long, so that not merely the allocator gives its memory out again.
        intake.gather(&message(&[b'x'; 1_000]), arrival);
        assert!(intake.submit(&mut session, now).is_none(), "the journal takes it");
        let settlement = settlements.recv_timeout(Duration::from_secs(20)).expect("settled");
        assert_eq!((settlement.fate, settlement.frames.len()), (Fate::Kept, 1));
        let memory = settlement.frames[0].payload.as_ptr();
        intake.take_back(settlement.frames);
        intake.gather(&message(b"another"), arrival);
        let (source, topic, payload) = ("east".into(), "telemetry/t".to_owned(), b"another".to_vec());
        assert_eq!(intake.frames, [Frame { source, kind: FrameKind::NativeJson, topic, payload, arrival }]);
        assert_eq!(intake.frames[0].payload.as_ptr(), memory);
    }
}
