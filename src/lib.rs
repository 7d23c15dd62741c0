#![doc = include_str!("../README.md")]
//!
//! # Floors
//!
//! A module uses only modules on lower floors; `tests/architecture.rs` enforces this table.
//!
//! | floor | modules |
//! |---|---|
//! | 7 | `cli`, `batch` |
//! | 6 | `store`, `config`, `app` |
//! | 5 | `pipeline`, `starter`, `family`, `conditioning` |
//! | 4 | `models` |
//! | 3 | `nn`, `lora` |
//! | 2 | `weights`, `sampling` |
//! | 1 | `rng`, `picture`, `kernels`, `prompt` |
//! | 0 | `error`, `input`, `cancel`, `atomic_file`, `size`, `suggest`, `plain`, `room` |

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod app;
mod atomic_file;
pub mod batch;
mod cancel;
#[cfg(feature = "cli")]
pub mod cli;
pub mod conditioning;
pub mod config;
mod error;
pub mod family;
mod input;
mod kernels;
pub mod lora;
pub mod models;
pub mod nn;
pub mod picture;
pub mod pipeline;
mod plain;
pub mod prompt;
pub mod rng;
mod room;
pub mod sampling;
pub mod size;
pub mod starter;
pub mod store;
mod suggest;
pub mod weights;

pub use error::{At, Error, Fault, InFile, LineError, Result};
pub use picture::Picture;
pub use pipeline::{
    Cancel, DTypeChoice, DeviceChoice, Event, Generated, Observer, Pipeline, Plan, Request,
};
pub use sampling::{Sampler, Schedule};
