//! Floor 5. How each family reads its text towers.

use super::{Family, ModelParts};
use crate::conditioning::{TextRules, TextTowers, Tower};
use crate::error::Result;
use crate::models::ClipTower;
use crate::weights::{Scope, WeightSource};

impl ModelParts {
    /// The family's way with text features.
    pub fn text_rules(&self) -> TextRules {
        let sdxl = matches!(self.family, Family::Sdxl | Family::SdxlRefiner);
        TextRules {
            // SDXL was trained on the layer before the last, without the final norm.
            base_skip: usize::from(sdxl),
            normalise: !sdxl,
            zero_empty_negative: self.force_zeros_for_empty_prompt,
            added: self.unet.addition_embed_type.is_some(),
            aesthetic: self.requires_aesthetics_score,
        }
    }

    /// Builds the text towers from `source`: the model's own weights, or these with adapters.
    ///
    /// # Errors
    /// What reading the weights or vocabularies gives.
    pub fn text_towers(&self, source: &dyn WeightSource) -> Result<TextTowers> {
        let towers = self
            .text
            .iter()
            .zip(&self.tokenizers)
            .zip(self.text_components().iter().copied())
            .map(|((config, tokenizer), component)| {
                let scope = Scope::new(source, component);
                Ok(Tower::new(ClipTower::new(&scope, config)?, tokenizer.open()?))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(TextTowers::new(towers, self.text_rules()))
    }
}
