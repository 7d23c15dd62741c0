//! Faults that were met once, by where they were. None depends on files outside of the repository.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/configs.rs"]
mod configs;
mod support;
