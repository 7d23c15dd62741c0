//! How many tokens the prompts of a plan have.

use super::{Pipeline, Plan};
use crate::error::Result;
use serde::Serialize;

/// The tokens of a text, as the first text encoder counts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// The field of a request that holds the text.
    pub field: &'static str,
    /// The tokens of each chunk, at least one; each is encoded by itself. Start, end and padding do not count.
    pub chunks: Vec<usize>,
    /// Tokens that a chunk takes.
    pub room: usize,
}

impl Pipeline {
    /// The tokens of the texts of `plan`: of those that follow each other in a prompt the one with most chunks and tokens, of
    /// a prompt with several parts each part. Words that LoRAs bring along are counted as the text that they are.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) for a vocabulary that cannot be read.
    pub fn tokens(&self, plan: &Plan) -> Result<Vec<TokenCount>> {
        let tokenizer = self.model.parts.tokenizer(0)?;
        let room = tokenizer.max_length().saturating_sub(2);
        let syntax = plan.prompt_syntax;
        let count = |field: &'static str, text: &str| {
            let chunks = |(_, text): (usize, String)| -> Vec<usize> {
                // What is no syntax was refused when the plan was made.
                let segments = syntax.segments(&text).unwrap_or_default();
                let chunks = tokenizer.chunks(&segments, syntax);
                chunks.iter().map(|chunk| chunk.ids.len()).collect()
            };
            let texts = syntax.schedule(text, plan.steps).into_iter().map(chunks);
            let longest = texts.max_by_key(|chunks| (chunks.len(), chunks.iter().sum::<usize>()));
            TokenCount { field, chunks: longest.unwrap_or_default(), room }
        };
        let parts = syntax.parts(&plan.prompt);
        let mut found: Vec<TokenCount> =
            parts.iter().map(|part| count("prompt", &part.text)).collect();
        found.push(count("negative_prompt", &plan.negative_prompt));
        Ok(found)
    }
}
