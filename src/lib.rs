//! Sitepulse: a telemetry collector for a city's infrastructure.
//!
//! Data flows one way: source -> journal -> decode -> rollup -> store -> indicator -> sink; the only backward signal is
//! the acknowledgement that the journal releases. See ARCHITECTURE.md.

pub mod clock;
pub mod inventory;
pub mod model;
pub mod problem;
pub mod rollup;
