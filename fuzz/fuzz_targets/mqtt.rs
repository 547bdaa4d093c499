#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sitepulse::fuzzing::mqtt(data));
