//! What `benches/` needs of private parts, behind feature `bench`: a city in memory, stages by themselves, and the whole
//! data path without its threads. Not for anybody else, and never in a build that is shipped.

mod city;
mod path;

pub use city::{City, METRICS, START_MS};
pub use path::{DataPath, roller as roller_and_writer};

pub use crate::journal::bench as journal;
pub use crate::pipeline::bench as roller;
pub use crate::sink::influx::bench as influx;
pub use crate::source::mqtt::bench as mqtt;
