//! SDXL base: CLIP-L and OpenCLIP-bigG, pooled text and sizes.

use super::spec::{FamilySpec, Heads, TextTower, linear_unet};
use crate::conditioning::ClipKind;
use crate::models::{PerBlock, UNetConfig};
use crate::sampling::{PredictionKind, Spacing};
use crate::weights::Component;
use crate::weights::names::{TowerLocation, prefix};

const fn clip_l(prefix: &'static str) -> TowerLocation {
    TowerLocation { component: Component::TextEncoder, prefix, open_clip: false }
}

const fn big_g(prefix: &'static str, open_clip: bool) -> TowerLocation {
    TowerLocation { component: Component::TextEncoder2, prefix, open_clip }
}

pub(super) static SPEC: FamilySpec = FamilySpec {
    name: "SDXL",
    pipeline: "StableDiffusionXLPipeline",
    towers: &[
        TextTower {
            component: Component::TextEncoder,
            written: clip_l(prefix::SDXL_TEXT),
            // The first is stable-diffusion.cpp's.
            read: &[clip_l(prefix::SD1_TEXT), clip_l(prefix::SDXL_TEXT)],
            clip: ClipKind::OpenAi,
            width: 768,
            layers: 12,
            stored_layers: 12,
            projects: false,
        },
        TextTower {
            component: Component::TextEncoder2,
            written: big_g(prefix::SDXL_TEXT_2, true),
            read: &[big_g(prefix::GGML_TEXT_2, false), big_g(prefix::SDXL_TEXT_2, true)],
            clip: ClipKind::OpenClip,
            width: 1280,
            layers: 32,
            stored_layers: 32,
            projects: true,
        },
    ],
    unet,
    context: 2048,
    sizes: true,
    linear_projection: None,
    heads: Heads::Width(64),
    detect: |file| file.has(prefix::SDXL_TEXT_2) || file.has(prefix::GGML_TEXT_2),
    prediction: |_| PredictionKind::Epsilon,
    native_side: |_| 1024,
    latent_scale: 0.13025,
    spacing: Some(Spacing::Leading),
    fixes_scheduler: false,
    // The SDXL report's and diffusers' own default.
    guidance: 5.0,
    zero_negative: true,
    aesthetics_score: false,
    // It was trained on the layer before the last, without the final norm.
    skipped_layers: 1,
    final_norm: false,
};

fn unet() -> UNetConfig {
    let strings = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    UNetConfig {
        down_block_types: strings(["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]),
        up_block_types: strings(["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
        transformer_layers_per_block: PerBlock::Each([1, 2, 10].map(PerBlock::All).to_vec()),
        addition_embed_type: Some("text_time".into()),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(2816),
        ..linear_unet(2048, &[320, 640, 1280])
    }
}
