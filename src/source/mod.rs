//! Sources: what we hear and poll becomes frames in the journal.

pub mod modbus;
pub mod mqtt;
