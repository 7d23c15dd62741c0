//! Runs: plans that are prepared once, images that are evaluated at once, and steps that move between threads.
#![allow(clippy::unwrap_used)]

#[path = "runs/batch.rs"]
mod batch;
#[path = "runs/files.rs"]
mod files;
mod support;
#[path = "runs/threads.rs"]
mod threads;
