//! What the fuzz targets of `fuzz/` call: each takes any bytes at one of the doors by which bytes of others come in, and
//! panics where a promise about them is broken.
//!
//! Built only for tests and with the feature `fuzzing`; no part of the program, and nothing that others may build on. The
//! tests run every input of `fuzz/corpus` through its target, so that what a fuzzer once found stays found.

mod configuration;
mod journal;
mod modbus_poll;
mod native;
mod outputs;
mod packed;
mod script;
#[cfg(test)]
mod tests;

pub use crate::api::fuzz::api;
pub use crate::source::modbus::fuzz::modbus_reply;
pub use crate::source::mqtt::fuzz::mqtt;
pub use configuration::configuration;
pub use journal::journal;
pub use modbus_poll::modbus_poll;
pub use native::native;
pub use outputs::outputs;
pub use packed::packed;
pub(crate) use script::Script;

/// A target: any bytes in, a panic where a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by the name of its binary and of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 9] = [
    ("api", api),
    ("configuration", configuration),
    ("journal", journal),
    ("modbus_poll", modbus_poll),
    ("modbus_reply", modbus_reply),
    ("mqtt", mqtt),
    ("native", native),
    ("outputs", outputs),
    ("packed", packed),
];
