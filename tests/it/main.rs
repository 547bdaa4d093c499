//! Tests of the whole library in one binary, which links fast.

mod bounds;
mod config_cases;
mod journal_tool;
mod tidy;
