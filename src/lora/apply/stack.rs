//! A stack: which adapters act, how strongly, and how they are put together.

use crate::error::Result;
use crate::lora::Dictionary;
use crate::lora::Inversion;
use crate::lora::Lora;
use crate::lora::Method;
use crate::lora::spec::{Block, BlockFactors, Layout, Strength};
use crate::weights::Component;
use crate::weights::names::UNetNames;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// One adapter of a stack.
#[derive(Debug, Clone)]
pub struct StackEntry {
    /// The adapter.
    pub lora: Arc<Lora>,
    /// How strongly, where and when it acts.
    pub strength: Strength,
}

/// Adapters and the way they are put together: a value, compared by what it does.
#[derive(Debug, Clone, Default)]
pub struct LoraStack {
    /// The adapters, in the user's order.
    pub entries: Vec<StackEntry>,
    /// How they are put together.
    pub method: Method,
    /// New words from files of their own.
    pub embeddings: Vec<Arc<Inversion>>,
    /// The identity of these.
    pub embeddings_key: String,
}

impl LoraStack {
    /// A stack of adapters whose changes are added.
    pub fn new(entries: Vec<StackEntry>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// Whether nothing acts.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.embeddings.is_empty()
    }

    /// Whether the set of acting adapters changes during sampling.
    pub fn varies(&self) -> bool {
        self.method.is_apart() || self.entries.iter().any(|entry| entry.strength.steps.is_some())
    }

    /// The stack as it acts on the UNet at `step` (from 0) of `steps`.
    ///
    /// Text encoders are not asked about steps: features are computed once.
    #[must_use]
    pub fn at_step(&self, step: usize, steps: usize) -> Self {
        let mut stack = self.clone();
        if let Method::Switch { period } = self.method {
            let turn = (step / period.max(1)) % self.entries.len().max(1);
            stack.entries = self.entries.get(turn).cloned().into_iter().collect();
            stack.method = Method::Sum;
        }
        let acts = |entry: &StackEntry| {
            entry.strength.steps.is_none_or(|window| window.active(step, steps))
        };
        stack.entries.retain(acts);
        stack.entries.iter_mut().for_each(|entry| entry.strength.steps = None);
        stack
    }

    /// The stack as far as it acts on text encoders: their changes and new words.
    #[must_use]
    pub fn text_part(&self) -> Self {
        let acts = |entry: &StackEntry| {
            let changes = entry.lora.modules().any(|module| !in_unet(module));
            !entry.lora.inversions().is_empty() || changes && entry.strength.text != 0.0
        };
        self.part(acts, |strength| strength.unet = 0.0)
    }

    /// The stack as far as it acts on the UNet.
    #[must_use]
    pub fn unet_part(&self) -> Self {
        let acts = |entry: &StackEntry| {
            let changes = entry.lora.modules().any(in_unet);
            changes && entry.strength.unet != 0.0
        };
        let part = self.part(acts, |strength| strength.text = 0.0);
        Self { embeddings: Vec::new(), embeddings_key: String::new(), ..part }
    }

    fn part(&self, acts: impl Fn(&StackEntry) -> bool, cut: impl Fn(&mut Strength)) -> Self {
        let mut part = self.clone();
        part.entries.retain(acts);
        part.entries.iter_mut().for_each(|entry| cut(&mut entry.strength));
        part
    }

    /// Each adapter by itself, for methods that keep them apart.
    pub fn apart(&self) -> Vec<Self> {
        let alone = |entry: &StackEntry| Self::new(vec![entry.clone()]);
        self.entries.iter().map(alone).collect()
    }

    /// An identity of what the stack does to weights; equal stacks make equal weights.
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<String> = self
            .entries
            .iter()
            .map(|entry| format!("{} {}", entry.lora.fingerprint(), entry.strength))
            .collect();
        if !self.method.is_ordered() {
            lines.sort();
        }
        let text = format!("{:?}\n{}{}", self.method, lines.join("\n"), self.embeddings_key);
        crate::plain::hex(&Sha256::digest(text.as_bytes()))
    }

    /// The new words of all adapters.
    ///
    /// Two adapters may bring the same word (case does not matter); which of them counts depends on their
    /// contents alone, as sums do.
    pub fn words(&self) -> Words<'_> {
        let mut words = Words::default();
        let mut known = Vec::new();
        for place in self.by_content() {
            let lora = &*self.entries[place].lora;
            // The same file twice brings nothing new.
            if known.contains(&lora.fingerprint()) {
                continue;
            }
            known.push(lora.fingerprint());
            for word in lora.inversions() {
                let same = |other: &&Inversion| other.token.eq_ignore_ascii_case(&word.token);
                if words.used.iter().any(same) {
                    words.lost.push((lora.name(), word.token.as_str()));
                } else {
                    words.used.push(word);
                }
            }
        }
        for word in &self.embeddings {
            // A LoRA was trained with its own word.
            let same = |other: &&Inversion| other.token.eq_ignore_ascii_case(&word.token);
            if words.used.iter().any(same) {
                words.lost.push(("embeddings".to_owned(), word.token.as_str()));
            } else {
                words.files.push(word);
            }
        }
        words
    }

    /// Places of the adapters, sorted by content: an order that does not depend on the user's.
    pub(in crate::lora) fn by_content(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_cached_key(|i| {
            let entry = &self.entries[*i];
            (entry.lora.fingerprint().to_owned(), entry.strength.to_string())
        });
        order
    }

    /// The multipliers of every adapter by component and block, checked against the base.
    ///
    /// # Errors
    /// [`Error::BadRequest`](crate::Error::BadRequest) for block weights of another layout.
    pub(in crate::lora) fn multipliers<'a>(
        &'a self,
        base: &'a Dictionary,
    ) -> Result<Vec<Multiplier<'a>>> {
        self.entries.iter().map(|entry| Multiplier::new(&entry.strength, base)).collect()
    }
}

/// Whether the strength for the UNet, and not the one for text encoders, is that of `module`.
fn in_unet(module: &str) -> bool {
    Component::of(module) == Component::UNet
}

/// The new words of a stack.
#[derive(Debug, Default)]
pub struct Words<'a> {
    /// Those that stand in prompts.
    pub used: Vec<&'a Inversion>,
    /// Those from files of their own.
    pub files: Vec<&'a Inversion>,
    /// Adapters and words of theirs that another adapter brings too, and whose vectors are not used.
    pub lost: Vec<(String, &'a str)>,
}

impl Words<'_> {
    /// A warning for each of the words that are not used.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|(lora, word)| {
            format!("{lora}: another LoRA brings the word `{word}` too; this one's is not used")
        })
    }
}

/// The final multiplier of one adapter, by module.
#[derive(Debug)]
pub(in crate::lora) struct Multiplier<'a> {
    strength: &'a Strength,
    blocks: Option<BlockFactors>,
    names: &'a UNetNames,
}

impl<'a> Multiplier<'a> {
    fn new(strength: &'a Strength, base: &'a Dictionary) -> Result<Self> {
        let layout = || Layout::of(base.names()).unwrap_or(Layout::Sd);
        let blocks = strength.blocks.as_ref().map(|blocks| blocks.factors(layout())).transpose()?;
        Ok(Self { strength, blocks, names: base.names() })
    }

    /// Strength of the component times the block's factor.
    pub(in crate::lora) fn of(&self, module: &str) -> f32 {
        let whole = if in_unet(module) { self.strength.unet } else { self.strength.text };
        match &self.blocks {
            Some(factors) => whole * factors.factor(Block::of(module, self.names)),
            None => whole,
        }
    }
}
