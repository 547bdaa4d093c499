//! What ARCHITECTURE.md and the house rules say of every source file.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file of code, in lines.
const LINES_MAX: usize = 600;
/// Words that say a thing is not done. Spelt in two, so that this file does not hold them.
const UNDONE: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimpl", "emented!"), concat!("to", "do!(")];
/// Folders of machines that something is built or tested on.
const PLACES: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Every file below `folder` that ends in one of `endings`, with its text.
fn texts(folder: &str, endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
                let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    texts("src", &["rs"])
}

#[test]
fn the_words_of_the_field_and_the_clock_import_nothing_of_ours() {
    for (file, allowed) in [("src/model.rs", None), ("src/clock.rs", Some("crate::model::"))] {
        let text = fs::read_to_string(file).expect("text");
        for line in text.lines().filter(|line| line.contains("crate::")) {
            assert!(allowed.is_some_and(|allowed| line.contains(allowed)), "{file}: {line}");
        }
    }
}

#[test]
fn the_data_path_does_not_know_tokio() {
    const KNOWS: [&str; 9] = [
        "src/source/",
        "src/sink/",
        "src/api/",
        "src/app.rs",
        "src/cli/run.rs",
        "src/cli/simulate/",
        "src/demo/",
        "src/simulate/",
        "src/world/",
    ];
    let strangers: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| text.contains("tokio::") && !KNOWS.iter().any(|place| path.starts_with(place)))
        .map(|(path, _)| path)
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn every_file_of_code_can_be_read_in_one_go() {
    let code = sources().into_iter().chain(texts("tests", &["rs", "py"]));
    let long: Vec<_> = code.filter(|(_, text)| text.lines().count() > LINES_MAX).map(|(path, _)| path).collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn nothing_is_left_undone_and_no_machine_is_named() {
    let mut files = sources();
    for folder in ["tests", "docs", "config", "firmware-notes", "docker"] {
        files.extend(texts(folder, &["rs", "py", "md", "toml", "csv", "yaml", "json", "txt", "conf", "service"]));
    }
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "Cargo.toml"] {
        files.push((Path::new(file).to_path_buf(), fs::read_to_string(file).expect("text")));
    }
    for (path, text) in files {
        for word in UNDONE.iter().chain(&PLACES) {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}
