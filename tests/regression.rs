//! What once went wrong, by the kind of input that it was met with.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "regression/peft.rs"]
mod peft;
#[allow(dead_code)]
mod support;
#[allow(dead_code)]
#[path = "cli/world.rs"]
mod world;
