//! Faults that were met once, each by its kind: what happened stands in a line above its test.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "regression/adapters.rs"]
mod adapters;
#[path = "regression/names.rs"]
mod names;
#[path = "regression/rotations.rs"]
mod rotations;
mod support;
#[path = "cli/world.rs"]
mod world;
