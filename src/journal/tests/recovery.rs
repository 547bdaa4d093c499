//! Each row of the decision table on the module's page.

use std::sync::Arc;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{collection, proptest};

use super::{Bench, frame, options};
use crate::health::State;
use crate::journal::format::{HEADER_BYTES, Seed, encode, header, header_of_version, record_bytes};
use crate::journal::segment::{damaged_name, name};
use crate::journal::simulated_disk::SimulatedDisk;
use crate::journal::{Entry, Options, Storage};
use crate::model::{Frame, FrameKind, Timestamp};

/// A disk with segments of three records: 0 to 2, 3 to 5, 6 to 8.
fn disk_of_three_segments() -> SimulatedDisk {
    let disk = SimulatedDisk::default();
    let segment_bytes = HEADER_BYTES + 3 * record_bytes(&frame(0));
    Bench::open(&disk, Options { segment_bytes, ..options() }, 0).keep(0..9);
    assert_eq!(disk.names(), [name(0), name(3), name(6)]);
    disk
}

/// Offset of the record at `index` of a segment of [`frame`]s.
fn offset(index: u64) -> usize {
    usize::try_from(HEADER_BYTES + index * record_bytes(&frame(0))).expect("small")
}

fn change(disk: &SimulatedDisk, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.contents(name);
    edit(&mut bytes);
    disk.put(name, bytes);
}

/// Opens the journal, expects `story` and the end, keeps one more record, and expects all the same after a restart.
fn expect(disk: &SimulatedDisk, story: &[i64], end: u64) -> Bench {
    let mut bench = Bench::open(disk, options(), 0);
    assert_eq!((bench.story(0).as_slice(), bench.shared.end()), (story, end));
    bench.keep(99..100);
    let lost: i64 = story.iter().filter(|number| **number < 0).sum();
    assert_eq!(bench.count("lost_records"), lost.unsigned_abs());
    let longer = [story, &[99]].concat();
    assert_eq!(bench.story(end), [99]);
    let again = Bench::open(disk, options(), 0);
    assert_eq!((again.story(0), again.shared.end()), (longer, end + 1));
    bench
}

#[test]
fn an_intact_journal_is_read_whole() {
    let bench = expect(&disk_of_three_segments(), &[0, 1, 2, 3, 4, 5, 6, 7, 8], 9);
    assert_eq!((bench.count("damaged_segments"), bench.part.snapshot().state), (0, State::Up));
}

#[test]
fn a_torn_tail_is_cut_wherever_it_is_torn() {
    for bytes in offset(2) + 1..offset(3) {
        let disk = disk_of_three_segments();
        change(&disk, &name(6), |segment| segment.truncate(bytes));
        let bench = Bench::open(&disk, options(), 0);
        assert_eq!((bench.story(6), bench.shared.end()), (vec![6, 7], 8));
        assert_eq!((disk.contents(&name(6)).len(), bench.count("damaged_segments")), (offset(2), 0));
    }
}

#[test]
fn a_zeroed_tail_is_a_torn_one() {
    let disk = disk_of_three_segments();
    change(&disk, &name(6), |segment| segment.resize(100_000, 0));
    expect(&disk, &[0, 1, 2, 3, 4, 5, 6, 7, 8], 9);
    assert_eq!(disk.contents(&name(6)).len(), offset(3));

    let disk = disk_of_three_segments();
    change(&disk, &name(6), |segment| segment[offset(1)..].fill(0));
    expect(&disk, &[0, 1, 2, 3, 4, 5, 6], 7);
}

#[test]
fn damage_inside_the_last_segment_loses_one_record_and_quarantines_the_segment() {
    for byte in offset(1)..offset(2) {
        let disk = disk_of_three_segments();
        change(&disk, &name(6), |segment| segment[byte] ^= 0x10);
        let bench = Bench::open(&disk, options(), 0);
        assert_eq!((bench.story(0), bench.shared.end()), (vec![0, 1, 2, 3, 4, 5, 6, -1, 8], 9));
        assert_eq!(disk.names(), [name(0), name(3), damaged_name(6)]);
        assert_eq!(bench.count("damaged_segments"), 1);
    }
    let disk = disk_of_three_segments();
    change(&disk, &name(6), |segment| segment[offset(1)] ^= 0x10);
    expect(&disk, &[0, 1, 2, 3, 4, 5, 6, -1, 8], 9);
}

