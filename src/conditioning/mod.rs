//! From words to the features that a UNet listens to.
//!
//! Floor 5.

mod chunks;
mod inversions;
mod micro;
mod texts;
mod tokenizer;
mod weighting;

pub use chunks::Chunk;
pub use inversions::InversionVectors;
pub use micro::{Crop, Micro, Told, ToldSize};
pub use texts::{Schedules, Text, Texts, Wording};
pub use tokenizer::{ClipKind, Tokenizer, TokenizerFiles, TokenizerOptions};

use crate::error::{Error, Result};
use crate::models::{AddedCondition, ClipTower};
use crate::prompt::{PromptSyntax, Segment};
use crate::size::ImageSize;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Everything that conditions the network on texts.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Text features, `[B, T, D]`: the prompts, one or several, behind the negative prompt where guidance is on.
    pub context: Tensor,
    /// How much each of the prompts counts: one number for a row of `context`, none for the negative prompt. `[1]` for a
    /// prompt alone.
    pub weights: Vec<f64>,
    /// Pooled text and sizes, SDXL only.
    pub added: Option<AddedCondition>,
}

/// How a family reads its text towers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRules {
    /// Layers left out of the features at `clip_skip` 1: 0 for SD 1.x and 2.x, 1 for SDXL.
    pub base_skip: usize,
    /// Whether features pass the tower's final norm.
    pub normalise: bool,
    /// Whether an empty negative prompt is a zero tensor instead of an encoded empty text.
    pub zero_empty_negative: bool,
    /// Whether the network takes pooled text and sizes.
    pub added: bool,
    /// Whether the sizes are the refiner's: original size, crop and aesthetic score.
    pub aesthetic: bool,
}

/// One text tower with its tokenizer.
#[derive(Debug)]
pub struct Tower {
    /// The network.
    pub network: ClipTower,
    /// Its vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// New words, the longest first.
    words: Vec<inversions::InversionTokens>,
}

/// The text side of a model.
#[derive(Debug)]
pub struct TextTowers {
    towers: Vec<Tower>,
    rules: TextRules,
}

impl Tower {
    /// A tower without new words.
    pub fn new(network: ClipTower, tokenizer: Arc<Tokenizer>) -> Self {
        Self { network, tokenizer, words: Vec::new() }
    }

    /// Looks for ids that the network does not know: its vocabulary is another one.
    fn check(&self, ids: &[Vec<u32>]) -> Result<()> {
        let known = self.network.vocabulary();
        match ids.iter().flatten().find(|id| **id as usize >= known) {
            None => Ok(()),
            Some(id) => Err(Error::corrupt(
                self.tokenizer.origin(),
                format!(
                    "the text has a token with the id {id}, and the text encoder knows {known}; the vocabulary and the text encoder do not belong together"
                ),
            )),
        }
    }

    /// Tokens that are encoded at once.
    fn window(&self) -> usize {
        self.tokenizer.max_length().min(self.network.window())
    }
}

impl TextTowers {
    /// The text side from its towers, in the order of their features.
    pub fn new(towers: Vec<Tower>, rules: TextRules) -> Self {
        Self { towers, rules }
    }

    /// The chunks of a text that was read as `segments`, with the ids of tower number `tower`; new words have ids behind
    /// its vocabulary. None when there is no such tower.
    pub fn chunks_of(
        &self,
        tower: usize,
        segments: &[Segment],
        syntax: PromptSyntax,
    ) -> Vec<Chunk> {
        self.towers.get(tower).map(|t| t.reader().chunks(segments, syntax)).unwrap_or_default()
    }

    /// How many tokens of `prompt`, as plain text, do not fit the window; 0 when all do.
    pub fn overflow(&self, prompt: &str) -> usize {
        let excess = |tower: &Tower| {
            let tokens = tower.reader().ids(prompt, PromptSyntax::Plain).len();
            tokens.saturating_sub(tower.window().saturating_sub(2))
        };
        self.towers.iter().map(excess).max().unwrap_or(0)
    }

    /// What each of `prompts` prompts is told, behind the negative prompt where it is `guided`: `[B, 6 | 5]`.
    fn told(
        &self,
        micro: &Micro,
        size: ImageSize,
        (guided, prompts): (bool, usize),
        device: &Device,
    ) -> Result<Tensor> {
        let row = |negative| micro.row(negative, size, self.rules.aesthetic);
        let mut rows = vec![row(true); usize::from(guided)];
        rows.resize(rows.len() + prompts, row(false));
        Ok(Tensor::new(rows, device)?)
    }

    /// Refuses towers whose features would not lie side by side.
    fn check_windows(&self) -> Result<()> {
        let Some(first) = self.towers.first() else { return Ok(()) };
        match self.towers.iter().find(|tower| tower.window() != first.window()) {
            None => Ok(()),
            Some(other) => Err(Error::corrupt(
                other.tokenizer.origin(),
                format!(
                    "it reads {} tokens at once, and the other text encoder {}; expected one `model_max_length` of both",
                    other.window(),
                    first.window()
                ),
            )),
        }
    }
}

impl Conditioning {
    /// The first prompt's part alone.
    pub fn positive(&self) -> Result<Self> {
        self.prompt(0)
    }

    /// The part of prompt `number`, from 0, alone.
    pub fn prompt(&self, number: usize) -> Result<Self> {
        let behind = self.weights.len().saturating_sub(number);
        self.one(self.context.dim(0)?.saturating_sub(behind))
    }

    /// The negative prompt's part alone; the prompt's when there is no other.
    pub fn negative(&self) -> Result<Self> {
        self.one(0)
    }

    /// Every row `times` times behind each other: the same texts for several images.
    pub fn repeated(&self, times: usize) -> Result<Self> {
        if times == 1 {
            return Ok(self.clone());
        }
        self.each(|x| {
            let mut shape = x.dims().to_vec();
            shape.insert(1, times);
            Ok(x.unsqueeze(1)?.broadcast_as(shape)?.flatten(0, 1)?)
        })
    }

    fn one(&self, index: usize) -> Result<Self> {
        let one = self.each(|x| Ok(x.narrow(0, index, 1)?))?;
        Ok(Self { weights: vec![1.0], ..one })
    }

    /// The conditioning with `change` made to each of its tensors.
    fn each(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let Self { context, weights, added } = self;
        let added = match added {
            Some(AddedCondition { pooled, micro }) => {
                Some(AddedCondition { pooled: change(pooled)?, micro: change(micro)? })
            }
            None => None,
        };
        Ok(Self { context: change(context)?, weights: weights.clone(), added })
    }

    /// The conditioning in another float type; sizes stay f32 because they are embedded in it.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        let added = match &self.added {
            Some(added) => Some(AddedCondition {
                pooled: added.pooled.to_dtype(dtype)?,
                micro: added.micro.clone(),
            }),
            None => None,
        };
        let weights = self.weights.clone();
        Ok(Self { context: self.context.to_dtype(dtype)?, weights, added })
    }
}
