//! Faults that were met once, each with a line about where: none comes back.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/identity.rs"]
mod identity;
mod support;
