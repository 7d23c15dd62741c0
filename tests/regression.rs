//! Faults that were met once, each with a line about where: none comes back.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/configs.rs"]
mod configs;
#[path = "regression/files.rs"]
mod files;
#[path = "regression/identity.rs"]
mod identity;
#[path = "regression/peft.rs"]
mod peft;
#[path = "regression/pictures.rs"]
mod pictures;
#[path = "regression/process.rs"]
mod process;
mod support;
#[allow(dead_code, unused_imports)]
#[path = "cli/world.rs"]
mod world;
