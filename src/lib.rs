//! Sitepulse: a telemetry collector for a city's infrastructure.
//!
//! Data flows one way: source -> journal -> decode -> rollup -> store -> indicator -> sink; the only backward signal is
//! the acknowledgement that the journal releases. See ARCHITECTURE.md.

pub mod api;
pub mod app;
mod background;
mod backoff;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
#[cfg(feature = "demo")]
pub mod demo;
pub mod disk;
pub mod document;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod indicator;
pub mod inventory;
pub mod journal;
pub mod ledger;
pub mod model;
pub mod pipeline;
pub mod problem;
pub mod report;
pub mod rollup;
#[cfg(feature = "demo")]
pub mod simulate;
pub mod sink;
pub mod source;
pub mod store;
pub mod visible;
#[cfg(test)]
mod world;
