//! The stages once each on a fixed workload, in functions that a profiler finds by name.

use std::path::Path;

use sitepulse::bench::{self, City, START_MS};
use sitepulse::decode::native;
use sitepulse::journal::Entry;
use sitepulse::model::{Frame, Timestamp};
use sitepulse::pipeline::Roller;
use sitepulse::store::Writer;

const SITES: usize = 400;
const SECONDS: i64 = 5;

pub(crate) fn run(folder: &Path) {
    let mut city = City::new(SITES);
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    for second in 0..SECONDS {
        bytes.extend_from_slice(&city.packets(START_MS + second * 1_000).0);
        frames.extend(city.frames(START_MS + second * 1_000));
    }
    let (mut roller, mut writer) = bench::roller_and_writer(&city, folder).expect("a store");
    let entries: Vec<Entry> = frames.iter().cloned().map(Entry::Frame).collect();
    // Names come with the first flush only.
    bench::roller::flush(&mut roller, &mut writer, Timestamp::from_millis(START_MS)).expect("a store");
    let mut records = Vec::new();
    instructions_mqtt(&bytes);
    instructions_gather(&bytes);
    instructions_frame(&frames, &mut records);
    instructions_unframe(&frames, &records);
    instructions_decode(&frames);
    instructions_roller(&mut roller, &entries, &writer);
    instructions_pack(&roller);
    instructions_flush(&mut roller, &mut writer);
    let more: Vec<Entry> = city.frames(START_MS + SECONDS * 1_000).into_iter().map(Entry::Frame).collect();
    bench::roller::apply(&mut roller, &more, &writer).expect("a store");
    instructions_rewrite(&mut roller, &mut writer);
    println!("messages {}", frames.len());
}

#[inline(never)]
fn instructions_mqtt(bytes: &[u8]) {
    std::hint::black_box(bench::mqtt::read_and_acknowledge(bytes));
}

/// With what `instructions_mqtt` counts.
#[inline(never)]
fn instructions_gather(bytes: &[u8]) {
    std::hint::black_box(bench::mqtt::read_and_gather(bytes, SITES));
}

#[inline(never)]
fn instructions_frame(frames: &[Frame], records: &mut Vec<u8>) {
    bench::journal::encode_records(frames, records);
}

#[inline(never)]
fn instructions_unframe(frames: &[Frame], records: &[u8]) {
    std::hint::black_box(bench::journal::decode_records(frames, records));
}

#[inline(never)]
fn instructions_decode(frames: &[Frame]) {
    std::hint::black_box(frames.iter().filter(|frame| native::decode(&frame.payload).is_ok()).count());
}

#[inline(never)]
fn instructions_roller(roller: &mut Roller, entries: &[Entry], writer: &Writer) {
    bench::roller::apply(roller, entries, writer).expect("a store");
}

#[inline(never)]
fn instructions_pack(roller: &Roller) {
    std::hint::black_box(bench::roller::pack(roller, &mut Vec::new()));
}

#[inline(never)]
fn instructions_flush(roller: &mut Roller, writer: &mut Writer) {
    let now = Timestamp::from_millis(START_MS + SECONDS * 1_000);
    std::hint::black_box(bench::roller::flush(roller, writer, now).expect("a store"));
}

/// The same rows once more, each with another message.
#[inline(never)]
fn instructions_rewrite(roller: &mut Roller, writer: &mut Writer) {
    let now = Timestamp::from_millis(START_MS + SECONDS * 2_000);
    std::hint::black_box(bench::roller::flush(roller, writer, now).expect("a store"));
}
