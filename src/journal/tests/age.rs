//! How long raw messages stay on the disk, and what is said where they stay too long.

use std::sync::Arc;
use std::time::Duration;

use super::{Bench, EPOCH_MS, options};
use crate::health::State;
use crate::journal::Options;
use crate::journal::segment::name;
use crate::journal::simulated_disk::SimulatedDisk;
use crate::journal::writer::Round;
use crate::model::Timestamp;

fn open_after(disk: &SimulatedDisk, hours: i64, options: Options, passed: u64) -> Bench {
    Bench::open_at(Arc::new(disk.clone()), options, passed, Timestamp::from_millis(EPOCH_MS + hours * 3_600_000))
}

/// A journal to which every segment is too old.
fn without_patience() -> Options {
    Options { age_max: Duration::ZERO, ..options() }
}

#[test]
fn an_idle_journal_lets_go_of_old_records_that_the_store_has_passed() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    bench.keep(0..3);
    bench.shared.release(3);
    assert_eq!((bench.writer.round(), disk.names()), (Round::Idle, vec![name(0)]), "young records stay");

    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, without_patience(), 0);
    bench.append(0).expect("taken");
    assert_eq!(bench.writer.round(), Round::Committed);
    bench.shared.release(1);
    assert_eq!((bench.writer.round(), disk.names().len(), bench.count("bytes_on_disk")), (Round::Idle, 0, 0));
    bench.keep(1..2);
    assert_eq!((bench.story(1), disk.names()), (vec![1], vec![name(1)]));
}

#[test]
fn old_records_that_the_store_has_not_passed_stay_and_say_so() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, without_patience(), 0);
    bench.keep(0..3);
    assert_eq!(bench.writer.round(), Round::Idle);
    assert_eq!(disk.names(), [name(0), name(1), name(2)]);
    let condition = bench.part.snapshot();
    assert_eq!(condition.state, State::Degraded);
    assert!(condition.detail.contains("2025-11-24T16:00:00") && condition.detail.contains("none"), "{condition:?}");
    bench.shared.release(2);
    let detail = bench.part.snapshot().detail;
    assert!(detail.contains("last passed some at 2025-11-24T16:00:00"), "{detail}");
    bench.shared.release(3);
    assert_eq!((bench.part.snapshot().state, disk.names().len()), (State::Up, 0));
}

#[test]
fn the_age_of_the_oldest_record_is_known_over_a_restart() {
    let disk = SimulatedDisk::default();
    Bench::open(&disk, options(), 0).keep(0..3);
    let bench = open_after(&disk, 1, options(), 0);
    assert_eq!((bench.count("oldest_record_age_s"), bench.part.snapshot().state), (3_600, State::Up));
    let bench = open_after(&disk, 5, options(), 0);
    assert_eq!((bench.count("oldest_record_age_s"), bench.part.snapshot().state), (5 * 3_600, State::Degraded));
    bench.shared.release(3);
    assert_eq!((bench.count("oldest_record_age_s"), bench.part.snapshot().state), (0, State::Up));
}

#[test]
fn a_clock_that_was_set_back_makes_no_age() {
    let disk = SimulatedDisk::default();
    Bench::open(&disk, options(), 0).keep(0..3);
    let bench = open_after(&disk, -9, options(), 0);
    assert_eq!((bench.count("oldest_record_age_s"), bench.part.snapshot().state), (0, State::Up));
}
