//! Faults that were met once, each with a line about where: none comes back.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/adapters.rs"]
mod adapters;
#[path = "regression/configs.rs"]
mod configs;
#[path = "regression/files.rs"]
mod files;
#[path = "regression/identity.rs"]
mod identity;
#[path = "regression/models.rs"]
mod models;
#[path = "regression/mutated.rs"]
mod mutated;
#[path = "regression/names.rs"]
mod names;
#[path = "regression/peft.rs"]
mod peft;
#[path = "regression/pictures.rs"]
mod pictures;
#[path = "regression/process.rs"]
mod process;
#[path = "regression/rotations.rs"]
mod rotations;
mod support;
#[allow(dead_code, unused_imports)]
#[path = "cli/world.rs"]
mod world;
