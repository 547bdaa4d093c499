//! The schedule of one endpoint: which of its devices is to be polled next, and when.
//!
//! Polls lie on the grid of the device's interval, moved by a phase that its name gives, so that they are spread out and
//! stay where they are when devices come and go. A device has one poll due at most: what could not be made in time is
//! skipped and counted, never queued. A unit that does not answer is left alone for a while that doubles with each
//! failure, and all such units together take a fifth of the connection's time at most, so that a dead unit costs its
//! neighbours little. Pure: `now` is an argument, jitter too.

use std::time::Duration;

use crate::model::Timestamp;

/// First wait after a failure; doubled with each further one.
const BACKOFF_FIRST_MS: i64 = 1_000;
/// After a unit did not answer, its failing neighbours wait this many times as long as that took.
const FAILING_REST: i64 = 4;

/// A device's place in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Milliseconds between polls, at least 1.
    pub(super) interval_ms: i64,
    /// Milliseconds by which its polls lie after the interval's grid.
    pub(super) phase_ms: i64,
    /// Index of its unit among the endpoint's units.
    pub(super) unit: usize,
}

impl Entry {
    /// The entry of the device that goes by `name` everywhere in the city.
    ///
    /// Polls keep out of the last eighth of the interval, so that an answer that takes a while still falls into the
    /// window that its poll belongs to.
    pub(super) fn new(name: &str, interval_ms: u32, unit: usize) -> Self {
        let interval_ms = i64::from(interval_ms.max(1));
        let room_ms = (interval_ms - interval_ms / 8).max(1).unsigned_abs();
        let phase_ms = i64::try_from(stable_hash(name) % room_ms).unwrap_or(0);
        Self { interval_ms, phase_ms, unit }
    }

    /// The first poll at `now` or later.
    fn first_due(&self, now: Timestamp) -> Timestamp {
        let since_phase = now.as_millis().saturating_sub(self.phase_ms);
        let slot = since_phase.saturating_add(self.interval_ms - 1).div_euclid(self.interval_ms);
        Timestamp::from_millis(slot.saturating_mul(self.interval_ms).saturating_add(self.phase_ms))
    }
}

/// FNV-1a, and a final mix so that names that differ in their last digit lie far apart. Stable across versions.
fn stable_hash(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 33
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Poll the device with this index now.
    Poll(usize),
    /// Nothing to do before this instant.
    Wait(Timestamp),
}

/// Polls that were not made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Because the connection was busy until the next one was due.
    pub(super) late: u64,
    /// Because the unit or the endpoint had failed and was left alone.
    pub(super) backed_off: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Timestamp>,
}

