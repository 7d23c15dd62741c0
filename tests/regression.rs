//! Faults that were met once, each with a line about where: none comes back.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[cfg(feature = "cli")]
#[path = "regression/files.rs"]
mod files;
#[path = "regression/identity.rs"]
mod identity;
mod support;
#[cfg(feature = "cli")]
#[path = "cli/world.rs"]
#[allow(dead_code, unreachable_pub)]
mod world;
