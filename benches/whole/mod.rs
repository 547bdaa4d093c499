//! The whole path: PUBLISH bytes in memory to rows in SQLite, fsync on, acknowledgements out.

use std::path::Path;

use sitepulse::bench::{City, DataPath, START_MS};

use crate::Request;
use crate::stage::{FLUSH_INTERVAL_S, GROUP_MESSAGES, bytes_of};
use crate::support::{Line, measure, per};

/// What the parts of the path may differ from the whole by: alone, each has the caches for itself.
const TOLERANCE: f64 = 0.25;

/// CPU time of each part, ns.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    take_in: f64,
    commit: f64,
    roll_up: f64,
    flush: f64,
    messages: usize,
}

impl Spent {
    fn sum(&self) -> f64 {
        self.take_in + self.commit + self.roll_up + self.flush
    }

    fn less(&self, before: &Self) -> Self {
        Self {
            take_in: self.take_in - before.take_in,
            commit: self.commit - before.commit,
            roll_up: self.roll_up - before.roll_up,
            flush: self.flush - before.flush,
            messages: self.messages - before.messages,
        }
    }
}

/// Runs the path and prints what it took; `sum` is what its stages come to alone, ns, 0 where they were not run.
pub(crate) fn run(request: &Request, folder: &Path, sum: f64) {
    let mut city = City::new(request.sites);
    let folder = folder.join("path");
    let mut path = DataPath::new(&city, &folder);
    let mut spent = Spent::default();
    // The first minute begins with loading the names and making the windows; what lasts is what comes after it.
    let mut first_minute = Spent::default();
    let seconds_per_step = FLUSH_INTERVAL_S.max(request.interval_s);
    for step in 0..request.seconds.div_ceil(seconds_per_step) {
        let begin_s = step * seconds_per_step;
        if begin_s == 60 {
            first_minute = spent;
        }
        go_on(&mut path, &mut city, request, begin_s, &mut spent);
    }
    let ledger = path.ledger();
    assert_eq!(path.acknowledged(), spent.messages, "every message is acknowledged");
    assert!(ledger.balanced() && ledger.total().applied == spent.messages as u64 * 13, "every reading is in a row");
    let lasting = spent.less(&first_minute);
    let lasting = if lasting.messages > 0 { lasting } else { spent };
    print(request, &lasting, sum);
    let db = bytes_of(&folder.join("sitepulse.db"));
    println!(
        "store: {} B for {} messages; whole run {:.0} ns a message",
        db,
        spent.messages,
        per(spent.sum(), spent.messages)
    );
}

/// Some seconds of the city: a message of every site for each interval, groups to the journal, flushes as they are due.
fn go_on(path: &mut DataPath, city: &mut City, request: &Request, begin_s: usize, spent: &mut Spent) {
    let seconds = FLUSH_INTERVAL_S.max(request.interval_s);
    let ms = |second: usize| START_MS + i64::try_from(second).expect("short") * 1_000;
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for second in (begin_s..begin_s + seconds).step_by(request.interval_s) {
        let (more, more_ends) = city.packets(ms(second));
        ends.extend(more_ends.iter().map(|end| bytes.len() + end));
        bytes.extend_from_slice(&more);
    }
    let flushes = seconds / FLUSH_INTERVAL_S;
    let mut at = 0;
    for (flush, part) in ends.chunks(ends.len().div_ceil(flushes)).enumerate() {
        path.set_time(ms(begin_s + (flush + 1) * FLUSH_INTERVAL_S));
        for group in part.chunks(GROUP_MESSAGES) {
            let end = group[group.len() - 1];
            path.send(&bytes[at..end]);
            at = end;
            spent.take_in += measure(|| path.take_in()).0;
            spent.commit += measure(|| path.commit()).0;
            spent.roll_up += measure(|| path.roll_up()).0;
            spent.messages += group.len();
        }
        spent.flush += measure(|| path.flush()).0;
    }
    path.send(&[]);
    spent.take_in += measure(|| path.take_in()).0;
}

fn print(request: &Request, spent: &Spent, sum: f64) {
    let whole = per(spent.sum(), spent.messages);
    let parts = [
        ("path: source", spent.take_in, "bytes -> messages -> batch for the journal, acknowledgements"),
        ("path: journal", spent.commit, "records, write, fdatasync, receipts"),
        ("path: roll up", spent.roll_up, "read back, decode, look up, merge"),
        ("path: flush", spent.flush, "rows, ledger, position, finality"),
    ];
    for (stage, ns, note) in parts {
        Line { stage, ns: per(ns, spent.messages), floor_ns: None, note: note.to_owned() }.print();
    }
    let note =
        format!("{} sites, a message each {} s, flush every {FLUSH_INTERVAL_S} s", request.sites, request.interval_s);
    Line { stage: "path", ns: whole, floor_ns: Some(1_420.0), note }.print();
    if sum > 0.0 && request.interval_s == 1 {
        let word = if (sum / whole - 1.0).abs() <= TOLERANCE { "within" } else { "NOT within" };
        println!("sum of the stages {sum:.0} ns, whole {whole:.0} ns: {word} {:.0} %", TOLERANCE * 100.0);
    }
}

/// A small fixed workload, for counting instructions: 400 sites, 5 messages each.
pub(crate) fn fixed_workload(folder: &Path) {
    crate::stage::fixed::run(folder);
}
