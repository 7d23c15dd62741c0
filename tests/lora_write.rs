//! Adapter files that colora writes: conversions there and back, merges, extractions, checkpoints.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "lora_write/convert.rs"]
mod convert;
#[path = "lora_write/extract.rs"]
mod extract;
#[path = "lora_write/merge.rs"]
mod merge;
#[path = "lora_write/programs.rs"]
mod programs;
mod support;
#[path = "lora_write/zoo.rs"]
mod zoo;