impl Backoff {
    /// Counts a failure at `now`. `jitter` in [0, 1) shortens the wait by up to a fifth.
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a wait that i64 holds")]
    #[expect(clippy::cast_precision_loss, reason = "a wait in milliseconds lies far below 2^53")]
    fn fail(&mut self, max_ms: i64, now: Timestamp, jitter: f64) {
        let doubled_ms = BACKOFF_FIRST_MS << self.failures.min(30);
        let wait_ms = doubled_ms.min(max_ms);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now.plus_millis(wait_ms - (wait_ms as f64 * 0.2 * jitter) as i64));
    }

    /// Ends the wait where the clock went back so far that it would last longer than it ever may.
    fn forget_if_clock_went_back(&mut self, max_ms: i64, now: Timestamp) {
        if self.until.is_some_and(|until| until.millis_since(now) > max_ms) {
            self.until = Some(now);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Target {
    entry: Entry,
    due: Timestamp,
    /// Number of its last poll among all of the endpoint; 0 where it has had none.
    polled: u64,
}

impl Target {
    /// Moves `due` past `until`; returns how many polls that skips.
    fn skip_to(&mut self, until: Timestamp) -> u64 {
        if self.due > until {
            return 0;
        }
        let polls = until.millis_since(self.due) / self.entry.interval_ms + 1;
        self.due = self.due.plus_millis(polls.saturating_mul(self.entry.interval_ms));
        polls.unsigned_abs()
    }
}

/// When the devices of one endpoint are polled.
#[derive(Debug)]
pub(super) struct Schedule {
    targets: Vec<Target>,
    units: Vec<Backoff>,
    endpoint: Backoff,
    /// No failing unit is tried before this instant.
    failing_after: Timestamp,
    backoff_max_ms: i64,
    /// Polls given out.
    polls: u64,
    skipped: Skipped,
}

impl Schedule {
    pub(super) fn new(entries: &[Entry], backoff_max: Duration, now: Timestamp) -> Self {
        let units_count = entries.iter().map(|entry| entry.unit + 1).max().unwrap_or(0);
        Self {
            targets: entries.iter().map(|&entry| Target { entry, due: entry.first_due(now), polled: 0 }).collect(),
            units: vec![Backoff::default(); units_count],
            endpoint: Backoff::default(),
            failing_after: now,
            backoff_max_ms: i64::try_from(backoff_max.as_millis()).unwrap_or(i64::MAX).clamp(1, i64::MAX / 4),
            polls: 0,
            skipped: Skipped::default(),
        }
    }

    /// What to do at `now`. A poll that it gives is taken: the device's next one lies in the future.
    ///
    /// Devices of units that answer come first, among them the one whose last poll is the longest ago.
    pub(super) fn next(&mut self, now: Timestamp) -> Next {
        self.follow_clock(now);
        if let Some(until) = self.endpoint.until {
            let passed = until.min(now);
            self.skipped.backed_off += self.targets.iter_mut().map(|target| target.skip_to(passed)).sum::<u64>();
            if now < until {
                return Next::Wait(until);
            }
            self.endpoint.until = None;
        }
        for target in &mut self.targets {
            if let Some(until) = self.units[target.entry.unit].until {
                self.skipped.backed_off += target.skip_to(until.min(now));
            }
        }
        let ready = |target: &Target| self.ready_at(target);
        let due = self.targets.iter().enumerate().filter(|(_, target)| ready(target) <= now);
        match due.min_by_key(|(_, target)| (self.failing(target.entry.unit), target.polled)) {
            Some((index, _)) => {
                // The poll itself is made; the further ones that are due already are not.
                self.polls += 1;
                let target = &mut self.targets[index];
                target.polled = self.polls;
                self.skipped.late += target.skip_to(now).saturating_sub(1);
                Next::Poll(index)
            }
            None => Next::Wait(self.targets.iter().map(ready).min().unwrap_or(now.plus_millis(60_000))),
        }
    }

    /// The instant from which `target` may be polled.
    fn ready_at(&self, target: &Target) -> Timestamp {
        match self.units[target.entry.unit].until {
            Some(until) => target.due.max(until).max(self.failing_after),
            None => target.due,
        }
    }

    /// Takes up the grid anew where the clock went back.
    fn follow_clock(&mut self, now: Timestamp) {
        for target in &mut self.targets {
            if target.due.millis_since(now) > target.entry.interval_ms {
                target.due = target.entry.first_due(now);
            }
        }
        let max_ms = self.backoff_max_ms;
        self.units.iter_mut().chain([&mut self.endpoint]).for_each(|it| it.forget_if_clock_went_back(max_ms, now));
        if self.failing_after.millis_since(now) > max_ms {
            self.failing_after = now;
        }
    }

    /// Whether `unit` did not answer the last time.
    pub(super) fn failing(&self, unit: usize) -> bool {
        self.units[unit].until.is_some()
    }

    /// Says that the device's unit answered, be it with an exception.
    pub(super) fn answered(&mut self, index: usize, now: Timestamp) {
        let unit = self.targets[index].entry.unit;
        if self.units.iter().all(|unit| unit.until.is_some()) {
            // The endpoint as a whole is back: its other units need not wait out what was not their own fault.
            self.units.iter_mut().for_each(|unit| unit.until = Some(now));
            self.failing_after = now;
        }
        self.units[unit] = Backoff::default();
    }

    /// Says that the device's unit did not answer between `asked` and `now`.
    pub(super) fn silent(&mut self, index: usize, asked: Timestamp, now: Timestamp, jitter: f64) {
        let unit = self.targets[index].entry.unit;
        self.units[unit].fail(self.backoff_max_ms, now, jitter);
        let rest_ms = now.millis_since(asked).max(0).saturating_mul(FAILING_REST).min(self.backoff_max_ms);
        self.failing_after = now.plus_millis(rest_ms);
    }

    /// Says that the endpoint took no connection.
    pub(super) fn unreachable(&mut self, now: Timestamp, jitter: f64) {
        self.endpoint.fail(self.backoff_max_ms, now, jitter);
    }

    /// Says that the endpoint took a connection.
    pub(super) fn reachable(&mut self) {
        self.endpoint = Backoff::default();
    }

    /// Polls skipped since this was last asked.
    pub(super) fn take_skipped(&mut self) -> Skipped {
        std::mem::take(&mut self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn entry(interval_ms: i64, phase_ms: i64, unit: usize) -> Entry {
        Entry { interval_ms, phase_ms, unit }
    }

    fn schedule(entries: &[Entry]) -> Schedule {
        Schedule::new(entries, Duration::from_mins(1), at(0))
    }

    #[test]
    fn polls_lie_on_the_grid_of_the_interval() {
        let mut schedule = schedule(&[entry(10_000, 300, 0), entry(10_000, 7_000, 1)]);
        assert_eq!(schedule.next(at(0)), Next::Wait(at(300)));
        assert_eq!(schedule.next(at(302)), Next::Poll(0));
        assert_eq!(schedule.next(at(450)), Next::Wait(at(7_000)));
        assert_eq!(schedule.next(at(7_000)), Next::Poll(1));
        assert_eq!(schedule.next(at(7_001)), Next::Wait(at(10_300)));
        assert_eq!(schedule.take_skipped(), Skipped::default());
    }

    #[test]
    fn phases_spread_devices_over_the_interval_and_keep_out_of_its_last_eighth() {
        let phase = |number: usize| Entry::new(&format!("DC_1/pdu-{number:03}"), 10_000, 0).phase_ms;
        let mut quarters = [0; 4];
        for number in 0..400 {
            assert!((0..8_750).contains(&phase(number)));
            quarters[usize::try_from(phase(number) / 2_188).expect("small")] += 1;
        }
        assert!(quarters.iter().all(|count| (70..=130).contains(count)), "{quarters:?}");
        assert_eq!(phase(7), 7_047, "a phase never changes between versions");
        assert_eq!(Entry::new("a", 0, 0).phase_ms, 0);
    }

    #[test]
    fn a_poll_that_is_late_is_skipped_and_counted_and_never_queued() {
        let mut schedule = schedule(&[entry(1_000, 0, 0), entry(1_000, 500, 1)]);
        assert_eq!(schedule.next(at(0)), Next::Poll(0));
        // The poll of device 0 took until 3,600: of device 0 three more came due, of device 1 four.
        assert_eq!(schedule.next(at(3_600)), Next::Poll(1));
        assert_eq!(schedule.next(at(3_600)), Next::Poll(0));
        assert_eq!(schedule.take_skipped(), Skipped { late: 3 + 2, backed_off: 0 });
        assert_eq!(schedule.next(at(3_601)), Next::Wait(at(4_000)));
    }

    #[test]
    fn an_overloaded_endpoint_serves_its_devices_in_turn() {
        let entries: Vec<_> = (0..4).map(|index| entry(1_000, i64::from(index) * 10, 0)).collect();
        let mut schedule = schedule(&entries);
        let mut polls = [0; 4];
        let mut now = 40;
        while now < 40_000 {
            match schedule.next(at(now)) {
                Next::Poll(index) => {
                    polls[index] += 1;
                    now += 700;
                }
                Next::Wait(until) => now = until.as_millis(),
            }
        }
        assert!(polls.iter().all(|&count| (14..=15).contains(&count)), "{polls:?}");
    }

    #[test]
    fn a_failing_unit_waits_twice_as_long_after_each_failure_up_to_the_limit() {
        let mut schedule = schedule(&[entry(500, 0, 0)]);
        let mut tries = Vec::new();
        let mut now = 0_i64;
        while now < 300_000 {
            match schedule.next(at(now)) {
                Next::Poll(_) => {
                    tries.push(now);
                    schedule.silent(0, at(now), at(now), 0.0);
                }
                Next::Wait(until) => now = until.as_millis(),
            }
        }
        let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(waits, [1_500, 2_500, 4_500, 8_500, 16_500, 32_500, 60_500, 60_500, 60_500]);
        let skipped = schedule.take_skipped();
        assert_eq!(skipped.late, 0);
        let slots = tries[tries.len() - 1] / 500 + 1;
        assert_eq!(skipped.backed_off + u64::try_from(tries.len()).expect("few"), slots.unsigned_abs());
    }

    #[test]
    fn dead_units_take_a_fifth_of_the_time_and_their_neighbour_stays_on_time() {
        // Unit 0 answers in 5 ms every second; nine others never do, each trial taking a second.
        let entries: Vec<_> = (0..10).map(|unit| entry(1_000, i64::try_from(unit).expect("few") * 90, unit)).collect();
        let mut schedule = schedule(&entries);
        let (mut now, mut good, mut wasted_ms, end) = (0, 0, 0, 600_000);
        while now < end {
            match schedule.next(at(now)) {
                Next::Poll(0) => {
                    now += 5;
                    good += 1;
                    schedule.answered(0, at(now));
                }
                Next::Poll(index) => {
                    schedule.silent(index, at(now), at(now + 1_000), 0.5);
                    now += 1_000;
                    wasted_ms += if now > 20_000 { 1_000 } else { 0 };
                }
                Next::Wait(until) => {
                    assert!(until > at(now));
                    now = until.as_millis();
                }
            }
        }
        assert!(wasted_ms <= end / 5, "{wasted_ms}");
        assert!(good >= 550, "{good} of 600");
    }

    #[test]
    fn an_endpoint_that_comes_back_has_all_its_units_tried_at_once() {
        let mut schedule = schedule(&[entry(1_000, 0, 0), entry(1_000, 100, 1)]);
        for _ in 0..8 {
            schedule.silent(0, at(0), at(0), 0.0);
            schedule.silent(1, at(0), at(0), 0.0);
        }
        assert_eq!(schedule.next(at(30_000)), Next::Wait(at(60_000)));
        schedule.answered(0, at(30_010));
        assert_eq!(schedule.next(at(30_050)), Next::Wait(at(30_100)));
        assert_eq!(schedule.next(at(30_100)), Next::Poll(1));
    }

    #[test]
    fn polls_of_an_endpoint_that_takes_no_connection_are_counted_as_backed_off() {
        let mut schedule = schedule(&[entry(1_000, 0, 0), entry(1_000, 600, 1)]);
        assert_eq!(schedule.next(at(0)), Next::Poll(0));
        schedule.unreachable(at(0), 0.0);
        schedule.unreachable(at(0), 0.0);
        assert_eq!(schedule.next(at(1)), Next::Wait(at(2_000)));
        assert_eq!(schedule.next(at(2_000)), Next::Wait(at(2_600)));
        assert_eq!(schedule.take_skipped(), Skipped { late: 0, backed_off: 2 + 2 });
        assert_eq!(schedule.next(at(2_600)), Next::Poll(1));
        schedule.reachable();
        assert_eq!(schedule.next(at(2_601)), Next::Wait(at(3_000)));
    }

    #[test]
    fn a_clock_that_is_set_does_not_stop_the_polls() {
        let mut schedule = schedule(&[entry(10_000, 0, 0), entry(10_000, 5_000, 1)]);
        let (later, day) = (86_400_000, 86_400_000);
        assert_eq!(schedule.next(at(later + 1)), Next::Poll(0));
        assert_eq!(schedule.next(at(later + 1)), Next::Poll(1));
        assert_eq!(schedule.next(at(later + 2)), Next::Wait(at(later + 5_000)));
        schedule.silent(1, at(later), at(later + 2), 0.0);
        // Back by a day: waits and dues of the old time are worth nothing.
        assert_eq!(schedule.next(at(later + 2 - day)), Next::Wait(at(5_000)));
        assert_eq!(schedule.next(at(5_000)), Next::Poll(1));
        assert_eq!(schedule.next(at(5_001)), Next::Wait(at(10_000)));
    }
}
