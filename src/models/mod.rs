//! Networks: text towers, UNet, autoencoders. They read weights through a
//! [`Scope`](crate::weights::Scope) and do not depend on adapters, prompts or samplers.
//!
//! Floor 4.

mod clip;
mod config;
mod part;
mod taesd;
mod unet;
mod vae;

pub use clip::{ClipOutput, ClipTower};
pub use config::{ClipConfig, PerBlock, TinyVaeConfig, UNetConfig, VaeConfig};
pub use taesd::TinyVae;
pub use unet::{
    AddedCondition, AttentionMap, DeepFeatures, FreeU, FreeUVersion, Layers, Side, Spot, UNet,
    UNetInput,
};
pub(crate) use unet::{InputKind, OwnedInput};
pub use vae::{Moments, Tiling, Vae};
