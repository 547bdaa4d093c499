//! `sitepulse journal verify` and `dump` as a person uses them: on a stopped and on a running journal, sound and damaged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sitepulse::clock::Clock;
use sitepulse::health::{Health, PartKind};
use sitepulse::journal::{Folder, Journal, Options};
use sitepulse::model::{Frame, FrameKind, JournalPosition, Timestamp};

/// A journal in the data folder at `data`, with segments of 16 KiB.
fn open(data: &Path) -> Journal {
    let folder = data.join("journal");
    let options = Options {
        folder: folder.clone(),
        bytes_max: 1 << 30,
        segment_bytes: 1 << 14,
        commit_interval: Duration::ZERO,
        age_max: Duration::from_hours(24 * 3_650),
    };
    let part = Health::default().part(PartKind::Journal, "journal", Timestamp::from_millis(0));
    let storage = Arc::new(Folder::open(folder).expect("a folder"));
    Journal::open(storage, options, JournalPosition(0), part, Clock::system()).expect("opens")
}

fn keep(journal: &Journal, frame: Frame) {
    let (kept, is_kept) = mpsc::channel();
    journal.inlet().append(vec![frame], Box::new(move |_| kept.send(()).expect("waited for"))).expect("taken");
    is_kept.recv_timeout(Duration::from_secs(20)).expect("kept");
}

fn frame(source: &str, topic: &str, payload: &[u8], second: i64) -> Frame {
    Frame {
        source: Arc::from(source),
        kind: FrameKind::NativeJson,
        topic: topic.into(),
        payload: payload.into(),
        arrival: Timestamp::from_millis(1_764_000_000_000 + second * 1_000),
    }
}

/// Thirty records of 2 KiB, in segments of eight or so, and one strange one.
fn fill(journal: &Journal) {
    for number in 0..30 {
        let topic = format!("telemetry/rack/350102/DC-{}/pdu-{number}", number % 2);
        let text = format!("{{\"readings\": {{\"pwr_w\": {number}, \"pad\": \"{}\"}}}}", "x".repeat(2_000));
        keep(journal, frame("east", &topic, text.as_bytes(), number));
    }
    keep(journal, frame("west", "a/\u{1b}[2J\u{202e}b", &[0xff, 0xfe, 0x00], 30));
}

fn sitepulse(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sitepulse"));
    command.arg("journal").args(arguments).env_clear().output().expect("the command runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Every file of the journal, by name.
fn files(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(data.join("journal")).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name().into_string().expect("a name"), std::fs::read(entry.path()).expect("read")))
        .collect()
}

#[test]
fn a_sound_journal_verifies_and_is_dumped_while_it_runs_and_when_it_is_stopped() {
    let data = tempfile::tempdir().expect("a folder");
    let path = data.path().to_str().expect("a path");
    let journal = open(data.path());
    fill(&journal);
    let before = files(data.path());
    for stopped in [false, true] {
        let verified = sitepulse(&["verify", path]);
        assert_eq!((verified.status.code(), text(&verified.stderr)), (Some(0), ""), "stopped {stopped}");
        let table = text(&verified.stdout);
        assert!(table.ends_with("sound\n") && table.contains("2025-11-24T16:00:00"), "{table}");
        assert!(table.contains(&format!("{} segments, 31 records, ", before.len())) && before.len() > 3, "{table}");

        let all = lines(&sitepulse(&["dump", path]));
        let positions: Vec<_> = all.iter().filter_map(|line| line["position"].as_i64()).collect();
        assert_eq!(positions, (0..31).collect::<Vec<_>>());
        assert!(all[0].get("payload").is_none() && all[0]["payload_bytes"].as_u64() > Some(2_000), "{}", all[0]);
        assert_eq!(all[7]["topic"], "telemetry/rack/350102/DC-1/pdu-7");
        assert_eq!(files(data.path()), before, "nothing is touched");
    }
    drop(journal);

    let some = lines(&sitepulse(&["dump", path, "--from", "3", "--to", "20", "--topic", "telemetry/+/+/DC-1/#"]));
    let positions: Vec<_> = some.iter().filter_map(|line| line["position"].as_i64()).collect();
    assert_eq!(positions, [3, 5, 7, 9, 11, 13, 15, 17, 19]);
    let west = sitepulse(&["dump", path, "--source", "west", "--payload"]);
    assert!(!text(&west.stdout).contains(['\u{1b}', '\u{202e}']), "{}", text(&west.stdout));
    let west = lines(&west);
    assert_eq!(
        (west.len(), &west[0]["payload_base64"], &west[0]["topic"]),
        (1, &"//4A".into(), &"a/\u{1b}[2J\u{202e}b".into())
    );
    let printed = sitepulse(&["dump", path, "--format", "text", "--payload"]);
    let printed = text(&printed.stdout);
    assert!(
        printed.lines().count() == 31 && printed.contains("\\u{1b}[2J") && !printed.contains('\u{1b}'),
        "{printed}"
    );

    let last = before.keys().next_back().expect("files");
    let one = sitepulse(&["dump", data.path().join("journal").join(last).to_str().expect("a path")]);
    assert_eq!(lines(&one)[0]["position"], last[..20].parse::<u64>().expect("a number"));
}

