use std::fs;
use std::path::PathBuf;

use super::*;
use crate::pipeline::Unregistered;
use crate::sink::influx::{Encoding, Field, Fields};

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.write(FILE_NAME, text);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("a file");
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        load_with(self.0.path(), &variables(environment))
    }

    /// Problems as `key: message`.
    fn problems(&self, environment: &[(&str, &str)]) -> Vec<String> {
        let problems = self.load(environment).expect_err("problems");
        problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
    }
}

fn variables(environment: &[(&str, &str)]) -> Environment {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn an_empty_file_has_the_documented_defaults() {
    let folder = Folder::with("");
    let config = folder.load(&[]).expect("a configuration");
    assert_eq!(config.data_dir, folder.0.path().join("data"));
    assert_eq!(config.journal.folder, folder.0.path().join("data/journal"));
    assert_eq!(config.zone.iana_name(), Some("Asia/Shanghai"));
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:8800");
    assert_eq!(config.pipeline.unregistered, Unregistered::Accept { devices_max: 1_000, metrics_max: 64 });
    assert!(config.mqtt.is_empty() && config.influx.is_empty() && config.city_brain.is_none());
}

#[test]
fn the_environment_overrides_the_file() {
    let folder =
        Folder::with("[api]\nlisten = '127.0.0.1:1'\n[[mqtt]]\nname = 'a'\nurl = 'mqtt://x'\nclient_id = 'c'\n");
    let environment = [
        ("SITEPULSE__API__LISTEN", "[::1]:9"),
        ("SITEPULSE__MQTT__0__URL", "mqtt://[2001:db8::1]:99"),
        ("SITEPULSE__MQTT__0__TOPICS", "telemetry/port/#, telemetry/base_station/#"),
        ("SITEPULSE__DATA_DIR", "/var/lib/Sitepulse"),
    ];
    let config = folder.load(&environment).expect("a configuration");
    assert_eq!(config.api.listen.to_string(), "[::1]:9");
    assert_eq!((config.mqtt[0].host.as_str(), config.mqtt[0].port), ("2001:db8::1", 99));
    assert_eq!(config.mqtt[0].topics, ["telemetry/port/#", "telemetry/base_station/#"]);
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/Sitepulse"));
}

#[test]
fn a_problem_that_a_variable_makes_names_the_variable() {
    let problems = Folder::with("").load(&[("SITEPULSE__ROLLUP__GRACE", "2")]).expect_err("problems");
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, "environment variable SITEPULSE__ROLLUP__GRACE");
}

#[test]
fn writes_to_a_store_are_compressed_unless_told_otherwise() {
    for (line, encoding) in
        [("", Encoding::Gzip), ("compress = true", Encoding::Gzip), ("compress = false", Encoding::Plain)]
    {
        let table = format!("[[influx]]\nname = 'i'\nurl = 'http://x'\norg = 'o'\nbucket = 'b'\n{line}\n");
        let config = Folder::with(&table).load(&[]).expect("a configuration");
        assert_eq!(config.influx[0].encoding, encoding, "{line}");
    }
}

#[test]
fn all_fields_go_to_a_store_unless_some_are_named() {
    let two = Fields::from_iter([Field::Max, Field::Count]);
    let said = "1d; of each metric max, count only\n";
    for (line, fields, shown) in [("", Fields::ALL, "1d\n"), ("fields = ['max', 'count']", two, said)] {
        let table = format!("[[influx]]\nname = 'i'\nurl = 'http://x'\norg = 'o'\nbucket = 'b'\n{line}\n");
        let config = Folder::with(&table).load(&[]).expect("a configuration");
        assert_eq!(config.influx[0].fields, fields, "{line}");
        assert!(crate::cli::check::render(&config).contains(shown), "{line}");
    }
}

