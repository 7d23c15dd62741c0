//! SD 2.x: one OpenCLIP-H tower, of which the last layer is not used; models for 768 pixels predict v.

use super::original::Original;
use super::spec::{FamilySpec, Heads, TextTower, linear_unet};
use crate::conditioning::ClipKind;
use crate::sampling::PredictionKind;
use crate::weights::Component;
use crate::weights::names::{TowerLocation, prefix};

const fn tower(prefix: &'static str, open_clip: bool) -> TowerLocation {
    TowerLocation { component: Component::TextEncoder, prefix, open_clip }
}

pub(super) static SPEC: FamilySpec = FamilySpec {
    name: "SD 2.x",
    pipeline: "StableDiffusionPipeline",
    towers: &[TextTower {
        component: Component::TextEncoder,
        written: tower(prefix::SD2_TEXT, true),
        // The first is stable-diffusion.cpp's, the last the layout of sgm.
        read: &[
            tower(prefix::SD1_TEXT, false),
            tower(prefix::SD2_TEXT, true),
            tower(prefix::REFINER_TEXT, true),
        ],
        clip: ClipKind::OpenClip,
        width: 1024,
        layers: 23,
        stored_layers: 24,
        projects: false,
    }],
    unet: || linear_unet(1024, &[320, 640, 1280, 1280]),
    context: 1024,
    sizes: false,
    linear_projection: Some(true),
    heads: Heads::Width(64),
    detect,
    prediction,
    native_side: |prediction| match prediction {
        PredictionKind::V => 768,
        PredictionKind::Epsilon | PredictionKind::Sample | PredictionKind::Flow => 512,
    },
    latent_scale: 0.18215,
    spacing: None,
    fixes_scheduler: true,
    guidance: 7.5,
    zero_negative: false,
    aesthetics_score: false,
    skipped_layers: 0,
    final_norm: true,
};

/// SD-Turbo, and SD 2.x in the layout of sgm, call their only tower as the refiner does, which is asked before.
fn detect(file: &Original<'_>) -> bool {
    // stable-diffusion.cpp gives open_clip's towers transformers' names.
    let renamed =
        |name: &str| name.starts_with(prefix::SD1_TEXT) && name.contains(".self_attn.in_proj.");
    file.has(prefix::REFINER_TEXT) || file.has(prefix::SD2_TEXT) || file.names().any(renamed)
}

/// The models for 768 pixels predict v and are what most files derive from; the others are named accordingly, or
/// take a picture or depths beside the latents.
fn prediction(file: &Original<'_>) -> PredictionKind {
    let name = file.path().file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let inputs = file.info(&format!("{}input_blocks.0.0.weight", prefix::UNET));
    let edits = inputs.is_some_and(|info| info.shape.get(1) != Some(&4));
    let words = ["base", "512", "inpaint", "depth", "turbo"];
    if edits || words.iter().any(|word| name.contains(word)) {
        return PredictionKind::Epsilon;
    }
    PredictionKind::V
}
