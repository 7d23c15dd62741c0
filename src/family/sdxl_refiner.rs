//! SDXL refiner: OpenCLIP-bigG alone, with an aesthetic score.

use super::original::Original;
use super::sdxl;
use super::spec::{FamilySpec, Heads, TextTower, linear_unet};
use crate::conditioning::ClipKind;
use crate::models::{PerBlock, UNetConfig};
use crate::sampling::{PredictionKind, Spacing};
use crate::weights::Component;
use crate::weights::names::{TowerLocation, prefix};

/// Widths of OpenCLIP-H, the only tower of SD 2.x, and of OpenCLIP-bigG.
const OPEN_CLIP_H: usize = 1024;
const OPEN_CLIP_BIG_G: usize = 1280;

const TOWER: TowerLocation = TowerLocation {
    component: Component::TextEncoder2,
    prefix: prefix::REFINER_TEXT,
    open_clip: true,
};

pub(super) static SPEC: FamilySpec = FamilySpec {
    name: "SDXL refiner",
    pipeline: "StableDiffusionXLPipeline",
    towers: &[TextTower {
        component: Component::TextEncoder2,
        written: TOWER,
        read: &[TOWER],
        clip: ClipKind::OpenClip,
        width: OPEN_CLIP_BIG_G,
        layers: 32,
        stored_layers: 32,
        projects: true,
    }],
    unet,
    context: OPEN_CLIP_BIG_G,
    sizes: true,
    linear_projection: None,
    heads: Heads::Width(64),
    detect,
    prediction: |_| PredictionKind::Epsilon,
    native_side: |_| 1024,
    latent_scale: 0.13025,
    spacing: Some(Spacing::Leading),
    fixes_scheduler: false,
    guidance: 5.0,
    zero_negative: false,
    aesthetics_score: true,
    skipped_layers: 1,
    final_norm: false,
};

/// SD-Turbo, and SD 2.x in the layout of sgm, call their only tower as the refiner does: its width and the UNet's
/// sizes distinguish them.
fn detect(file: &Original<'_>) -> bool {
    if !file.has(prefix::REFINER_TEXT) || (sdxl::SPEC.detect)(file) {
        return false;
    }
    let width = file.info(&format!("{}ln_final.weight", prefix::REFINER_TEXT));
    let width = width.and_then(|info| info.shape.first().copied());
    let sizes = file.info(&format!("{}label_emb.0.0.weight", prefix::UNET)).is_some();
    match width {
        Some(OPEN_CLIP_H) => false,
        Some(OPEN_CLIP_BIG_G) | None => true,
        Some(_) => sizes,
    }
}

fn unet() -> UNetConfig {
    let strings = |names: [&str; 4]| names.map(str::to_owned).to_vec();
    UNetConfig {
        down_block_types: strings([
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ]),
        up_block_types: strings([
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "UpBlock2D",
        ]),
        transformer_layers_per_block: PerBlock::Each([4; 4].map(PerBlock::All).to_vec()),
        addition_embed_type: Some("text_time".into()),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(2560),
        ..linear_unet(1280, &[384, 768, 1536, 1536])
    }
}
