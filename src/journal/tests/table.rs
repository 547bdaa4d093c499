//! Every row of the recovery table on the module's page: each damage, at each place, below, inside and above of what the
//! store has passed; and each two damages in two segments. What has to come out is worked out here, from the rows alone.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::unreadable::{Bad, BadDisk, read_impatiently};
use super::{Bench, EPOCH_MS, frame_of, options};
use crate::journal::format::{header, header_of_version, record_bytes};
use crate::journal::segment::{damaged_name, name};
use crate::journal::simulated_disk::SimulatedDisk;
use crate::journal::{Options, Scope, Sight, Storage, inspect};
use crate::model::{Frame, Timestamp};

/// Records of a segment, three to each.
const RECORDS: u64 = 3;
/// The largest file that a segment may be.
const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024 + 64 * 1024 * 1024;
/// What is none of the journal's business.
const FOREIGN: [&str; 5] =
    ["notes.txt", "3.journal", "00000000000000000003.journal.bak", "0000000000000000000x.journal", "sitepulse.db"];

/// What the last segment is judged to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Sound,
    Cut,
    Unused,
    /// Renamed; numbering goes on after the last intact record.
    Exact,
    /// Renamed; numbering goes on after as many as fit from the byte on where the intact ones end.
    Fit,
    FitLargest,
    Unknown,
    Aside,
}

/// What a segment that another follows is judged to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    Sound,
    Missing,
    Opened,
    Read,
    Patience,
    Aside,
}

#[derive(Debug)]
struct Row {
    found: &'static str,
    survives: [bool; 3],
    last: Last,
    followed: Followed,
    spoil: fn(&BadDisk, u64),
}

const ALL: [bool; 3] = [true; 3];
const NONE: [bool; 3] = [false; 3];

const fn row(
    found: &'static str,
    survives: [bool; 3],
    last: Last,
    followed: Followed,
    spoil: fn(&BadDisk, u64),
) -> Row {
    Row { found, survives, last, followed, spoil }
}

const ROWS: [Row; 20] = [
    row("as it was written", ALL, Last::Sound, Followed::Sound, |_, _| ()),
    row("the end of its last record is missing", [true, true, false], Last::Cut, Followed::Read, |disk, first| {
        change(disk, first, |bytes| bytes.truncate(offset(3) - 5));
    }),
    row(
        "its end is missing from a record boundary on",
        [true, true, false],
        Last::Sound,
        Followed::Missing,
        |disk, first| change(disk, first, |bytes| bytes.truncate(offset(2))),
    ),
    row("a byte changed, intact records after it", [true, false, true], Last::Exact, Followed::Read, |disk, first| {
        change(disk, first, |bytes| bytes[offset(1) + 200] ^= 4);
    }),
    row("zeros from a record on", [true, false, false], Last::Cut, Followed::Read, |disk, first| {
        change(disk, first, |bytes| bytes[offset(1)..].fill(0));
    }),
    row("zeros behind its last record", ALL, Last::Cut, Followed::Sound, |disk, first| {
        change(disk, first, |bytes| bytes.resize(offset(3) + 4_096, 0));
    }),
    row("every byte changed", NONE, Last::Fit, Followed::Opened, |disk, first| {
        change(disk, first, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0xa5));
    }),
    row("header changed, records intact", ALL, Last::Exact, Followed::Opened, |disk, first| {
        change(disk, first, |bytes| bytes[..24].fill(0));
    }),
    row("header and records of a later version", NONE, Last::Fit, Followed::Opened, |disk, first| {
        change(disk, first, |bytes| {
            bytes.fill(0x33);
            bytes.splice(..24, header_of_version(2, first)).for_each(drop);
        });
    }),
    row("bytes of another segment under this name", NONE, Last::Fit, Followed::Opened, |disk, first| {
        disk.disk.put(&name(first), segment_bytes(first + 70));
    }),
    row("no byte", NONE, Last::Unused, Followed::Opened, |disk, first| change(disk, first, Vec::clear)),
    row("only a header", NONE, Last::Unused, Followed::Missing, |disk, first| {
        change(disk, first, |bytes| bytes.truncate(24));
    }),
    row("the file is missing", NONE, Last::Unknown, Followed::Missing, |disk, first| disk.disk.delete(&name(first))),
    row("a damaged file of the same first position beside it", ALL, Last::Sound, Followed::Sound, |disk, first| {
        disk.disk.put(&damaged_name(first), vec![7; 5_000]);
    }),
    row("a damaged file, and only a header under the intact name", ALL, Last::Aside, Followed::Aside, |disk, first| {
        disk.disk.put(&damaged_name(first), segment_bytes(first));
        disk.disk.put(&name(first), header(first));
    }),
    row("a block inside cannot be read", [true, false, true], Last::Exact, Followed::Patience, |disk, first| {
        disk.spoil(first, Bad::Bytes(12_288, 12_289));
    }),
    row("the blocks at its end cannot be read", [true, true, false], Last::Fit, Followed::Patience, |disk, first| {
        disk.spoil(first, Bad::Bytes(20_480, u64::MAX));
    }),
    row("no byte can be read", NONE, Last::Fit, Followed::Patience, |disk, first| {
        disk.spoil(first, Bad::Bytes(0, u64::MAX));
    }),
    row("it cannot be opened", NONE, Last::Fit, Followed::Patience, |disk, first| disk.spoil(first, Bad::Open)),
    row("its size cannot be had", NONE, Last::FitLargest, Followed::Patience, |disk, first| {
        disk.spoil(first, Bad::Entry);
    }),
];

