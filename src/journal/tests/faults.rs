//! Bounds, failed writes and syncs, damage found on the way.

use super::{Bench, frame, frame_of, options};
use crate::health::State;
use crate::journal::format::{HEADER_BYTES, PAYLOAD_BYTES_MAX, record_bytes};
use crate::journal::segment::{damaged_name, name};
use crate::journal::simulated_disk::{Failure, SimulatedDisk};
use crate::journal::writer::Round;
use crate::journal::{Entry, Options, RefusedCause, Storage};
use crate::model::FrameKind;

#[test]
fn a_reader_sees_nothing_before_it_is_synced() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    bench.append(0).expect("taken");
    assert_eq!(bench.story(0), Vec::<i64>::new());
    disk.fail_next(Failure::Sync); // of the new segment's header
    assert_eq!(bench.writer.round(), Round::Failed);
    bench.append(1).expect("taken");
    assert_eq!((bench.story(0), bench.acked()), (vec![], vec![]));
    assert_eq!(bench.writer.round(), Round::Committed);
    assert_eq!((bench.story(0), bench.acked()), (vec![0, 1], vec![0, 1]));
}

#[test]
fn after_a_failed_sync_the_group_goes_to_a_new_segment_and_is_read_once() {
    for failure in [Failure::Append, Failure::Sync] {
        let disk = SimulatedDisk::default();
        let mut bench = Bench::open(&disk, options(), 0);
        bench.keep(0..2);
        bench.append(2).expect("taken");
        disk.fail_next(failure);
        assert_eq!((bench.writer.round(), bench.acked()), (Round::Failed, vec![0, 1]));
        assert_eq!((bench.part.snapshot().state, bench.count("sync_failures")), (State::Down, 1));
        assert_eq!((bench.writer.round(), bench.acked()), (Round::Committed, vec![0, 1, 2]));
        assert_eq!(bench.part.snapshot().state, State::Up);
        assert_eq!((disk.names(), bench.story(0)), (vec![name(0), name(2)], vec![0, 1, 2]));
        disk.crash();
        let bench = Bench::open(&disk, options(), 0);
        assert_eq!((bench.story(0), bench.count("damaged_segments")), (vec![0, 1, 2], 0));
    }
}

#[test]
fn a_segment_whose_first_group_failed_is_made_anew() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    bench.append(0).expect("taken");
    for failure in [Failure::Create, Failure::SyncFolder, Failure::Append, Failure::Sync] {
        disk.fail_next(failure);
        assert_eq!(bench.writer.round(), Round::Failed);
    }
    assert_eq!(bench.writer.round(), Round::Committed);
    assert_eq!((disk.names(), bench.story(0)), (vec![name(0)], vec![0]));
    disk.crash();
    assert_eq!(Bench::open(&disk, options(), 0).story(0), [0]);
}

#[test]
fn a_full_disk_refuses_and_keeps_what_is_queued() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    bench.keep(0..3);
    disk.set_bytes_max(Some(disk.bytes() + 10));
    bench.append(3).expect("taken");
    assert_eq!(bench.writer.round(), Round::Failed);
    assert_eq!(bench.append(4), Err(RefusedCause::Full));
    assert_eq!((bench.part.snapshot().state, bench.count("refused_full")), (State::Down, 1));
    for _ in 0..5 {
        assert_eq!(bench.writer.round(), Round::Failed);
    }
    disk.set_bytes_max(None);
    assert_eq!(bench.writer.round(), Round::Committed);
    bench.keep(4..5);
    assert_eq!((bench.acked(), bench.story(0)), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4]));
}

#[test]
fn at_bytes_max_it_refuses_until_segments_are_released() {
    let disk = SimulatedDisk::default();
    let bytes_max = 4 * (HEADER_BYTES + 4 * record_bytes(&frame(0)));
    let limits = Options { bytes_max, segment_bytes: bytes_max / 4, ..options() };
    let mut bench = Bench::open(&disk, limits, 0);
    bench.keep(0..16);
    assert_eq!(bench.append(16), Err(RefusedCause::Full));
    assert!(disk.bytes() as u64 <= bytes_max);
    assert_eq!((bench.part.snapshot().state, bench.count("bytes_on_disk")), (State::Degraded, disk.bytes() as u64));
    bench.shared.release(3);
    assert_eq!(bench.append(16), Err(RefusedCause::Full));
    bench.shared.release(5);
    assert_eq!((bench.part.snapshot().state, disk.names().len()), (State::Up, 3));
    bench.keep(16..17);
    assert_eq!(bench.story(5), (5..17).collect::<Vec<i64>>());
}

#[test]
fn the_active_segment_goes_too_when_it_fills_the_journal_and_is_passed() {
    let disk = SimulatedDisk::default();
    let batch = || vec![frame_of(0, vec![1; 500])];
    let mut bench = Bench::open(&disk, Options { bytes_max: 1_000, ..options() }, 0);
    for round in 1..20 {
        bench.inlet().append(batch(), Box::new(drop)).expect("taken");
        assert_eq!(bench.writer.round(), Round::Committed);
        let refused = bench.inlet().append(batch(), Box::new(drop)).expect_err("full");
        assert_eq!(refused.cause, RefusedCause::Full);
        bench.shared.release(round);
        assert_eq!((bench.writer.round(), bench.part.snapshot().state), (Round::Idle, State::Up));
        assert_eq!((disk.bytes(), bench.count("segments")), (0, 0));
    }
}

