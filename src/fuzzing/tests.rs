//! The corpus as tests: every input that is kept runs through its target.

use std::path::Path;

use super::TARGETS;

#[test]
fn every_input_of_the_corpus_keeps_its_targets_promises() {
    for (name, target) in TARGETS {
        let folder = Path::new("fuzz/corpus").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut inputs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no input");
        for input in inputs {
            let bytes = std::fs::read(&input).expect("readable");
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{}", input.display());
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").expect("the manifest");
    for (name, _) in TARGETS {
        let program = std::fs::read_to_string(format!("fuzz/fuzz_targets/{name}.rs")).expect("a program");
        assert!(program.contains(&format!("sitepulse::fuzzing::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    let corpora = std::fs::read_dir("fuzz/corpus").expect("the corpus").count();
    assert_eq!(corpora, TARGETS.len());
}
