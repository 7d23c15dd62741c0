//! How each family reads its text towers.

use super::ModelParts;
use crate::cancel::Cancel;
use crate::conditioning::{TextRules, TextTowers, Tokenizer, Tower};
use crate::error::{Error, Result};
use crate::models::ClipTower;
use crate::weights::{Scope, WeightSource};
use std::sync::{Arc, PoisonError};

impl ModelParts {
    /// The family's way with text features.
    pub fn text_rules(&self) -> TextRules {
        let spec = self.family.spec();
        TextRules {
            base_skip: spec.skipped_layers,
            normalise: spec.final_norm,
            zero_empty_negative: self.force_zeros_for_empty_prompt,
            added: self.unet.addition_embed_type.is_some(),
            aesthetic: self.requires_aesthetics_score,
        }
    }

    /// Builds the text towers from `source`: the model's own weights, or these with adapters.
    ///
    /// # Errors
    /// Errors of reading the weights or vocabularies.
    pub fn text_towers(&self, source: &dyn WeightSource) -> Result<TextTowers> {
        self.text_towers_until(source, &Cancel::new())
    }

    /// As [`text_towers`](Self::text_towers), until `cancel` is set: it is looked at between weights.
    ///
    /// # Errors
    /// [`Error::Cancelled`], and as [`text_towers`](Self::text_towers).
    pub fn text_towers_until(
        &self,
        source: &dyn WeightSource,
        cancel: &Cancel,
    ) -> Result<TextTowers> {
        let components = self.text_components();
        let towers = self
            .text
            .iter()
            .zip(components)
            .enumerate()
            .map(|(index, (config, component))| {
                let scope = Scope::new(source, component).until(cancel);
                // A vocabulary is the work of one core, and weights leave some idle.
                let (network, tokenizer) =
                    rayon::join(|| ClipTower::new(&scope, config), || self.tokenizer(index));
                Ok(Tower::new(network?, tokenizer?))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(TextTowers::new(towers, self.text_rules()))
    }

    /// The tokenizer of a text tower, opened once.
    ///
    /// # Errors
    /// As [`TokenizerSource::open`](super::TokenizerSource::open).
    pub fn tokenizer(&self, tower: usize) -> Result<Arc<Tokenizer>> {
        let opened = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(known)) = opened().get(tower) {
            return Ok(known.clone());
        }
        let source = self.tokenizers.get(tower).ok_or_else(|| {
            Error::Internal(format!("{} has no tokenizer for text tower {tower}", self.name))
        })?;
        let tokenizer = Arc::new(source.open()?);
        let mut opened = opened();
        if opened.len() <= tower {
            opened.resize(tower + 1, None);
        }
        opened[tower] = Some(tokenizer.clone());
        Ok(tokenizer)
    }
}
