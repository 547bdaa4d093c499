//! Decoding: bytes to readings, pure, by the device's profile.
//!
//! Never reads the clock, never touches disk or network; hostile bytes give an error that is counted, never a panic.

pub mod event_time;
#[cfg(test)]
mod firmware_notes;
pub mod modbus;
pub mod native;
mod plain;
pub mod topic;
