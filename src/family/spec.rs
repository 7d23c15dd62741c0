//! The differences between the families of models: one value of [`FamilySpec`] per family, each in its own file.

use super::original::Original;
use crate::conditioning::ClipKind;
use crate::models::{ClipConfig, PerBlock, UNetConfig};
use crate::sampling::{PredictionKind, Spacing};
use crate::weights::Component;
use crate::weights::names::TowerLocation;

/// Everything about a family that does not depend on a model's files.
#[derive(Debug)]
pub(super) struct FamilySpec {
    /// The family in words.
    pub name: &'static str,
    /// The class of its pipeline in diffusers, as `model_index.json` names it.
    pub pipeline: &'static str,
    /// Its text encoders, in the order of their features.
    pub towers: &'static [TextTower],
    /// The UNet of its standard model.
    pub unet: fn() -> UNetConfig,
    /// Width of the text features that its UNet's cross-attention takes.
    pub context: usize,
    /// Whether its UNet takes pooled text and sizes beside the text's features.
    pub sizes: bool,
    /// Whether its UNet has linear layers around the transformers; `None` where families do not
    /// differ in that.
    pub linear_projection: Option<bool>,
    /// How its UNet's attentions are cut into heads.
    pub heads: Heads,
    /// Whether a single file with the names of the original code is of this family.
    pub detect: fn(&Original<'_>) -> bool,
    /// What the network of such a file predicts, where the file has no marker for it.
    pub prediction: fn(&Original<'_>) -> PredictionKind,
    /// Picture side that a single file was trained at, by what its network predicts.
    pub native_side: fn(PredictionKind) -> usize,
    /// Factor of its latents, which have deviation 1 behind it.
    pub latent_scale: f64,
    /// Spacing of timesteps that diffusers' converter writes into its scheduler's config.
    pub spacing: Option<Spacing>,
    /// Whether its pipeline in diffusers sets `steps_offset` and `clip_sample` whatever the scheduler's config holds.
    pub fixes_scheduler: bool,
    /// Default scale of classifier-free guidance.
    pub guidance: f64,
    /// Whether an empty negative prompt is a zero tensor unless the model's index holds another value.
    pub zero_negative: bool,
    /// Whether sizes end in an aesthetic score unless the model's index holds another value.
    pub aesthetics_score: bool,
    /// Layers that text features skip at the end of a tower.
    pub skipped_layers: usize,
    /// Whether features pass the tower's final norm.
    pub final_norm: bool,
}

impl FamilySpec {
    /// The text encoder that is the component `component`.
    pub(super) fn tower(&self, component: Component) -> Option<&TextTower> {
        self.towers.iter().find(|tower| tower.component == component)
    }

    /// Whether a model folder with this UNet and these text encoders is of this family.
    pub(super) fn fits(&self, unet: &UNetConfig, text: &[Component]) -> bool {
        let towers = self.towers.iter().map(|tower| tower.component);
        towers.eq(text.iter().copied())
            && self.sizes == unet.addition_embed_type.is_some()
            && self.linear_projection.is_none_or(|linear| linear == unet.use_linear_projection)
    }
}

/// How attentions are cut into heads, which the shapes of weights do not show.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heads {
    /// Every attention has this number of heads.
    Count(usize),
    /// Every head has this width.
    Width(usize),
}

impl Heads {
    /// Heads of an attention over `width` channels.
    pub(super) fn of(self, width: usize) -> usize {
        match self {
            Heads::Count(count) => count,
            Heads::Width(each) => (width / each).max(1),
        }
    }
}

/// A text encoder of a family.
#[derive(Debug)]
pub(super) struct TextTower {
    /// Which component it is.
    pub component: Component,
    /// Where it lies in a single file that is written.
    pub written: TowerLocation,
    /// Where it may lie in a single file that is read; of several that are there the last counts.
    pub read: &'static [TowerLocation],
    /// The vocabulary, and with it the activation, that it was trained with.
    pub clip: ClipKind,
    /// Width of the standard tower.
    pub width: usize,
    /// Layers of the standard tower that are used.
    pub layers: usize,
    /// Layers that a whole tower of that width has; those behind [`layers`](Self::layers) are never used.
    pub stored_layers: usize,
    /// Whether the pooled output is projected.
    pub projects: bool,
}

/// Head width of every CLIP text encoder.
pub(super) const CLIP_HEAD: usize = 64;

impl TextTower {
    /// The standard tower.
    pub(super) fn config(&self) -> ClipConfig {
        ClipConfig {
            hidden_size: self.width,
            intermediate_size: self.width * 4,
            num_hidden_layers: self.layers,
            num_attention_heads: self.width / CLIP_HEAD,
            projection_dim: self.width,
            architectures: vec![self.class().into()],
            ..ClipConfig::default()
        }
    }

    /// Its class in transformers.
    pub(super) fn class(&self) -> &'static str {
        if self.projects { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }
    }

    /// Its activation as configs name it.
    pub(super) fn activation(&self) -> &'static str {
        match self.clip {
            ClipKind::OpenAi => "quick_gelu",
            ClipKind::OpenClip => "gelu",
        }
    }
}

/// A UNet with linear projections and heads 64 wide, as SD 2.x and SDXL have.
///
/// `context`: width of the text features. `widths`: channels of each level.
pub(super) fn linear_unet(context: usize, widths: &[usize]) -> UNetConfig {
    UNetConfig {
        cross_attention_dim: PerBlock::All(context),
        use_linear_projection: true,
        attention_head_dim: PerBlock::Each(widths.iter().map(|width| width / CLIP_HEAD).collect()),
        block_out_channels: widths.to_vec(),
        ..UNetConfig::default()
    }
}
