//! The program from outside: the real binary with a tiny model.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/pictures.rs"]
mod pictures;
#[path = "cli/records.rs"]
mod records;
#[path = "cli/refusals.rs"]
mod refusals;
mod support;
#[path = "cli/verbs.rs"]
mod verbs;
#[path = "cli/world.rs"]
mod world;
