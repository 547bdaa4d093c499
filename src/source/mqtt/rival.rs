//! Finds out that another client uses our client identifier.
//!
//! A broker closes a connection when another one comes with its client identifier (MQTT-3.1.4-2), and MQTT 3.1.1 lets it
//! give no reason. So two collectors with one identifier throw each other out without end, and all that each sees is a
//! connection that is closed soon after the subscription, again and again, by a broker that is otherwise well. Pure: the
//! times are arguments.

use std::time::Duration;

/// Connections in a row that are cut short, at which a rival is suspected.
const CUT_SHORT_MAX: u32 = 3;

/// How a connection, or an attempt at one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The broker closed it this long after the subscription.
    Closed { held: Duration },
    /// The broker closed it before it had answered the subscription: neither says anything.
    ClosedEarly,
    /// Something else that explains itself: no broker there, no answer, a refusal, a broken protocol.
    Explained,
}

/// What the connections of late say about a rival.
#[derive(Clone, Debug)]
pub(super) struct RivalWatch {
    /// How long a connection has to hold to count as steady.
    steady_after: Duration,
    /// Longest wait between two attempts of a rival that is configured as we are.
    rival_wait_max: Duration,
    cut_short: u32,
}

impl RivalWatch {
    /// A watch that suspects nobody.
    pub(super) fn new(steady_after: Duration, backoff_max: Duration) -> Self {
        Self { steady_after, rival_wait_max: backoff_max, cut_short: 0 }
    }

    /// Notes how a connection ended.
    pub(super) fn ended(&mut self, ending: Ending) {
        match ending {
            Ending::Closed { held } if held < self.holds_after() => self.cut_short = self.cut_short.saturating_add(1),
            Ending::ClosedEarly => {}
            Ending::Closed { .. } | Ending::Explained => self.cut_short = 0,
        }
    }

    /// Whether another client seems to have our client identifier.
    pub(super) fn suspects(&self) -> bool {
        self.cut_short >= CUT_SHORT_MAX
    }

    /// How long a connection has to hold to be steady. While there is a rival that waits before it comes back, a
    /// connection holds as long as the rival waits, and that shows nothing.
    pub(super) fn holds_after(&self) -> Duration {
        if self.suspects() { self.steady_after + self.rival_wait_max } else { self.steady_after }
    }

    /// Notes that a connection has held for [`Self::holds_after`]. Returns whether a rival was suspected until now.
    pub(super) fn held(&mut self) -> bool {
        std::mem::take(&mut self.cut_short) >= CUT_SHORT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY_AFTER: Duration = Duration::from_secs(10);
    const BACKOFF_MAX: Duration = Duration::from_mins(1);

    fn watch(endings: &[Ending]) -> RivalWatch {
        let mut watch = RivalWatch::new(STEADY_AFTER, BACKOFF_MAX);
        for &ending in endings {
            watch.ended(ending);
        }
        watch
    }

    fn closed_after(seconds: u64) -> Ending {
        Ending::Closed { held: Duration::from_secs(seconds) }
    }

    #[test]
    fn three_connections_in_a_row_that_the_broker_cuts_short_point_to_a_rival() {
        assert!(!watch(&[closed_after(1); 2]).suspects());
        assert!(watch(&[closed_after(1); 3]).suspects());
    }

    #[test]
    fn a_broker_that_restarts_or_refuses_is_no_rival() {
        let restarting = [closed_after(0), Ending::Explained].repeat(9);
        assert!(!watch(&restarting).suspects());
        assert!(!watch(&[Ending::ClosedEarly; 9]).suspects());
    }

    #[test]
    fn a_connection_that_holds_ends_the_row() {
        assert!(
            !watch(&[closed_after(1), closed_after(1), closed_after(11), closed_after(1), closed_after(1)]).suspects()
        );
    }

    #[test]
    fn the_pause_of_a_rival_that_waits_its_longest_is_no_steadiness() {
        let mut watch = watch(&[closed_after(1), closed_after(1), closed_after(1), closed_after(60)]);
        assert!(watch.suspects());
        assert_eq!(watch.holds_after(), BACKOFF_MAX + STEADY_AFTER);
        assert!(watch.held(), "it was suspected until now");
        assert!(!watch.suspects() && !watch.held());
    }
}
