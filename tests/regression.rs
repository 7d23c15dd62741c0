//! Faults that were met once, each with a line about where: none comes back.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/identity.rs"]
mod identity;
#[cfg(feature = "cli")]
#[path = "regression/models.rs"]
mod models;
mod support;
#[cfg(feature = "cli")]
#[path = "cli/world.rs"]
#[allow(dead_code, unreachable_pub)]
mod world;
