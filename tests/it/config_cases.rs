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