#[test]
fn a_secret_is_read_from_a_variable_or_a_file_and_never_shown() {
    let folder = Folder::with(
        "[[mqtt]]\nname = 'a'\nurl = 'mqtt://x'\nclient_id = 'c'\nuser = 'u'\npassword_env = 'BROKER_PASSWORD'\n\
         [[influx]]\nname = 'i'\nurl = 'http://x'\norg = 'o'\nbucket = 'b'\ntoken_file = 'token'\n\
         [api]\nlisten = '0.0.0.0:8800'\ntoken_file = 'token'\n",
    );
    folder.write("token", "tiger-token\n");
    let config = folder.load(&[("BROKER_PASSWORD", "hunter2")]).expect("a configuration");
    assert_eq!(config.mqtt[0].login.as_ref().map(|login| login.password.as_str()), Some("hunter2"));
    assert_eq!(config.influx[0].token, "tiger-token");
    assert_eq!(config.api.token.as_deref(), Some("tiger-token"));
    let shown = format!("{config:?}{}", crate::cli::check::render(&config));
    assert!(!shown.contains("hunter2") && !shown.contains("tiger"), "{shown}");
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let wrong = [
        "password = 'hunter2'",
        "password_env = 'hunter2'",
        "password_env = ['hunter2']",
        "password_file = 'hunter2'",
        "url = 'mqtt://u:hunter2@x'",
        "login = { password = 'hunter2' }",
        "password = hunter2",
        "password = 'hunter2",
    ];
    for line in wrong {
        let text = format!("[[mqtt]]\nname = 'a'\nclient_id = 'c'\nuser = 'u'\n{line}\n");
        let shown = Folder::with(&text).problems(&[]).join("\n");
        assert!(!shown.contains("hunter2"), "{line}: {shown}");
    }
    let shown = Folder::with("[api]\ntoken_env = 424242\n").problems(&[]).join("\n");
    assert!(!shown.contains("424242"), "{shown}");
    let influx = "[[influx]]\nname = 'i'\nurl = 'http://u:hunter2@x'\norg = 'o'\nbucket = 'b'\n";
    let shown = Folder::with(influx).problems(&[]).join("\n");
    assert!(!shown.contains("hunter2"), "{shown}");
    let shown = Folder::with("").problems(&[("SITEPULSE__API__TOKEN", "hunter2")]).join("\n");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_that_is_missing_or_empty_is_a_problem() {
    let text = "[[influx]]\nname = 'i'\nurl = 'http://x'\norg = 'o'\nbucket = 'b'\n";
    for (keys, environment) in [
        ("token_env = 'STORE_TOKEN'", &[][..]),
        ("token_env = 'STORE_TOKEN'", &[("STORE_TOKEN", "")][..]),
        ("token_env = 'STORE_TOKEN'", &[("STORE_TOKEN", "has a blank")][..]),
        ("token_file = 'nowhere'", &[][..]),
        ("token_env = 'STORE_TOKEN'\ntoken_file = 'sitepulse.toml'", &[("STORE_TOKEN", "x")][..]),
    ] {
        let problems = Folder::with(&format!("{text}{keys}\n")).problems(environment);
        assert_eq!(problems.len(), 1, "{keys}: {problems:?}");
        assert!(problems[0].starts_with("influx[0].token_"), "{problems:?}");
    }
}

#[test]
fn listening_beyond_loopback_needs_a_token() {
    for listen in ["0.0.0.0:8800", "192.0.2.7:8800", "[::]:8800"] {
        let problems = Folder::with(&format!("[api]\nlisten = '{listen}'\n")).problems(&[]);
        assert!(problems.len() == 1 && problems[0].starts_with("api.listen: "), "{problems:?}");
    }
    assert!(Folder::with("[api]\nlisten = '[::1]:8800'\n").load(&[]).is_ok());
}

#[test]
fn parts_that_would_fight_are_refused() {
    let broker =
        |name: &str, client: &str| format!("[[mqtt]]\nname = '{name}'\nurl = 'mqtt://x'\nclient_id = '{client}'\n");
    let problems = Folder::with(&(broker("a", "c") + &broker("a", "c"))).problems(&[]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("mqtt[1].name") && problems[1].starts_with("mqtt[1].client_id"), "{problems:?}");
    let brain = broker("a", "c") + "[city_brain]\nurl = 'mqtt://x:1883'\nclient_id = 'c'\n";
    assert!(Folder::with(&brain).problems(&[])[0].starts_with("city_brain.client_id"));
    let tight = broker("a", "c") + "packet_bytes_max = '1MiB'\n[journal]\nsegment_bytes = '1MiB'\n";
    assert!(Folder::with(&tight).problems(&[])[0].starts_with("mqtt[0].packet_bytes_max"));
    let greedy = "[journal]\nbytes_max = '16MiB'\nsegment_bytes = '16MiB'\n";
    assert!(Folder::with(greedy).problems(&[])[0].starts_with("journal.segment_bytes"));
}
