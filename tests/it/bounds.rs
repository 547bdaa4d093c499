//! The table of bounds in ARCHITECTURE.md against the code: every bound, its counter and its test are there.

use std::fs;
use std::path::Path;

/// The text of every file below `folder` with one of `endings`.
fn text_below(folder: &Path, endings: &[&str], into: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            text_below(&path, endings, into);
        } else if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
            into.push_str(&String::from_utf8_lossy(&fs::read(&path).expect("readable")));
        }
    }
}

/// What stands between the first two backticks of a cell.
fn code(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

#[test]
fn every_bound_has_a_key_or_constant_a_counter_and_a_test() {
    let mut source = String::new();
    text_below(Path::new("src"), &["rs"], &mut source);
    let mut tests = source.clone();
    text_below(Path::new("tests"), &["rs", "py"], &mut tests);
    let architecture = fs::read_to_string("ARCHITECTURE.md").expect("text");
    let section =
        architecture.split("## Bounds").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| what |"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 15, "{rows:?}");
    for row in &rows {
        let [what, bound, _, counter, test] = row[..] else { panic!("{row:?} has not five cells") };
        let bound = code(bound).expect("a key or constant");
        let name = bound.rsplit('.').next().expect("a name");
        let is_constant = name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
        let declared = if is_constant { format!("const {name}:") } else { name.to_owned() };
        assert!(bound.ends_with('/') || source.contains(&declared), "{what}: no {bound}");
        if let Some(counter) = code(counter) {
            let known = source.contains(&format!("\"{counter}\""));
            assert!(known, "{what}: nothing counts {counter}");
        } else {
            assert!(counter.starts_with("none, "), "{what}: no counter, and no reason");
        }
        let test = code(test).expect("a test");
        assert!(
            tests.contains(&format!("fn {test}(")) || tests.contains(&format!("def {test}(")),
            "{what}: no test {test}"
        );
    }
}
