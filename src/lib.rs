#![doc = include_str!("../README.md")]
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `cli` (default) | the command line and its module `cli` |
//! | `hub` | downloading models by their hub id |
//! | `cuda`, `cudnn` | NVIDIA GPUs; `cudnn` also their fast convolutions |
//! | `metal` | Apple's GPUs |
//! | `accelerate`, `mkl` | BLAS of the platform for candle's own products |
//!
//! # Floors
//!
//! A module uses only modules on lower floors; `tests/architecture.rs` enforces this table.
//!
//! | floor | modules |
//! |---|---|
//! | 7 | `cli`, `batch`, `sweep` |
//! | 6 | `store`, `config`, `app` |
//! | 5 | `pipeline`, `starter`, `family`, `conditioning` |
//! | 4 | `models` |
//! | 3 | `nn`, `lora` |
//! | 2 | `weights`, `sampling` |
//! | 1 | `rng`, `picture`, `kernels`, `prompt` |
//! | 0 | `error`, `hint`, `input`, `cancel`, `atomic_file`, `size`, `suggest`, `plain`, `room`, `csv`, `written` |

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod app;
mod atomic_file;
pub mod batch;
mod cancel;
#[cfg(feature = "cli")]
pub mod cli;
pub mod conditioning;
pub mod config;
mod csv;
mod error;
pub mod family;
mod hint;
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
pub mod sweep;
pub mod weights;
mod written;

pub use candle_core;
#[doc(inline)]
pub use error::{At, Error, Fault, InFile, LineError, Result};
#[doc(inline)]
pub use hint::{Hint, Saving, SavingWay, Setting};
#[doc(inline)]
pub use lora::{LoraRef, LoraStack};
#[doc(inline)]
pub use picture::Picture;
#[doc(inline)]
pub use pipeline::{
    Cancel, DTypeChoice, DeviceChoice, Event, Generated, LoraResolver, Memory, Observer, Options,
    Pipeline, Plan, Request, Run, Steps, Warning,
};
#[doc(inline)]
pub use sampling::{Sampler, Schedule};
