//! Adapter files that colora writes: conversions there and back, merges, extractions, checkpoints.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "lora_write/convert.rs"]
mod convert;
mod support;
#[path = "lora_write/zoo.rs"]
mod zoo;
