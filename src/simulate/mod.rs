//! A simulated city: base stations and a port that publish over MQTT, a data centre and shore power that answer over
//! Modbus TCP, with the faults that real ones have.
//!
//! The models are pure: what a device shows at an instant is a function of the seed and the instant, in closed form, so
//! meters agree with the power they meter. [`Outbox`] turns models into messages, [`Image`] into registers; only the
//! broker, the publisher and the Modbus server know tokio. Never imports a stage of the collector but for the inventory's
//! words and the decoder that the images are the inverse of.

mod base_station;
mod broker;
mod city;
mod data_centre;
mod fault;
pub mod load;
mod modbus_server;
mod outbox;
mod port;
mod publisher;
mod registers;
mod shipped;
mod wave;

use std::fmt::Debug;

pub use broker::{Broker, BrokerError};
pub use city::{City, CityOptions, Place};
pub use data_centre::DataCentre;
pub use fault::{FaultKind, FaultTally, Recurring};
pub use modbus_server::{EndpointPlan, ModbusServer, UnitPlan};
pub use outbox::{Message, Misbehaviour, Outbox, Sender};
pub use publisher::Publisher;
pub use registers::Image;
pub use shipped::{AREAS, INDICATORS, PROFILES};
pub use wave::{Duty, Wave};

use crate::model::Timestamp;

/// An instant of the simulated city: seconds since a local midnight before it all began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment(pub f64);

impl Moment {
    /// The moment `at`, where the city's time began at `midnight`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "days in milliseconds lie far below 2^53")]
    pub fn of(at: Timestamp, midnight: Timestamp) -> Self {
        Self(at.millis_since(midnight) as f64 / 1_000.0)
    }
}

/// What a device shows: metric and value.
pub type Values = Vec<(&'static str, f64)>;

/// A device as others see it.
pub trait Model: Debug + Send + Sync {
    /// What it shows at a moment.
    fn values(&self, at: Moment) -> Values;
}

/// `value` in whole steps of one tenth, one hundredth ..., as an instrument displays it.
fn rounded(value: f64, step: f64) -> f64 {
    let steps = step.recip().round();
    (value * steps).round() / steps
}
