//! Textual inversions that the prompts of a plan call.

use super::Plan;
use super::event::Watch;
use super::model::Model;
use super::warning::Warning;
use crate::error::Result;
use crate::lora::{Embedding, LoraStack};
use crate::weights::Component;
use std::path::PathBuf;
use std::sync::Arc;

impl Model {
    /// A stack of the textual inversions alone whose words may stand in the prompts of `plan`.
    ///
    /// # Errors
    /// What reading their files gives.
    pub(super) fn embeddings(&self, plan: &Plan, watch: Watch<'_>) -> Result<LoraStack> {
        let mut stack = LoraStack::default();
        for (_, path) in self.called(&[plan.prompt.as_str(), plan.negative_prompt.as_str()]) {
            watch.check()?;
            let embedding = Embedding::open(&path)?;
            let found = embedding.inversion(|component| self.width(component))?;
            if found.is_empty() {
                let shapes: Vec<String> =
                    embedding.shapes().iter().map(|(_, width)| width.to_string()).collect();
                let text = format!(
                    "the embedding `{}` is not used: its vectors are {} wide, and no text encoder of this model is",
                    embedding.word,
                    shapes.join(" and ")
                );
                watch.warn(Warning::Stack { text });
                continue;
            }
            stack.embeddings_key.push_str(&embedding.fingerprint());
            stack.embeddings.push(Arc::new(found));
        }
        Ok(stack)
    }

    /// The textual inversions whose words may stand in `texts`: case and spaces do not matter.
    pub(super) fn called(&self, texts: &[&str]) -> Vec<(String, PathBuf)> {
        let mut all = self.resolver.embeddings();
        let plain = |text: &str| -> String {
            let kept = |c: &char| !c.is_whitespace() && *c != '\\';
            text.to_lowercase().chars().filter(kept).collect()
        };
        let texts: Vec<String> = texts.iter().map(|text| plain(text)).collect();
        all.retain(|(word, _)| {
            let word = plain(word);
            !word.is_empty() && texts.iter().any(|text| text.contains(&word))
        });
        all
    }

    /// The width of the token table of a text encoder.
    fn width(&self, component: Component) -> Option<usize> {
        let components = self.parts.text_components();
        let place = components.iter().position(|known| *known == component)?;
        self.parts.text.get(place).map(|config| config.hidden_size)
    }
}
