//! The `sitepulse` command.

fn main() {}
