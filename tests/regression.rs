//! Faults that were met once, each with a line about where: none comes back.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[cfg(feature = "cli")]
#[path = "regression/adapters.rs"]
mod adapters;
#[path = "regression/identity.rs"]
mod identity;
#[cfg(feature = "cli")]
#[path = "regression/names.rs"]
mod names;
#[cfg(feature = "cli")]
#[path = "regression/peft.rs"]
mod peft;
#[cfg(feature = "cli")]
#[path = "regression/rotations.rs"]
mod rotations;
mod support;
#[cfg(feature = "cli")]
#[allow(dead_code, unused_imports)]
#[path = "cli/world.rs"]
mod world;