#[test]
fn a_queue_that_is_not_written_is_bounded() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    let batch = || (0..40).map(|number| frame_of(number, vec![7; 100_000])).collect::<Vec<_>>();
    let mut taken = 0;
    let refused = loop {
        match bench.inlet().append(batch(), bench.receipt(taken)) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < 20, "no bound");
    };
    assert_eq!((refused.cause, refused.frames.len(), bench.count("refused_busy")), (RefusedCause::Busy, 40, 1));
    while bench.writer.round() == Round::Committed {}
    assert_eq!(bench.acked(), (0..taken).collect::<Vec<u64>>());
    (refused.receipt)(refused.frames);
    assert_eq!(bench.acked().last(), Some(&taken));
}

#[test]
fn a_closed_journal_commits_what_is_queued_and_takes_no_more() {
    let disk = SimulatedDisk::default();
    let Bench { shared, writer, acked, .. } = {
        let bench = Bench::open(&disk, options(), 0);
        bench.append(1).expect("taken");
        bench.append(2).expect("taken");
        bench.shared.close();
        assert_eq!(bench.append(3), Err(RefusedCause::Closed));
        bench
    };
    writer.run();
    assert_eq!((acked.lock().unwrap().clone(), shared.end()), (vec![1, 2], 2));
}

#[test]
fn a_closed_journal_on_a_full_disk_ends_and_acknowledges_nothing() {
    let disk = SimulatedDisk::default();
    disk.set_bytes_max(Some(0));
    let Bench { shared, writer, acked, .. } = {
        let bench = Bench::open(&disk, options(), 0);
        bench.append(1).expect("taken");
        bench.shared.close();
        bench
    };
    writer.run();
    assert_eq!((acked.lock().unwrap().len(), shared.end()), (0, 0));
}

#[test]
fn a_batch_without_frames_is_acknowledged_in_its_turn() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    for number in 0..3 {
        let frames = if number == 1 { Vec::new() } else { vec![frame(number)] };
        bench.inlet().append(frames, bench.receipt(number)).expect("taken");
    }
    assert_eq!(bench.writer.round(), Round::Committed);
    assert_eq!((bench.acked(), bench.shared.end()), (vec![0, 1, 2], 2));
    bench.inlet().append(Vec::new(), bench.receipt(9)).expect("taken");
    assert_eq!((bench.writer.round(), bench.acked().len()), (Round::Committed, 4));
}

#[test]
fn one_sync_makes_a_whole_queue_durable() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    (0..100).for_each(|number| bench.append(number).expect("taken"));
    assert_eq!(bench.writer.round(), Round::Committed);
    assert_eq!((bench.count("syncs"), bench.count("records"), bench.acked().len()), (1, 100, 100));
}

#[test]
fn damage_under_a_running_reader_costs_only_the_damaged_records() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    bench.keep(0..5);
    let mut bytes = disk.contents(&name(0));
    let record = usize::try_from(record_bytes(&frame(0))).expect("small");
    bytes[24 + 2 * record + 30] ^= 1;
    disk.put(&name(0), bytes);
    let (mut reader, mut entries) = (bench.reader(0), Vec::new());
    while reader.read(1, &mut entries).expect("readable") > 0 {}
    bench.keep(5..6); // goes to the file that the writer has open
    assert_eq!(entries[2], Entry::Lost { records: 1 });
    assert_eq!((entries.len(), entries[4].clone()), (5, Entry::Frame(frame(4))));
    assert_eq!((disk.names(), bench.count("lost_records")), (vec![damaged_name(0)], 1));
}

#[test]
fn a_segment_that_somebody_removed_is_lost_and_reading_goes_on() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, Options { segment_bytes: 200, ..options() }, 0);
    bench.keep(0..9);
    let names = disk.names();
    disk.remove(&names[1]).expect("there");
    let first_of = |name: &str| name[..20].parse::<i64>().expect("a number");
    let (from, until) = (first_of(&names[1]), first_of(&names[2]));
    let expected: Vec<i64> = (0..from).chain([from - until]).chain(until..9).collect();
    assert_eq!(bench.story(0), expected);
}

#[test]
fn a_payload_beyond_the_bound_is_kept_as_the_head_of_an_oversize_message() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    let frames = vec![frame_of(1, vec![3; PAYLOAD_BYTES_MAX]), frame_of(2, vec![4; PAYLOAD_BYTES_MAX + 1]), frame(3)];
    bench.inlet().append(frames.clone(), bench.receipt(1)).expect("taken");
    assert_eq!(bench.writer.round(), Round::Committed);
    let entries = bench.entries(0);
    assert_eq!(entries.len(), 3);
    assert!(entries[0] == Entry::Frame(frames[0].clone()) && entries[2] == Entry::Frame(frame(3)));
    let Entry::Frame(head) = &entries[1] else { panic!("lost") };
    assert_eq!(
        (head.kind, head.topic.clone(), head.payload.len()),
        (FrameKind::Oversize, frames[1].topic.clone(), 1_024)
    );
}

#[test]
fn a_released_journal_tells_its_end_to_the_next_run() {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), 0);
    bench.keep(0..5);
    bench.shared.release(5);
    assert_eq!((disk.names(), Bench::open(&disk, options(), 5).shared.end()), (vec![name(0)], 5));
    assert!(disk.names().is_empty());
}
