//! The schedule of one endpoint: which of its devices is to be polled next, and when.
//!
//! Polls lie on the grid of the device's interval, moved by a phase that its name gives, so that they are spread out and
//! stay where they are when devices come and go. Phases are a hundredth of the interval apart, so that a few devices share
//! a wake-up. A device has one poll due at most: what could not be made in time is skipped and counted. A unit that does
//! not answer is left alone for a while that doubles with each failure, and all such units together take a fifth of the
//! connection's time at most, so that a dead unit costs its neighbours little. A device that answers, but slowly, comes
//! after those that are prompt, and is held to a fifth of the time as well where it cost one of them a poll. Whoever has
//! waited long has its turn, however busy the connection is.
//! Pure: `now` is an argument, jitter too.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::model::{Timestamp, millis};

/// First wait after a failure; doubled with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// After a unit did not answer, its failing neighbours wait this many times as long as that took; so do slow devices
/// after one that cost a prompt one a poll.
const REST: i64 = 4;
/// A failing or slow device that has waited for so long comes like a prompt one.
const PATIENCE_MS: i64 = 10_000;
/// Phases lie a hundredth of the interval apart, but no further than this.
const STEP_MS_MAX: i64 = 10;

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
        let step_ms = (interval_ms / 100).clamp(1, STEP_MS_MAX);
        Self { interval_ms, phase_ms: phase_ms - phase_ms % step_ms, unit }
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

/// Attempts at a unit or an endpoint, on the daemon's clock.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    backoff: Backoff,
    /// Set while it fails: when it is tried again.
    until: Option<Timestamp>,
}

impl Attempts {
    /// Counts a failure at `now`; `share` as in [`Backoff::failed`].
    fn fail(&mut self, now: Timestamp, share: f64) {
        self.until = Some(now.plus_millis(millis(self.backoff.failed(share))));
    }

    fn succeed(&mut self) {
        self.backoff.succeeded();
        self.until = None;
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
    /// Whether it has not shown itself to be prompt: its last poll was answered late, or not at all.
    slow: bool,
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
    units: Vec<Attempts>,
    endpoint: Attempts,
    /// No failing unit is tried before this instant.
    failing_after: Timestamp,
    /// No slow device is polled before this instant.
    slow_after: Timestamp,
    /// Milliseconds from which on a poll is slow.
    slow_ms: i64,
    backoff_max_ms: i64,
    /// Polls given out.
    polls: u64,
    skipped: Skipped,
}

impl Schedule {
    /// A schedule of `entries`; a poll that takes half a `request_timeout` or longer is slow.
    pub(super) fn new(entries: &[Entry], backoff_max: Duration, request_timeout: Duration, now: Timestamp) -> Self {
        let units_count = entries.iter().map(|entry| entry.unit + 1).max().unwrap_or(0);
        let fresh = Attempts { backoff: Backoff::between(BACKOFF_FIRST, backoff_max), until: None };
        let target = |&entry: &Entry| Target { entry, due: entry.first_due(now), polled: 0, slow: true };
        Self {
            targets: entries.iter().map(target).collect(),
            units: vec![fresh; units_count],
            endpoint: fresh,
            failing_after: now,
            slow_after: now,
            slow_ms: millis(request_timeout / 2).max(1),
            backoff_max_ms: millis(backoff_max).clamp(1, i64::MAX / 4),
            polls: 0,
            skipped: Skipped::default(),
        }
    }

    /// What to do at `now`. A poll that it gives is taken: the device's next one lies in the future.
    ///
    /// Prompt devices come first, then slow ones, then those of units that did not answer; among them the one whose last
    /// poll is the longest ago.
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
        match due.min_by_key(|(_, target)| (self.rank(target, now), target.polled)) {
            Some((index, _)) => {
                // The poll itself is made; the further ones that are due already are not.
                self.polls += 1;
                let target = &mut self.targets[index];
                target.polled = self.polls;
                let skipped = target.skip_to(now).saturating_sub(1);
                if self.units[target.entry.unit].until.is_some() {
                    self.skipped.backed_off += skipped;
                } else {
                    self.skipped.late += skipped;
                }
                Next::Poll(index)
            }
            None => Next::Wait(self.targets.iter().map(ready).min().unwrap_or(now.plus_millis(60_000))),
        }
    }