fn wide_frame(number: u64) -> Frame {
    frame_of(number, vec![b'x'; 9_000])
}

/// Offset of the record at `index` of a segment.
fn offset(index: u64) -> usize {
    usize::try_from(24 + index * record_bytes(&wide_frame(0))).expect("small")
}

fn change(disk: &BadDisk, first: u64, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.disk.contents(&name(first));
    edit(&mut bytes);
    disk.disk.put(&name(first), bytes);
}

fn segment_bytes(first: u64) -> Vec<u8> {
    let disk = SimulatedDisk::default();
    let mut bench = Bench::open(&disk, options(), first);
    let frames = (first..first + RECORDS).map(wide_frame).collect();
    bench.inlet().append(frames, Box::new(drop)).expect("taken");
    bench.writer.round();
    disk.contents(&name(first))
}

/// A journal with these rows, a segment each, and files that are not its own.
fn disk_of(rows: &[&Row]) -> BadDisk {
    let disk = SimulatedDisk::default();
    for foreign in FOREIGN {
        disk.put(foreign, b"not ours".to_vec());
    }
    let firsts = (0..).step_by(3).take(rows.len());
    firsts.clone().for_each(|first| disk.put(&name(first), segment_bytes(first)));
    let disk = BadDisk::over(disk);
    rows.iter().zip(firsts).for_each(|(row, first)| (row.spoil)(&disk, first));
    disk
}

/// What has to come out.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    end: u64,
    /// Numbers read, and negative how many are lost.
    story: Vec<i64>,
    damaged_segments: u64,
    names: BTreeSet<String>,
}

/// Where numbering goes on after a last segment of this row, by the row and the size of its file.
fn end_of(row: &Row, first: u64, bytes: u64) -> u64 {
    let intact = row.survives.iter().rposition(|survives| *survives).map_or(0, |index| index as u64 + 1);
    let fit = |bytes: u64| (bytes - offset(intact) as u64).div_ceil(29);
    match row.last {
        Last::Sound | Last::Cut | Last::Exact | Last::Aside => first + intact,
        Last::Unused => first,
        Last::Fit => first + intact + fit(bytes),
        Last::FitLargest => first + intact + fit(SEGMENT_BYTES_MAX),
        Last::Unknown => unreachable!("there is no file"),
    }
}

