//! Memory of frames that served, for those to come.

use crate::model::Frame;

/// Frames that nobody needs any more, whose memory the next ones take: a city's messages come by the million, and
/// asking for their memory one by one, and letting it go on another thread, would cost as much as reading them.
#[derive(Debug, Default)]
pub(crate) struct Spare(Vec<Frame>);

impl Spare {
    /// Frames that are kept at the most, and bytes of topic and payload of each.
    const FRAMES_MAX: usize = 4_096;
    const BYTES_MAX: usize = 4_096;

    /// Takes back a frame.
    pub(crate) fn add(&mut self, frame: Frame) {
        let bytes = frame.topic.capacity() + frame.payload.capacity();
        if self.0.len() < Self::FRAMES_MAX && bytes <= Self::BYTES_MAX {
            self.0.push(frame);
        }
    }

    /// Frames that are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Topic and payload of a new frame, in the memory of an earlier one where there is any.
    pub(crate) fn texts(&mut self, topic: &str, payload: &[u8]) -> (String, Vec<u8>) {
        let (mut into_topic, mut into_payload) =
            self.0.pop().map_or_else(Default::default, |frame| (frame.topic, frame.payload));
        into_topic.clear();
        into_topic.push_str(topic);
        into_payload.clear();
        into_payload.extend_from_slice(payload);
        (into_topic, into_payload)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{FrameKind, Timestamp};

    fn frame(payload_bytes: usize) -> Frame {
        Frame {
            kind: FrameKind::NativeJson,
            source: Arc::from("east"),
            topic: "telemetry/t".to_owned(),
            payload: vec![b'x'; payload_bytes],
            arrival: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn few_frames_and_none_that_is_long_are_kept_for_their_memory() {
        let mut spare = Spare::default();
        for _ in 0..Spare::FRAMES_MAX {
            spare.add(frame(Spare::BYTES_MAX));
        }
        assert_eq!(spare.len(), 0);
        for _ in 0..=Spare::FRAMES_MAX {
            spare.add(frame(Spare::BYTES_MAX / 2));
        }
        assert_eq!(spare.len(), Spare::FRAMES_MAX);
        // What is read into their memory is what stands there, whatever was in it.
        assert_eq!(spare.texts("t", b"y"), ("t".to_owned(), vec![b'y']));
        assert_eq!(spare.len(), Spare::FRAMES_MAX - 1);
    }
}
