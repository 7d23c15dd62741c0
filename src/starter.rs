//! The starter model, built into the library so that an installed binary works alone.
//!
//! Floor 5.

use crate::error::Result;
use crate::family::ModelParts;
use crate::weights::Placement;
use std::path::Path;

/// Path in the diffusers layout and bytes of each file.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../models/starter/", $path)).as_slice())),*]
    };
}

static FILES: &[(&str, &[u8])] = files![
    "colora.toml",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// Name under which the starter model is listed.
pub const NAME: &str = "starter";

/// Path and contents of its files without weights: what describes a copy of the model.
pub fn settings() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    FILES.iter().copied().filter(|(path, _)| !path.ends_with(".safetensors"))
}

/// Opens the starter model.
///
/// # Errors
/// What a VAE override's files are wrong with; the built-in files are tested.
pub fn open(placement: Placement, vae: Option<&Path>) -> Result<ModelParts> {
    ModelParts::from_static(NAME, FILES, placement, vae)
}
