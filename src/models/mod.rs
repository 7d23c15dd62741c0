//! Floor 4. Networks: text towers, UNet, autoencoders. They know weights only as a
//! [`Scope`](crate::weights::Scope) and never hear of adapters, prompts or samplers.

mod clip;
mod config;
mod taesd;
mod unet;
mod vae;

pub use clip::{ClipOutput, ClipTower};
pub use config::{ClipConfig, PerBlock, TinyVaeConfig, UNetConfig, VaeConfig};
pub use taesd::TinyVae;
pub use unet::{AddedCondition, Deep, UNet, UNetInput};
pub use vae::{Moments, Tiling, Vae};

use crate::error::Result;
use rayon::prelude::*;

/// Parts of a network that are built at the same time: reading and packing one weight does not keep all
/// cores busy to the end. Of several errors the first part's is given.
fn built<T: Send>(count: usize, part: impl Fn(usize) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    let parts: Vec<Result<T>> = (0..count).into_par_iter().map(part).collect();
    parts.into_iter().collect()
}