#[test]
fn damage_inside_an_earlier_segment_loses_only_what_is_gone() {
    let disk = disk_of_three_segments();
    change(&disk, &name(3), |segment| segment[offset(1) + 20] ^= 1);
    let bench = expect(&disk, &[0, 1, 2, 3, -1, 5, 6, 7, 8], 9);
    assert_eq!((bench.count("damaged_segments"), disk.names()[1].as_str()), (1, damaged_name(3).as_str()));

    let disk = disk_of_three_segments();
    change(&disk, &name(3), |segment| segment[offset(1)..].fill(0xff));
    expect(&disk, &[0, 1, 2, 3, -2, 6, 7, 8], 9);

    let disk = disk_of_three_segments();
    change(&disk, &name(3), |segment| segment.truncate(offset(2) + 5));
    expect(&disk, &[0, 1, 2, 3, 4, -1, 6, 7, 8], 9);
}

#[test]
fn a_missing_segment_is_lost_and_its_neighbours_are_sound() {
    let disk = disk_of_three_segments();
    disk.delete(&name(3));
    let bench = expect(&disk, &[0, 1, 2, -3, 6, 7, 8], 9);
    assert_eq!(bench.count("damaged_segments"), 0);
    let disk = disk_of_three_segments();
    disk.delete(&name(0));
    expect(&disk, &[-3, 3, 4, 5, 6, 7, 8], 9);
}

#[test]
fn an_empty_last_segment_was_never_used() {
    for bytes in [0, 7, offset(0)] {
        let disk = disk_of_three_segments();
        let mut empty = header(9);
        empty.truncate(bytes);
        disk.put(&name(9), empty);
        expect(&disk, &[0, 1, 2, 3, 4, 5, 6, 7, 8], 9);
    }
    let disk = SimulatedDisk::default();
    disk.put(&name(0), Vec::new());
    expect(&disk, &[], 0);
}

#[test]
fn a_last_segment_without_any_intact_byte_costs_as_many_positions_as_it_may_have_held() {
    let disk = disk_of_three_segments();
    change(&disk, &name(6), |segment| segment.fill(0xa5));
    let records_max = (3 * record_bytes(&frame(0))).div_ceil(29);
    expect(&disk, &[0, 1, 2, 3, 4, 5, -records_max.cast_signed()], 6 + records_max);
}

#[test]
fn an_unreadable_header_loses_no_record() {
    for first in [3, 6] {
        let disk = disk_of_three_segments();
        change(&disk, &name(first), |segment| segment[..24].fill(0));
        let bench = expect(&disk, &[0, 1, 2, 3, 4, 5, 6, 7, 8], 9);
        assert_eq!((bench.count("damaged_segments"), disk.names().contains(&damaged_name(first))), (1, true));
    }
}

#[test]
fn a_segment_of_a_later_version_is_set_aside_and_its_positions_are_not_given_away() {
    let disk = disk_of_three_segments();
    change(&disk, &name(3), |segment| segment.splice(..24, header_of_version(2, 3)).for_each(drop));
    change(&disk, &name(3), |segment| segment[24..].fill(7));
    expect(&disk, &[0, 1, 2, -3, 6, 7, 8], 9);

    let disk = disk_of_three_segments();
    change(&disk, &name(6), |segment| segment.splice(..24, header_of_version(2, 6)).for_each(drop));
    let bench = Bench::open(&disk, options(), 0);
    assert!(bench.shared.end() >= 9);
    assert_eq!(disk.names(), [name(0), name(3), damaged_name(6)]);
}

#[test]
fn a_segment_under_a_foreign_name_is_not_taken_for_its_records() {
    let disk = disk_of_three_segments();
    disk.put(&name(3), disk.contents(&name(0)));
    expect(&disk, &[0, 1, 2, -3, 6, 7, 8], 9);
}

#[test]
fn an_unreadable_disk_does_not_keep_the_daemon_from_starting() {
    let disk = disk_of_three_segments();
    disk.set_unreadable(true);
    let bench = Bench::open(&disk, options(), 0);
    assert!(bench.shared.end() >= 9);
    let mut entries = Vec::new();
    let mut reader = bench.reader(0);
    assert!(reader.read(1, &mut entries).is_err());
    disk.set_unreadable(false);
    assert_eq!((reader.read(1, &mut entries).expect("readable"), entries), (1, vec![Entry::Frame(frame(0))]));
}

#[test]
fn numbering_goes_on_where_the_store_stands_when_the_folder_is_gone_or_behind() {
    for disk in [SimulatedDisk::default(), disk_of_three_segments()] {
        let mut bench = Bench::open(&disk, options(), 500);
        assert_eq!(bench.shared.end(), 500);
        assert!(disk.names().is_empty());
        bench.keep(1..2);
        assert_eq!(bench.story(500), [1]);
        assert_eq!(Bench::open(&disk, options(), 500).story(500), [1]);
    }
}

