//! Faults that were met once, each with a line about where: none comes back.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/identity.rs"]
mod identity;
#[cfg(feature = "cli")]
#[path = "regression/pictures.rs"]
mod pictures;
mod support;
#[cfg(feature = "cli")]
#[path = "cli/world.rs"]
#[allow(dead_code)] // the command line's own tests use more of it
mod world;
