//! Which device a topic belongs to.
//!
//! A city's topics do not fit the processor's caches. Their texts lie end to end, so that a message waits for two places in
//! memory to find its device, and several messages can wait together.

use std::hash::BuildHasher;
use std::hint::black_box;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::model::DeviceId;

/// Bytes of all texts at the most; a topic that has no room is parsed for each message.
const TEXT_BYTES_MAX: usize = 256 << 20;

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    length: u32,
    device: DeviceId,
}

/// Devices by topic; each topic stays with its device.
#[derive(Debug)]
pub(super) struct Topics {
    text_bytes_max: usize,
    hasher: RandomState,
    entries: HashTable<Entry>,
    texts: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self::bounded(TEXT_BYTES_MAX)
    }
}

impl Topics {
    /// None yet, with room for so many bytes of text, [`TEXT_BYTES_MAX`] at the most.
    fn bounded(text_bytes_max: usize) -> Self {
        Self { text_bytes_max, hasher: RandomState::default(), entries: HashTable::new(), texts: String::new() }
    }

    /// The device of `topic`, where it is known.
    pub(super) fn find(&self, topic: &str) -> Option<DeviceId> {
        let is_it = |entry: &Entry| self.text(*entry) == topic;
        self.entries.find(self.hasher.hash_one(topic), is_it).map(|entry| entry.device)
    }

    /// The devices of `topics`, in their order.
    pub(super) fn find_each<const N: usize>(&self, topics: [Option<&str>; N]) -> [Option<DeviceId>; N] {
        // Each step waits for what the one before has found, so all take it together.
        let hashed = topics.map(|topic| topic.map(|topic| (self.hasher.hash_one(topic), topic.len())));
        // By the length alone, which waits for no text.
        let has_length = |length: usize| move |entry: &Entry| entry.length as usize == length;
        let likely = hashed.map(|hashed| hashed.and_then(|(hash, length)| self.entries.find(hash, has_length(length))));
        let ends = |entry: &Entry| self.text(*entry).as_bytes().last().copied();
        black_box(likely.iter().flatten().filter_map(|entry| ends(entry)).map(usize::from).sum::<usize>());
        let mut found = [None; N];
        for ((found, topic), likely) in found.iter_mut().zip(topics).zip(likely) {
            let Some(topic) = topic else { continue };
            *found = match likely {
                Some(entry) if self.text(*entry) == topic => Some(entry.device),
                _ => self.find(topic),
            };
        }
        found
    }

    /// Notes that `topic`, which is not known, is one of `device`; where there is no room it stays unknown.
    pub(super) fn insert(&mut self, topic: &str, device: DeviceId) {
        if self.texts.len() + topic.len() > self.text_bytes_max {
            return;
        }
        let place = |bytes: usize| u32::try_from(bytes).expect("invariant: TEXT_BYTES_MAX fits 32 bits");
        let entry = Entry { at: place(self.texts.len()), length: place(topic.len()), device };
        self.texts.push_str(topic);
        let Self { hasher, entries, texts, .. } = self;
        let hash = |entry: &Entry| hasher.hash_one(text(texts, *entry));
        entries.insert_unique(hash(&entry), entry, hash);
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn text(&self, entry: Entry) -> &str {
        text(&self.texts, entry)
    }
}

fn text(texts: &str, entry: Entry) -> &str {
    &texts[entry.at as usize..(entry.at + entry.length) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_one_length_are_told_apart_one_by_one_and_together() {
        let mut topics = Topics::default();
        let names: Vec<_> = (0..500).map(|number| format!("telemetry/k/a/s/{number:05}")).collect();
        for (name, device) in names.iter().zip((0..).map(DeviceId)) {
            assert_eq!(topics.find(name), None);
            topics.insert(name, device);
        }
        for (name, device) in names.iter().zip((0..).map(DeviceId)) {
            assert_eq!(topics.find(name), Some(device));
            let asked = [Some("telemetry/k/a/s/99999"), None, Some(name.as_str()), Some("")];
            assert_eq!(topics.find_each(asked), [None, None, Some(device), None]);
        }
        assert_eq!(topics.len(), 500);
    }

    #[test]
    fn texts_take_no_more_than_their_bound() {
        let mut topics = Topics::bounded(1_024);
        let (long, half) = ("x".repeat(1_024), "y".repeat(513));
        topics.insert(&half, DeviceId(1));
        topics.insert(&long, DeviceId(2));
        topics.insert(&half.replace('y', "z"), DeviceId(3));
        topics.insert("short", DeviceId(4));
        let found = [half.as_str(), &long, "short"].map(|topic| topics.find(topic));
        assert_eq!((found, topics.len()), ([Some(DeviceId(1)), None, Some(DeviceId(4))], 2));
    }
}