#[test]
fn what_the_store_has_passed_goes_at_the_start_even_if_its_neighbours_are_missing() {
    let disk = disk_of_three_segments();
    disk.delete(&name(3));
    let bench = Bench::open(&disk, options(), 7);
    assert_eq!((bench.story(7), disk.names()), (vec![7, 8], vec![name(6)]));
    assert_eq!(bench.count("lost_records"), 0);
}

#[test]
fn a_few_damaged_segments_stay_for_a_person_to_look_at() {
    let disk = SimulatedDisk::default();
    for first in 0..10 {
        disk.put(&damaged_name(first), vec![1; 40]);
    }
    disk.put("notes.txt", Vec::new());
    Bench::open(&disk, options(), 500);
    let kept: Vec<String> = (6..10).map(damaged_name).chain(["notes.txt".to_owned()]).collect();
    assert_eq!(disk.names(), kept);
}

/// Frames of every kind, with what lies at the bounds.
fn fixture_frames() -> Vec<Frame> {
    let frame = |kind, source: &str, topic: &str, payload: &[u8], arrival| Frame {
        source: Arc::from(source),
        kind,
        topic: topic.into(),
        payload: payload.into(),
        arrival: Timestamp::from_millis(arrival),
    };
    let native = br#"{"ts": 1764000000123, "readings": {"pwr_w": 760.1, "temp_c": 13.9}}"#;
    vec![
        frame(
            FrameKind::NativeJson,
            "east",
            "telemetry/base_station/350102/fz-0001/rectifier",
            native,
            1_764_000_000_200,
        ),
        frame(FrameKind::ModbusPoll, "modbus", "dc-01/pdu-7", &[0, 0, 2, 0x44, 0x9a, 0x52, 0x2b], 1_764_000_010_000),
        frame(FrameKind::Oversize, "east", "telemetry/\u{6e2f}\u{53e3}", &[0xff; 16], -1),
        frame(FrameKind::NativeJson, "", "", &[], i64::MAX),
    ]
}

#[test]
fn segments_of_version_1_are_read_for_ever() {
    let disk = SimulatedDisk::default();
    disk.put(&name(41), include_bytes!("../../../tests/fixtures/journal-v1.bin").to_vec());
    let bench = Bench::open(&disk, options(), 41);
    let expected: Vec<Entry> = fixture_frames().into_iter().map(Entry::Frame).collect();
    assert_eq!((bench.entries(41), bench.shared.end()), (expected, 45));
}

#[test]
fn version_1_is_written_as_the_fixture_has_it() {
    let mut bytes = header(41);
    for (index, frame) in (0..).zip(&fixture_frames()) {
        encode(frame, Seed::of(41), index, &mut bytes);
    }
    assert!(
        bytes == include_bytes!("../../../tests/fixtures/journal-v1.bin"),
        "a change of format needs a new version"
    );
}

/// What may stand in a damaged file: noise, runs of one byte, intact stretches.
fn stretch() -> impl Strategy<Value = Vec<u8>> {
    let intact = |index| {
        let mut bytes = Vec::new();
        encode(&frame(u64::from(index)), Seed::of(3), index, &mut bytes);
        bytes
    };
    prop_oneof![
        collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0..2_000usize).prop_map(|(byte, count)| vec![byte; count]),
        Just(header(3)),
        (0..40u32).prop_map(intact),
        (any::<u32>(), any::<u32>()).prop_map(|(length, index)| [length.to_le_bytes(), index.to_le_bytes()].concat()),
    ]
}

proptest! {
    #[test]
    fn any_bytes_in_any_segment_leave_a_journal_that_works(
        stretches in collection::vec(stretch(), 0..8),
        headed in any::<bool>(),
        followed in any::<bool>(),
    ) {
        let disk = SimulatedDisk::default();
        let head = if headed { header(3) } else { Vec::new() };
        disk.put(&name(3), [head, stretches.concat()].concat());
        if followed {
            let mut bytes = header(20);
            encode(&frame(77), Seed::of(20), 0, &mut bytes);
            disk.put(&name(20), bytes);
        }
        let mut bench = Bench::open(&disk, options(), 0);
        let end = bench.shared.end();
        let before = bench.entries(0);
        bench.keep(5..6);
        assert_eq!(bench.story(end), [5]);
        let positions: u64 = before.iter().map(|entry| match entry {
            Entry::Frame(_) => 1,
            Entry::Lost { records } => *records,
        }).sum();
        assert_eq!(positions, end);
        let again = Bench::open(&disk, options(), 0);
        assert_eq!(again.entries(0), [before, vec![Entry::Frame(frame(5))]].concat());
        assert!(disk.len(&name(end)).is_ok());
    }
}
