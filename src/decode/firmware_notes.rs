//! Keeps firmware-notes/ true: every example there is decoded with the profile that ships.
//!
//! An example is a fenced block that opens with ```` ```registers PROFILE ````. A line `TABLE ADDRESS: WORDS` gives what
//! the device answered (registers in hexadecimal, bits as 0 and 1), a line `=> METRIC = VALUE` what it means; instead of
//! `= VALUE` stands the ledger's reason of an invalid reading, or `missing` where there is no reading.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::modbus::{Block, BlockData, decode, encode_poll};
use crate::inventory::{Profile, RegisterTable, parse_profile};

struct Example {
    place: String,
    profile: String,
    blocks: Vec<Block>,
    /// Value, reason or `missing`, by metric.
    meaning: BTreeMap<String, String>,
}

fn files(folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.map(|path| (path.display().to_string(), fs::read_to_string(path).expect("text"))).collect()
}

fn shipped_profiles() -> BTreeMap<String, Profile> {
    let profile = |(file, text): (String, String)| parse_profile(&file, &text).expect("a good profile");
    files("config/devices").into_iter().map(profile).map(|profile| (profile.id.clone(), profile)).collect()
}

fn block(line: &str) -> Option<Block> {
    let (place, words) = line.split_once(':')?;
    let (table, address) = place.split_once(' ')?;
    let (table, is_bits) = match table {
        "coil" => (RegisterTable::Coil, true),
        "discrete_input" => (RegisterTable::DiscreteInput, true),
        "holding" => (RegisterTable::Holding, false),
        "input" => (RegisterTable::Input, false),
        _ => return None,
    };
    let words = words.split_whitespace();
    let data = if is_bits {
        BlockData::Bits(
            words
                .map(|bit| ["0", "1"].iter().position(|known| *known == bit).map(|at| at == 1))
                .collect::<Option<_>>()?,
        )
    } else {
        BlockData::Registers(words.map(|word| u16::from_str_radix(word, 16).ok()).collect::<Option<_>>()?)
    };
    Some(Block { table, address: address.trim().parse().ok()?, data })
}

fn examples(file: &str, text: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", number + 1);
        if let Some(profile) = line.strip_prefix("```registers ") {
            let (blocks, meaning) = (Vec::new(), BTreeMap::new());
            examples.push(Example { place, profile: profile.to_owned(), blocks, meaning });
            open = true;
        } else if line.starts_with("```") {
            open = false;
        } else if open && !line.is_empty() {
            let example = examples.last_mut().expect("one is open");
            if let Some(meaning) = line.strip_prefix("=> ") {
                let (metric, meaning) = meaning.split_once(' ').unwrap_or_else(|| panic!("{place}: no meaning"));
                example.meaning.insert(metric.to_owned(), meaning.to_owned());
            } else {
                example.blocks.push(block(line).unwrap_or_else(|| panic!("{place}: `{line}` is no block")));
            }
        }
    }
    examples
}

/// What the example's registers mean by `profile`, in the words of the notes.
fn meaning(profile: &Profile, blocks: &[Block]) -> BTreeMap<String, String> {
    let missing = profile.metrics.iter().map(|metric| (metric.name.clone(), "missing".to_owned()));
    let mut meaning: BTreeMap<_, _> = missing.collect();
    for (slot, value) in decode(profile, &encode_poll(blocks)).expect("well formed") {
        let words = value.map_or_else(|reason| reason.label().to_owned(), |value| format!("= {value}"));
        meaning.insert(profile.metrics[slot].name.clone(), words);
    }
    meaning
}

#[test]
fn every_example_of_the_firmware_notes_is_read_as_it_says() {
    let profiles = shipped_profiles();
    let mut shown = BTreeSet::new();
    for (file, text) in files("firmware-notes") {
        let examples = examples(&file, &text);
        assert!(!examples.is_empty(), "{file} has no example");
        for example in examples {
            let place = &example.place;
            let profile = profiles.get(&example.profile).unwrap_or_else(|| panic!("{place}: no such profile"));
            assert_eq!(meaning(profile, &example.blocks), example.meaning, "{place}");
            shown.insert(example.profile);
        }
    }
    for (id, profile) in &profiles {
        let polled = profile.metrics.iter().any(|metric| metric.register.is_some());
        assert!(!polled || shown.contains(id), "profile {id} has no example in firmware-notes/");
    }
}
