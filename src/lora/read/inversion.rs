//! Textual inversions that travel in an adapter file: new words with vectors of their own.

use crate::error::{Error, Result};
use crate::lora::factor::Factor;
use crate::weights::{CheckpointFile, Component};
use std::collections::BTreeMap;

/// How keys of bundled embeddings begin.
pub(in crate::lora) const PREFIX: &str = "bundle_emb.";
/// What an original embedding file may call its tensor, behind the word's name.
const INNER: [&str; 4] = [".string_to_param.*", ".emb_params", ".clip_l", ".clip_g"];
/// Tensors of embedding files that are no vectors of a new word: token numbers, and vectors that are put behind
/// the text encoder.
const OTHER: [&str; 3] = [".string_to_token.*", ".clip_l_out", ".clip_g_out"];

/// A new word and its vectors.
#[derive(Debug, Clone)]
pub struct Inversion {
    /// The word as it is written in prompts.
    pub token: String,
    parts: BTreeMap<Component, Factor>,
}

impl Inversion {
    /// A word with a tensor of vectors for each text encoder.
    pub(in crate::lora) fn new(token: String, parts: BTreeMap<Component, Factor>) -> Self {
        Self { token, parts }
    }

    /// The vectors for the text encoder `component`, row by row, and their number.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for vectors that are no finite numbers.
    pub fn vectors(&self, component: Component) -> Result<Option<(Vec<f32>, usize)>> {
        let Some(factor) = self.parts.get(&component) else { return Ok(None) };
        let count = if factor.shape().len() < 2 { 1 } else { factor.dim(0) };
        Ok(Some((factor.read()?, count)))
    }

    /// Reads every vector once.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for vectors that are no finite numbers.
    pub fn check(&self) -> Result<()> {
        self.parts.values().try_for_each(|factor| factor.read().map(drop))
    }

    /// Whether every number of its vectors is finite.
    pub(in crate::lora) fn is_finite(&self) -> Result<bool> {
        self.parts.values().try_fold(true, |finite, factor| Ok(finite && factor.is_finite()?))
    }

    /// How many vectors the word has.
    pub fn len(&self) -> usize {
        let count = |f: &Factor| if f.shape().len() < 2 { 1 } else { f.dim(0) };
        self.parts.values().map(count).max().unwrap_or(0)
    }

    /// Whether the word has no vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vectors' tensors by text encoder.
    pub(in crate::lora) fn factors(&self) -> &BTreeMap<Component, Factor> {
        &self.parts
    }

    /// The text encoders that the word has vectors for.
    pub fn components(&self) -> impl Iterator<Item = Component> {
        self.parts.keys().copied()
    }
}

/// The words of `file`, with the keys that hold them.
///
/// `width`: width of a text encoder's token table; `None` when the base has no such encoder.
///
/// # Errors
/// [`Error::Corrupt`] for vectors of another width, and for whole numbers.
pub(in crate::lora) fn read(
    file: &CheckpointFile,
    width: impl Fn(Component) -> Option<usize>,
) -> Result<(Vec<Inversion>, Vec<String>)> {
    read_words(file, width, false)
}

/// The words of a file in which every key is one.
pub(in crate::lora) fn read_plain(
    file: &CheckpointFile,
    width: impl Fn(Component) -> Option<usize>,
) -> Result<(Vec<Inversion>, Vec<String>)> {
    read_words(file, width, true)
}

fn read_words(
    file: &CheckpointFile,
    width: impl Fn(Component) -> Option<usize>,
    all: bool,
) -> Result<(Vec<Inversion>, Vec<String>)> {
    let mut words: BTreeMap<String, BTreeMap<Component, Factor>> = BTreeMap::new();
    let mut used = Vec::new();
    for key in file.names() {
        let bundled = key.strip_prefix(PREFIX);
        let (token, component) = if let Some(rest) = bundled {
            let Some(found) = bundled_word(rest) else { continue };
            found
        } else if all || file.metadata().get(key).is_some_and(|value| value == "<embed>") {
            (key, Component::TextEncoder)
        } else {
            continue;
        };
        let Some(factor) = Factor::new(file, key) else { continue };
        let Some(needed) = width(component) else { continue };
        let found = factor.shape().last().copied().unwrap_or(0);
        if found != needed || factor.shape().len() > 2 || token.is_empty() {
            // Beside the layers of an adapter it is no reason to refuse them.
            if bundled.is_some() {
                continue;
            }
            let shape = factor.shape();
            let why = format!(
                "the embedding `{key}` has shape {shape:?}, the text encoder is {needed} wide"
            );
            return Err(Error::corrupt(file.path(), why));
        }
        if let Some(dtype) = factor.whole_numbers() {
            let why =
                format!("the embedding `{key}` holds whole numbers ({dtype}), expected floats");
            return Err(Error::corrupt(file.path(), why));
        }
        used.push(key.to_owned());
        words.entry(token.to_owned()).or_default().insert(component, factor);
    }
    let words = words.into_iter().map(|(token, parts)| Inversion { token, parts }).collect();
    Ok((words, used))
}

/// The word of a bundled embedding, `word`, `word.clip_l` or `word.any name of a single tensor`, and the text
/// encoder that it is for.
fn bundled_word(rest: &str) -> Option<(&str, Component)> {
    if OTHER.iter().any(|other| rest.ends_with(other)) {
        return None;
    }
    if let Some(token) = rest.strip_suffix(".clip_g") {
        return Some((token, Component::TextEncoder2));
    }
    let inner = INNER.iter().find_map(|inner| rest.strip_suffix(inner));
    let first = || rest.split_once('.').map_or(rest, |(token, _)| token);
    Some((inner.unwrap_or_else(first), Component::TextEncoder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_bundled_embeddings() {
        for (rest, found) in [
            ("mytok", Some(("mytok", Component::TextEncoder))),
            ("mytok.string_to_param.*", Some(("mytok", Component::TextEncoder))),
            ("my.tok.emb_params", Some(("my.tok", Component::TextEncoder))),
            ("mytok.clip_l", Some(("mytok", Component::TextEncoder))),
            ("mytok.clip_g", Some(("mytok", Component::TextEncoder2))),
            ("mytok.<s1>", Some(("mytok", Component::TextEncoder))),
            ("mytok.clip_g_out", None),
            ("mytok.string_to_token.*", None),
        ] {
            assert_eq!(bundled_word(rest), found, "{rest}");
        }
    }
}
