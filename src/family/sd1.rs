//! SD 1.x and networks distilled from it: one CLIP-L tower, a UNet with eight heads everywhere.

use super::spec::{FamilySpec, Heads, TextTower};
use crate::conditioning::ClipKind;
use crate::models::{PerBlock, UNetConfig};
use crate::sampling::PredictionKind;
use crate::weights::Component;
use crate::weights::names::{TowerLocation, prefix};

/// Without the `transformer` that some converters left out.
const BARE: &str = "cond_stage_model.";

const fn clip_l(prefix: &'static str) -> TowerLocation {
    TowerLocation { component: Component::TextEncoder, prefix, open_clip: false }
}

pub(super) static SPEC: FamilySpec = FamilySpec {
    name: "SD 1.x",
    pipeline: "StableDiffusionPipeline",
    towers: &[TextTower {
        component: Component::TextEncoder,
        written: clip_l(prefix::SD1_TEXT),
        read: &[clip_l(prefix::SD1_TEXT), clip_l(BARE)],
        clip: ClipKind::OpenAi,
        width: 768,
        layers: 12,
        stored_layers: 12,
        projects: false,
    }],
    unet: || UNetConfig { cross_attention_dim: PerBlock::All(768), ..UNetConfig::default() },
    context: 768,
    sizes: false,
    linear_projection: Some(false),
    heads: Heads::Count(8),
    detect: |file| file.has(prefix::SD1_TEXT) || file.has("cond_stage_model.text_model."),
    prediction: |_| PredictionKind::Epsilon,
    native_side: |_| 512,
    // The inverse deviation of the latents, LDM paper, appendix.
    latent_scale: 0.18215,
    spacing: None,
    fixes_scheduler: true,
    guidance: 7.5,
    zero_negative: false,
    aesthetics_score: false,
    skipped_layers: 0,
    final_norm: true,
};
