//! `check` against folders of real mistakes: each `tests/cases/config/<name>` has an `input` folder, the text that
//! `check` is to print in `expected.txt`, and where it matters the variables of its `environment`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sitepulse::cli::check::{Report, check};
use sitepulse::config::Environment;

/// Relative to the package, where tests run, so that no case holds the path of a machine.
const CASES: &str = "tests/cases/config";

/// What stands for a password or token in every case.
const SECRETS: [&str; 2] = ["hunter2", "tiger"];

fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(CASES).expect("the folder of cases");
    let mut cases: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    assert!(cases.len() >= 12, "{cases:?}");
    cases
}

fn environment(case: &Path) -> Environment {
    let text = std::fs::read_to_string(case.join("environment")).unwrap_or_default();
    text.lines()
        .map(|line| line.split_once('=').expect("NAME=VALUE"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn report(case: &Path) -> Report {
    check(&case.join("input"), &environment(case))
}

#[test]
fn check_prints_what_each_case_expects() {
    let mut differing = String::new();
    for case in cases() {
        let expected = std::fs::read_to_string(case.join("expected.txt")).unwrap_or_default();
        let printed = report(&case).text;
        if printed != expected {
            let _ = write!(differing, "--- {}\nexpected:\n{expected}\nprinted:\n{printed}\n", case.display());
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

#[test]
fn only_good_cases_exit_with_0() {
    for case in cases() {
        let name = case.file_name().expect("a name").to_string_lossy().into_owned();
        let expected = if name.starts_with("good_") { 0 } else { 78 };
        assert_eq!(report(&case).exit_code, expected, "{name}");
    }
}

#[test]
fn no_case_prints_a_secret() {
    for case in cases() {
        let printed = report(&case).text;
        assert!(!SECRETS.iter().any(|secret| printed.contains(secret)), "{}: {printed}", case.display());
    }
}

#[test]
fn the_command_exits_as_the_contract_says() {
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sitepulse"));
        command.args(arguments).env_clear().output().expect("the command runs").status.code()
    };
    assert_eq!(run(&["check", "--config", "tests/cases/config/good_broker_only/input"]), Some(0));
    assert_eq!(run(&["check", "--config", "tests/cases/config/good_broker_only/input/sitepulse.toml"]), Some(0));
    assert_eq!(run(&["check", "--config", "tests/cases/config/broken_toml/input"]), Some(78));
    assert_eq!(run(&["run", "--config", "tests/cases/config/broken_toml/input"]), Some(78));
    assert_eq!(run(&["check"]), Some(2));
    assert_eq!(run(&["--help"]), Some(0));
}

#[test]
fn the_shipped_configuration_is_good_and_uses_every_shipped_profile() {
    let config = sitepulse::config::load_with(Path::new("config"), &Environment::new()).expect("no problem");
    let devices = config.inventory.devices();
    for id in config.profiles.keys() {
        assert!(devices.iter().any(|device| &device.profile.id == id), "{id}");
    }
    let districts = config.inventory.areas().values().filter(|area| area.parent.is_some()).count();
    assert_eq!((config.inventory.areas().len(), districts), (14, 13));
    assert!(!config.indicators.is_empty());
}

/// The shipped file without its inventory, and with its commented defaults uncommented where `uncomment` says so.
fn shipped(uncomment: impl Fn(&str) -> bool) -> String {
    let text = std::fs::read_to_string("config/sitepulse.toml").expect("the shipped configuration");
    let mut out = String::new();
    for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.contains("[inventory]")) {
        // A table that is commented out is an example.
        let is_example = paragraph.lines().any(|line| line.starts_with("# ["));
        for line in paragraph.lines() {
            let key = line.strip_prefix("# ").filter(|key| !is_example && uncomment(key));
            let _ = writeln!(out, "{}", key.unwrap_or(line));
        }
    }
    out
}

#[test]
fn the_shipped_configuration_shows_the_real_defaults() {
    const EXAMPLES: [&str; 3] = ["user = ", "password_", "token_"];
    let is_default = |line: &str| {
        let is_key =
            line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        is_key && !EXAMPLES.iter().any(|example| line.starts_with(example))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let load = |text: &str| {
        std::fs::write(folder.path().join("sitepulse.toml"), text).expect("a file");
        let config = sitepulse::config::load_with(folder.path(), &Environment::new()).expect("no problem");
        format!("{config:?}")
    };
    let with_defaults = shipped(is_default);
    assert!(with_defaults.contains("\ngrace = ") && with_defaults.contains("\nbackoff_max = "), "{with_defaults}");
    assert_eq!(load(&with_defaults), load(&shipped(|_| false)));
}

#[test]
fn the_shipped_configuration_shows_every_key() {
    let shipped = std::fs::read_to_string("config/sitepulse.toml").expect("the shipped configuration");
    let documented = std::fs::read_to_string("docs/configuration.md").expect("the documentation");
    for table in sitepulse::config::tables() {
        for key in table.keys {
            let is_shown = |text: &str, value: &str| text.contains(value) || text.contains(&format!("[{key}]"));
            assert!(is_shown(&shipped, &format!("{key} = ")), "{}.{key} in config/sitepulse.toml", table.path);
            assert!(is_shown(&documented, &format!("| `{key}` |")), "{}.{key} in docs/configuration.md", table.path);
        }
    }
}
