//! The whole path: PUBLISH bytes in memory to rows in SQLite, fsync on, acknowledgements out.

use std::path::Path;

use sitepulse::bench::{City, DataPath, START_MS};

use crate::Request;
use crate::stage::{FLUSH_INTERVAL_S, GROUP_MESSAGES, bytes_of};
use crate::support::{Line, measure, per};

/// How long after a minute its rows are written, ms.
const FINAL_DELAY_MS: i64 = 1_000;

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
    for begin_s in (0..request.seconds).step_by(FLUSH_INTERVAL_S) {
        minute(&mut path, &mut city, request, begin_s, &mut spent);
        if begin_s == 0 {
            first_minute = spent;
        }
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

/// A minute of the city: messages of every site, groups to the journal, and a flush when it is over.
fn minute(path: &mut DataPath, city: &mut City, request: &Request, begin_s: usize, spent: &mut Spent) {
    let ms = |second: usize| START_MS + i64::try_from(second).expect("short") * 1_000;
    for second in (begin_s..begin_s + FLUSH_INTERVAL_S).step_by(request.interval_s) {
        let (bytes, ends) = city.packets(ms(second));
        path.set_time(ms(second) + 1_000);
        let mut at = 0;
        for group in ends.chunks(GROUP_MESSAGES) {
            let end = group[group.len() - 1];
            path.send(&bytes[at..end]);
            at = end;
            spent.take_in += measure(|| path.take_in()).0;
            spent.commit += measure(|| path.commit()).0;
            spent.roll_up += measure(|| path.roll_up()).0;
            spent.messages += group.len();
        }
    }
    path.set_time(ms(begin_s + FLUSH_INTERVAL_S) + FINAL_DELAY_MS);
    spent.flush += measure(|| path.flush()).0;
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
