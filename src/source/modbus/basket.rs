//! Polls on their way into the journal: those of a short while go together, for each append wakes the journal's thread and
//! may cost a sync of the disk.
//!
//! What waits here is bounded in time and in bytes, and is lost with the process like a poll that was not made yet.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::health::Counter;
use crate::journal::RefusedCause;
use crate::model::Frame;

/// How long a poll may wait for others.
const GATHER: Duration = Duration::from_millis(250);
/// Bytes of polls that do not wait any longer.
const BYTES_MAX: usize = 1024 * 1024;
/// What a frame takes beside its topic and payload, about.
const FRAME_BYTES: usize = 64;

/// Where polls go.
pub(super) type Deliver = Arc<dyn Fn(Vec<Frame>) -> Result<(), RefusedCause> + Send + Sync>;

/// Polls of all endpoints that are not in the journal yet.
pub(super) struct Basket {
    deliver: Deliver,
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Default)]
struct Held {
    frames: Vec<Frame>,
    outlets: Vec<Arc<Outlet>>,
    bytes: usize,
}

/// What the journal says of one endpoint's polls.
#[derive(Debug)]
pub(super) struct Outlet {
    shed: Counter,
    refused: AtomicU8,
}

impl Outlet {
    /// An outlet that counts in `shed` the polls that the journal refuses.
    pub(super) fn new(shed: Counter) -> Self {
        Self { shed, refused: AtomicU8::new(0) }
    }

    /// Why the journal refused the last poll that it was offered, where it did.
    pub(super) fn refused(&self) -> Option<RefusedCause> {
        match self.refused.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(RefusedCause::Busy),
            2 => Some(RefusedCause::Full),
            _ => Some(RefusedCause::Closed),
        }
    }

    fn note(&self, refused: Option<RefusedCause>) {
        let code = match refused {
            None => 0,
            Some(RefusedCause::Busy) => 1,
            Some(RefusedCause::Full) => 2,
            Some(RefusedCause::Closed) => 3,
        };
        self.shed.add(u64::from(code > 0));
        self.refused.store(code, Ordering::Relaxed);
    }
}

impl Basket {
    pub(super) fn new(deliver: Deliver) -> Self {
        Self { deliver, held: Mutex::default(), filled: Notify::new() }
    }

    /// Takes a poll, which goes on soon; `outlet` hears what became of it.
    pub(super) fn put(&self, frame: Frame, outlet: &Arc<Outlet>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes += FRAME_BYTES + frame.topic.len() + frame.payload.len();
        held.frames.push(frame);
        held.outlets.push(outlet.clone());
        let (first, full) = (held.frames.len() == 1, held.bytes >= BYTES_MAX);
        drop(held);
        if full {
            self.empty();
        } else if first {
            self.filled.notify_one();
        }
    }

    /// Hands everything to the journal.
    pub(super) fn empty(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.frames.is_empty() {
            return;
        }
        let Held { frames, outlets, .. } = std::mem::take(&mut *held);
        // The lock is kept until the journal has them, so that polls of a device go in the order of their arrival, and until
        // that is noted, so that the last word is on the last of them.
        let refused = (self.deliver)(frames).err();
        for outlet in outlets {
            outlet.note(refused);
        }
        drop(held);
    }

    /// Empties it a short while after the first poll came, again and again.
    pub(super) async fn keep_emptying(&self) {
        loop {
            self.filled.notified().await;
            sleep(GATHER).await;
            self.empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::health::{Health, PartKind};
    use crate::model::{FrameKind, Timestamp};

    fn frame(number: usize, bytes: usize) -> Frame {
        Frame {
            source: Arc::from("modbus"),
            kind: FrameKind::ModbusPoll,
            topic: format!("S/d{number}"),
            payload: vec![0; bytes],
            arrival: Timestamp::from_millis(0),
        }
    }

    fn outlet() -> Arc<Outlet> {
        let part = Health::default().part(PartKind::Modbus, "host:502", Timestamp::from_millis(0));
        Arc::new(Outlet::new(part.counter("polls_shed")))
    }

    /// A basket, and the sizes of the batches that it gave.
    fn basket(verdict: impl Fn(usize) -> Result<(), RefusedCause> + Send + Sync + 'static) -> (Arc<Basket>, Sizes) {
        let sizes = Sizes::default();
        let noted = sizes.clone();
        let deliver = move |frames: Vec<Frame>| {
            let mut sizes = noted.lock().expect("sound");
            sizes.push(frames.len());
            verdict(sizes.len())
        };
        (Arc::new(Basket::new(Arc::new(deliver))), sizes)
    }

    type Sizes = Arc<Mutex<Vec<usize>>>;

    #[tokio::test(start_paused = true)]
    async fn polls_of_a_short_while_go_together_and_none_waits_longer() {
        let (basket, sizes) = basket(|_| Ok(()));
        let emptier = basket.clone();
        let emptying = tokio::spawn(async move { emptier.keep_emptying().await });
        let (outlet, began) = (outlet(), Instant::now());
        for number in 0..5 {
            basket.put(frame(number, 100), &outlet);
            sleep(GATHER / 10).await;
        }
        assert!(sizes.lock().expect("sound").is_empty());
        while sizes.lock().expect("sound").is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(began.elapsed() <= GATHER + Duration::from_millis(2), "{:?}", began.elapsed());
        basket.put(frame(5, 100), &outlet);
        sleep(2 * GATHER).await;
        assert_eq!(*sizes.lock().expect("sound"), [5, 1]);
        emptying.abort();
    }

    #[tokio::test]
    async fn a_full_basket_does_not_wait() {
        let (basket, sizes) = basket(|_| Ok(()));
        let outlet = outlet();
        for number in 0..9 {
            basket.put(frame(number, BYTES_MAX / 4), &outlet);
        }
        assert_eq!(*sizes.lock().expect("sound"), [4, 4]);
        basket.empty();
        basket.empty();
        assert_eq!(*sizes.lock().expect("sound"), [4, 4, 1]);
    }

    #[tokio::test]
    async fn each_refused_poll_is_counted_where_it_came_from_and_the_last_word_counts() {
        let (basket, _) = basket(|batch| if batch == 1 { Err(RefusedCause::Full) } else { Ok(()) });
        let (one, two) = (outlet(), outlet());
        for (number, from) in [&one, &two, &one].into_iter().enumerate() {
            basket.put(frame(number, 1), from);
        }
        basket.empty();
        assert_eq!((one.shed.get(), one.refused()), (2, Some(RefusedCause::Full)));
        basket.put(frame(3, 1), &one);
        basket.empty();
        assert_eq!((one.shed.get(), one.refused()), (2, None));
        assert_eq!((two.shed.get(), two.refused()), (1, Some(RefusedCause::Full)));
    }
}
