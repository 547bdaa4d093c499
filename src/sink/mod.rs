//! Sinks: final and amended rows leave the store, each sink at its own pace and from its own position.

pub mod city_brain;
pub mod influx;