fn expected(rows: &[&Row], passed: u64, disk: &BadDisk) -> Outcome {
    let there: Vec<(u64, &Row)> =
        (0..).step_by(3).zip(rows.iter().copied()).filter(|(_, row)| row.last != Last::Unknown).collect();
    let bytes_of = |first: u64| disk.disk.len(&name(first)).expect("there");
    let stored_end = there.last().map_or(0, |(first, row)| end_of(row, *first, bytes_of(*first)));
    let end = stored_end.max(passed);
    let mut names: BTreeSet<String> = FOREIGN.map(str::to_owned).into();
    let (mut story, mut damaged_segments) = (Vec::new(), 0);
    let lose = |story: &mut Vec<i64>, records: u64| match (story.last_mut(), -i64::try_from(records).unwrap()) {
        (_, 0) => {}
        (Some(lost), more) if *lost < 0 => *lost += more,
        (_, more) => story.push(more),
    };
    let begin = there.first().map_or(end, |(first, _)| *first);
    lose(&mut story, begin.saturating_sub(passed));
    for (place, (first, row)) in there.iter().enumerate() {
        let next = there.get(place + 1).map(|(first, _)| *first);
        let until = next.unwrap_or(end);
        let is_read = until > passed && *first < until;
        let renamed = match next {
            None => matches!(row.last, Last::Exact | Last::Fit | Last::FitLargest),
            Some(_) if !is_read => false,
            Some(_) => {
                let zeros_instead_of_records = row.last == Last::Cut && until > first + RECORDS;
                matches!(row.followed, Followed::Opened | Followed::Read | Followed::Patience)
                    || zeros_instead_of_records
            }
        };
        damaged_segments += u64::from(renamed);
        let aside = row.last == Last::Aside;
        if renamed || aside || row.found.starts_with("a damaged file of") {
            names.insert(damaged_name(*first));
        }
        if !renamed && !aside && until > passed {
            names.insert(name(*first));
        }
        for position in passed.max(*first)..until.min(first + RECORDS) {
            let index = usize::try_from(position - first).unwrap();
            if row.survives[index] {
                story.push(i64::try_from(position).unwrap());
            } else {
                lose(&mut story, 1);
            }
        }
        lose(&mut story, until.saturating_sub(passed.max(first + RECORDS)));
    }
    Outcome { end, story, damaged_segments, names }
}

fn open(disk: &BadDisk, passed: u64) -> Bench {
    let settings = Options { segment_bytes: 1 << 30, bytes_max: 1 << 40, ..options() };
    Bench::open_at(Arc::new(disk.clone()), settings, passed, Timestamp::from_millis(EPOCH_MS))
}

/// What a person is shown of it.
fn inspected(disk: &BadDisk) -> Vec<i64> {
    let mut story = Vec::new();
    let seen = inspect(disk, &Scope::default(), &mut |sight| {
        match sight {
            Sight::Record(position, _) => story.push(i64::try_from(position.0).unwrap()),
            Sight::Lost { records, .. } => story.push(-i64::try_from(records).unwrap()),
            Sight::Segment(_) | Sight::Twin(_) => {}
            Sight::Gone(name) => panic!("{name} did not go"),
        }
        ControlFlow::Continue(())
    });
    seen.expect("listed");
    joined(&story)
}

/// Neighbouring losses in one.
fn joined(story: &[i64]) -> Vec<i64> {
    let mut joined: Vec<i64> = Vec::new();
    for number in story {
        match joined.last_mut() {
            Some(lost) if *lost < 0 && *number < 0 => *lost += number,
            _ => joined.push(*number),
        }
    }
    joined
}