    /// The instant from which `target` may be polled.
    fn ready_at(&self, target: &Target) -> Timestamp {
        match self.units[target.entry.unit].until {
            Some(until) => target.due.max(until).max(self.failing_after),
            None if target.slow => target.due.max(self.slow_after),
            None => target.due,
        }
    }

    fn rank(&self, target: &Target, now: Timestamp) -> u8 {
        if now.millis_since(self.ready_at(target)) >= PATIENCE_MS {
            0
        } else if self.failing(target.entry.unit) {
            2
        } else {
            u8::from(target.slow)
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
        for after in [&mut self.failing_after, &mut self.slow_after] {
            if after.millis_since(now) > max_ms {
                *after = now;
            }
        }
    }

    /// Takes up the grid anew where the clock was set: no poll was missed meanwhile, and nobody waits for a time that the
    /// clock has left behind.
    pub(super) fn clock_was_set(&mut self, now: Timestamp) {
        for target in &mut self.targets {
            target.due = target.entry.first_due(now);
        }
        for backoff in self.units.iter_mut().chain([&mut self.endpoint]) {
            backoff.until = backoff.until.map(|_| now.plus_millis(-1)); // what is due now is not skipped
        }
        (self.failing_after, self.slow_after) = (now, now);
    }

    /// How long before `now` the slot lies that the poll given last for the device was for, ms; none where its unit is
    /// failing and is tried when it is due for that, whatever its slots are.
    pub(super) fn delay_ms(&self, index: usize, now: Timestamp) -> Option<i64> {
        let target = &self.targets[index];
        let slot = target.due.plus_millis(-target.entry.interval_ms);
        (!self.failing(target.entry.unit)).then(|| now.millis_since(slot))
    }

    /// Whether `unit` did not answer the last time.
    pub(super) fn failing(&self, unit: usize) -> bool {
        self.units[unit].until.is_some()
    }

    /// Failures since the device's unit, or the endpoint, last answered, and when it is tried again.
    pub(super) fn outlook(&self, index: usize) -> (u64, Timestamp) {
        let target = &self.targets[index];
        let ready = self.ready_at(target);
        match self.endpoint.until {
            Some(until) => (self.endpoint.backoff.failures(), until),
            None => (self.units[target.entry.unit].backoff.failures(), ready),
        }
    }

    /// Says that the device's unit answered what it was asked between `asked` and `now`, be it with an exception.
    pub(super) fn answered(&mut self, index: usize, asked: Timestamp, now: Timestamp) {
        let unit = self.targets[index].entry.unit;
        if self.units.iter().all(|unit| unit.until.is_some()) {
            // The endpoint as a whole is back: its other units need not wait out what was not their own fault.
            self.units.iter_mut().for_each(|unit| unit.until = Some(now));
            self.failing_after = now;
        }
        self.units[unit].succeed();
        let took_ms = now.millis_since(asked);
        self.targets[index].slow = took_ms >= self.slow_ms;
        let lost_a_poll = |other: &Target| {
            !other.slow && !self.failing(other.entry.unit) && now.millis_since(other.due) >= other.entry.interval_ms
        };
        if self.targets[index].slow && self.targets.iter().any(lost_a_poll) {
            self.slow_after = now.plus_millis(took_ms.saturating_mul(REST).min(self.backoff_max_ms));
        }
    }

    /// Says that the device's unit did not answer between `asked` and `now`.
    pub(super) fn silent(&mut self, index: usize, asked: Timestamp, now: Timestamp, share: f64) {
        let unit = self.targets[index].entry.unit;
        self.units[unit].fail(now, share);
        self.targets[index].slow = true;
        let rest_ms = now.millis_since(asked).max(0).saturating_mul(REST).min(self.backoff_max_ms);
        self.failing_after = now.plus_millis(rest_ms);
    }

    /// Says that the endpoint took no connection.
    pub(super) fn unreachable(&mut self, now: Timestamp, share: f64) {
        self.endpoint.fail(now, share);
    }

    /// Says that the endpoint took a connection.
    pub(super) fn reachable(&mut self) {
        self.endpoint.succeed();
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

    #[test]
    fn a_clock_that_is_set_misses_no_polls_and_ends_no_wait_late() {
        for set_to in [56 * 365 * 86_400_000, -3_600_000] {
            let mut schedule = schedule(&[entry(10_000, 0, 0), entry(10_000, 5_000, 1)]);
            assert_eq!(schedule.next(at(0)), Next::Poll(0));
            schedule.silent(0, at(0), at(1_000), 0.0);
            schedule.clock_was_set(at(set_to));
            assert_eq!(schedule.next(at(set_to)), Next::Poll(0));
            assert_eq!(schedule.next(at(set_to)), Next::Wait(at(set_to + 5_000)));
            assert_eq!(schedule.next(at(set_to + 5_000)), Next::Poll(1));
            assert_eq!(schedule.take_skipped(), Skipped::default());
        }
    }

    #[test]
    fn a_slow_device_does_not_wait_for_a_time_that_the_clock_has_left_behind() {
        let mut schedule = schedule(&[entry(10_000, 0, 0)]);
        schedule.slow_after = at(40_000);
        schedule.clock_was_set(at(0));
        assert_eq!(schedule.next(at(0)), Next::Poll(0));
    }

    fn schedule(entries: &[Entry]) -> Schedule {
        Schedule::new(entries, Duration::from_mins(1), Duration::from_secs(1), at(0))
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
        assert_eq!(phase(7), 7_040, "a phase never changes between versions");
        assert_eq!(Entry::new("a", 0, 0).phase_ms, 0);
    }

    #[test]
    fn a_poll_that_is_late_is_skipped_and_counted_and_never_queued() {
        let mut schedule = schedule(&[entry(1_000, 0, 0), entry(1_000, 500, 1)]);
        assert_eq!(schedule.next(at(0)), Next::Poll(0));
        assert_eq!(schedule.delay_ms(0, at(0)), Some(0));
        // The poll of device 0 took until 3,600: of device 0 three more came due, of device 1 four.
        assert_eq!(schedule.next(at(3_600)), Next::Poll(1));
        assert_eq!(schedule.delay_ms(1, at(3_600)), Some(100), "what it skipped is counted as skipped");
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
                    schedule.silent(0, at(now), at(now), 1.0);
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
                    schedule.answered(0, at(now - 5), at(now));
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

    /// Runs `entries` to `end`; a poll of device `index` takes `took_ms(index)`, and is answered where that is below the
    /// time-out. Gives the polls of each device.
    fn simulate(entries: &[Entry], end: i64, took_ms: impl Fn(usize, i64) -> i64) -> Vec<i64> {
        let mut schedule = schedule(entries);
        let (mut now, mut polls) = (0, vec![0; entries.len()]);
        while now < end {
            match schedule.next(at(now)) {
                Next::Poll(index) => {
                    let (asked, took) = (now, took_ms(index, now));
                    now += took;
                    polls[index] += 1;
                    match took {
                        1_000 => schedule.silent(index, at(asked), at(now), 0.5),
                        _ => schedule.answered(index, at(asked), at(now)),
                    }
                }
                Next::Wait(until) => {
                    assert!(until > at(now));
                    now = until.as_millis();
                }
            }
        }
        polls
    }

    #[test]
    fn of_thirty_two_units_on_one_connection_eight_dead_ones_cost_the_others_hardly_a_poll() {
        let entries: Vec<_> = (0..32).map(|unit| Entry::new(&format!("S/u{unit}"), 2_000, unit)).collect();
        let took_ms = |index, _| if index % 4 == 0 { 1_000 } else { 5 };
        let (first, both) = (simulate(&entries, 600_000, took_ms), simulate(&entries, 1_200_000, took_ms));
        for index in 0..32 {
            let (polls, later) = (first[index], both[index] - first[index]);
            if index % 4 == 0 {
                assert!((10..=40).contains(&polls) && (8..=20).contains(&later), "{first:?} {both:?}");
            } else {
                // Until the dead ones are known for dead, a few of the 300 are lost; later none.
                assert!(polls >= 295 && later >= 299, "{first:?} {both:?}");
            }
        }
    }

    #[test]
    fn slow_devices_keep_their_pace_while_they_cost_nobody_a_poll() {
        // Two take 900 ms of every 10 s; eight prompt ones are polled every second and lose nothing.
        let mut entries: Vec<_> =
            (0..8).map(|unit| entry(1_000, i64::try_from(unit).expect("few") * 90, unit)).collect();
        entries.extend([entry(10_000, 400, 8), entry(10_000, 5_000, 9)]);
        let polls = simulate(&entries, 600_000, |index, _| if index < 8 { 5 } else { 900 });
        assert!(polls[..8].iter().all(|&count| count >= 598), "{polls:?}");
        assert_eq!(polls[8..], [60, 60]);
    }

    #[test]
    fn a_slow_device_that_costs_its_neighbours_polls_is_held_to_a_fifth_of_the_time() {
        // Device 0 asks for 2.7 s of every second; the others are prompt.
        let entries: Vec<_> = (0..8).map(|unit| entry(1_000, i64::try_from(unit).expect("few") * 90, unit)).collect();
        let polls = simulate(&entries, 600_000, |index, _| if index == 0 { 2_700 } else { 5 });
        assert!(polls[0] >= 40 && (polls[0] - 2) * 2_700 <= 600_000 / 5, "{polls:?}");
        assert!(polls[1..].iter().all(|&count| count >= 500), "{polls:?}");
    }

    #[test]
    fn devices_that_are_all_slow_share_the_connection_and_rest_for_nobody() {
        let entries: Vec<_> = (0..4).map(|unit| entry(1_000, 0, unit)).collect();
        let polls = simulate(&entries, 600_000, |_, _| 700);
        assert!(polls.iter().sum::<i64>() >= 850, "{polls:?}");
        assert!(polls.iter().all(|&count| (210..=216).contains(&count)), "{polls:?}");
    }

    #[test]
    fn a_unit_that_comes_back_is_found_however_busy_the_connection_is() {
        // Two devices ask for more than there is; the third is dead for a minute.
        let entries = [entry(100, 0, 0), entry(100, 50, 1), entry(1_000, 0, 2)];
        let took_ms = |index, now| {
            if index < 2 {
                80
            } else if now < 60_000 {
                1_000
            } else {
                5
            }
        };
        let polls = simulate(&entries, 240_000, took_ms);
        assert!(polls[2] >= 100, "{polls:?}");
    }

    #[test]
    fn an_endpoint_that_comes_back_has_all_its_units_tried_at_once() {
        let mut schedule = schedule(&[entry(1_000, 0, 0), entry(1_000, 100, 1)]);
        for _ in 0..8 {
            schedule.silent(0, at(0), at(0), 1.0);
            schedule.silent(1, at(0), at(0), 1.0);
        }
        assert_eq!(schedule.next(at(30_000)), Next::Wait(at(60_000)));
        schedule.answered(0, at(30_005), at(30_010));
        assert_eq!(schedule.next(at(30_050)), Next::Wait(at(30_100)));
        assert_eq!(schedule.next(at(30_100)), Next::Poll(1));
    }

    #[test]
    fn polls_of_an_endpoint_that_takes_no_connection_are_counted_as_backed_off() {
        let mut schedule = schedule(&[entry(1_000, 0, 0), entry(1_000, 600, 1)]);
        assert_eq!(schedule.next(at(0)), Next::Poll(0));
        schedule.unreachable(at(0), 1.0);
        schedule.unreachable(at(0), 1.0);
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
        schedule.silent(1, at(later), at(later + 2), 1.0);
        // Back by a day: waits and dues of the old time are worth nothing.
        assert_eq!(schedule.next(at(later + 2 - day)), Next::Wait(at(5_000)));
        assert_eq!(schedule.next(at(5_000)), Next::Poll(1));
        assert_eq!(schedule.next(at(5_001)), Next::Wait(at(10_000)));
    }
}