#[test]
fn a_damaged_journal_is_described_and_left_as_it_is() {
    let data = tempfile::tempdir().expect("a folder");
    let path = data.path().to_str().expect("a path");
    fill(&open(data.path()));
    let names: Vec<String> = files(data.path()).into_keys().collect();
    let second = data.path().join("journal").join(&names[1]);
    let mut bytes = std::fs::read(&second).expect("read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&second, bytes).expect("written");
    std::fs::remove_file(data.path().join("journal").join(&names[2])).expect("removed");
    let before = files(data.path());

    let verified = sitepulse(&["verify", path]);
    let table = text(&verified.stdout);
    assert_eq!(verified.status.code(), Some(1), "{table}");
    let line = table.lines().nth(2).expect("the second segment");
    assert!(line.contains("damaged at ") && line.contains("records lost"), "{table}");
    let from = |name: &str| name[..20].parse::<i64>().expect("a number");
    let missing = from(&names[3]) - from(&names[2]);
    assert!(table.contains(&format!("damaged: 1 files to look at, {} records lost", missing + 1)), "{table}");

    let dumped = lines(&sitepulse(&["dump", path]));
    let lost: i64 = dumped.iter().filter_map(|line| line["lost"].as_i64()).sum();
    let records = dumped.iter().filter(|line| line.get("topic").is_some()).count();
    assert_eq!((lost, i64::try_from(records).expect("few")), (missing + 1, 31 - missing - 1));
    assert_eq!(files(data.path()), before, "nothing is touched");
}

#[test]
fn the_end_of_the_reader_is_no_failure() {
    let data = tempfile::tempdir().expect("a folder");
    let journal = open(data.path());
    (0..4).for_each(|_| fill(&journal)); // more than a pipe holds
    drop(journal);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sitepulse"));
    command.args(["journal", "dump", "--payload"]).arg(data.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("runs");
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let output = child.wait_with_output().expect("ends");
    assert!(line.contains("\"position\":0"), "{line}");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn what_is_asked_wrongly_exits_as_the_contract_says() {
    let code = |arguments: &[&str]| sitepulse(arguments).status.code();
    assert_eq!(code(&["verify", "/nowhere/at/all"]), Some(1));
    // What is no journal is not sound.
    assert_eq!(
        (code(&["verify", "docs"]), code(&["dump", "docs"]), code(&["verify", "Cargo.toml"])),
        (Some(1), Some(1), Some(1))
    );
    let data = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(data.path().join("journal")).expect("an empty journal");
    assert_eq!(code(&["verify", data.path().to_str().expect("a path")]), Some(0));
    assert_eq!(code(&["verify", "--config", "tests/cases/config/broken_toml/input"]), Some(78));
    assert_eq!(
        (code(&["verify"]), code(&["dump", "x", "--config", "y"]), code(&["verify", "--help"])),
        (Some(2), Some(2), Some(0))
    );
    assert!(text(&sitepulse(&["dump", "--help"]).stdout).contains("jq -r .topic"));
}

#[test]
fn a_folder_with_the_name_of_a_segment_stops_nothing() {
    let data = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(data.path().join("journal/00000000000000000000.journal/inside")).expect("a stray folder");
    let journal = open(data.path());
    fill(&journal);
    assert_eq!(journal.end(), JournalPosition(31));
    drop(journal);
    assert_eq!(sitepulse(&["verify", data.path().to_str().expect("a path")]).status.code(), Some(0));
    assert_eq!(open(data.path()).end(), JournalPosition(31));
    assert!(data.path().join("journal/00000000000000000000.damaged/inside").is_dir());
}