fn check(rows: &[&Row], passed: u64) {
    let disk = disk_of(rows);
    let what = || format!("passed {passed} of {:?}", rows.iter().map(|row| row.found).collect::<Vec<_>>());
    let expected = expected(rows, passed, &disk);
    if passed == 0 && rows[0].last != Last::Unknown && rows.iter().all(|row| row.last != Last::Aside) {
        let names = disk.disk.names();
        assert_eq!(inspected(&disk), expected.story, "{}", what());
        assert_eq!(disk.disk.names(), names, "a look changes nothing");
    }
    let mut bench = open(&disk, passed);
    let read = read_impatiently(&bench, passed).0;
    let outcome = Outcome {
        end: bench.shared.end(),
        story: joined(&read),
        damaged_segments: bench.count("damaged_segments"),
        names: disk.disk.names().into_iter().collect(),
    };
    assert_eq!(outcome, expected, "{}", what());
    let lost: i64 = expected.story.iter().filter(|number| **number < 0).sum();
    assert_eq!(bench.count("lost_records"), lost.unsigned_abs(), "{}", what());
    // It works on, and all is the same after another restart.
    bench.keep(99..100);
    let longer = [expected.story, vec![99]].concat();
    let again = open(&disk, passed);
    assert_eq!(again.shared.end(), expected.end + 1, "{}", what());
    assert_eq!(joined(&read_impatiently(&again, passed).0), longer, "{}", what());
    let names = disk.disk.names();
    assert!(FOREIGN.iter().all(|foreign| names.iter().any(|name| name == foreign)), "{}", what());
}

#[test]
fn each_damage_at_each_place_comes_out_as_the_table_says_whatever_the_store_has_passed() {
    let intact = &ROWS[0];
    for row in &ROWS {
        for (segments, place) in [(1, 0), (4, 0), (4, 1), (4, 2), (4, 3)] {
            let mut rows = vec![intact; segments];
            rows[place] = row;
            let first = place as u64 * RECORDS;
            for passed in [0, first, first + 1, first + 2, first + 3, first + 4] {
                check(&rows, passed);
            }
        }
    }
}

#[test]
fn two_damages_in_two_segments_come_out_as_each_alone() {
    for one in &ROWS {
        for other in &ROWS {
            for (place, second) in [(0, 1), (0, 2), (1, 2)] {
                let mut rows = vec![&ROWS[0]; 3];
                (rows[place], rows[second]) = (one, other);
                check(&rows, 0);
            }
        }
    }
}

#[test]
fn a_damaged_file_is_not_replaced_by_another_one_of_its_first_position() {
    let disk = disk_of(&[&ROWS[0], &ROWS[3]]);
    disk.disk.put(&damaged_name(3), b"to be looked at".to_vec());
    let bench = open(&disk, 0);
    assert_eq!(read_impatiently(&bench, 0).0, [0, 1, 2, 3, -1, 5]);
    assert_eq!(disk.disk.contents(&damaged_name(3)), b"to be looked at");
    assert_eq!((disk.disk.len(&name(3)).is_ok(), bench.count("damaged_segments")), (true, 1));
}

#[test]
fn the_table_on_the_page_says_the_same() {
    let page = include_str!("../mod.rs");
    let table: Vec<&str> = page.lines().filter(|line| line.starts_with("//! | ")).collect();
    let rows: Vec<String> = ROWS.iter().map(line_of).collect();
    assert_eq!(table[table.len() - rows.len()..], rows);
}

fn line_of(row: &Row) -> String {
    let read = match row.survives {
        ALL => "all",
        NONE => "nothing",
        _ => "what is intact",
    };
    let last = match row.last {
        Last::Sound => "sound",
        Last::Cut => "torn: cut at the record boundary",
        Last::Unused => "unused: left in place, goes on at its first position",
        Last::Exact => "damaged: renamed, goes on after the last intact record",
        Last::Fit => "damaged: renamed, goes on after as many as fit",
        Last::FitLargest => "damaged: renamed, goes on after as many as fit the largest segment",
        Last::Unknown => "not known: goes on after the one before",
        Last::Aside => "renamed before: goes on after the last intact record",
    };
    let followed = match row.followed {
        Followed::Sound => "sound",
        Followed::Missing => "missing: not renamed",
        Followed::Opened => "damaged: renamed when opened",
        Followed::Read => "damaged: renamed when read",
        Followed::Patience => "damaged: renamed after a minute of failing reads",
        Followed::Aside => "renamed before",
    };
    format!("//! | {} | {read} | {last} | {followed} |", row.found)
}
