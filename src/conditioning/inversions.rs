//! New words: textual inversions whose vectors stand where the word stands in a prompt.

use super::{TextTowers, Tokenizer, Tower};
use crate::error::{Error, Result};
use crate::prompt::PromptSyntax;
use candle_core::Tensor;

/// A word with vectors of its own.
#[derive(Debug, Clone)]
pub struct InversionVectors {
    /// The word as it is written in prompts; case does not matter.
    pub token: String,
    /// For each text tower its vectors, `[n, D]`.
    pub vectors: Vec<Option<Tensor>>,
    /// Whether it comes from a file of its own, which prompts call as A1111 and ComfyUI do; the words of LoRAs are
    /// called wherever their characters stand.
    pub own_file: bool,
}

/// The ids that stand for a word in one tower.
#[derive(Debug, Clone)]
pub(super) struct InversionTokens {
    token: String,
    ids: Vec<u32>,
    /// The ids of its characters, when it comes from a file of its own.
    own: Option<Vec<u32>>,
}

impl TextTowers {
    /// These towers, knowing `words` too.
    ///
    /// # Errors
    /// [`Error::Tensor`] for vectors of another width, [`Error::Corrupt`] for a tokenizer that gives the ids of
    /// new words to others.
    pub fn with_inversions(mut self, words: &[InversionVectors]) -> Result<Self> {
        for (index, tower) in self.towers.iter_mut().enumerate() {
            let mut rows = Vec::new();
            let mut next = tower.network.vocabulary();
            for word in words {
                let Some(vectors) = word.vectors.get(index).cloned().flatten() else { continue };
                let count = vectors.dim(0)?;
                let ids = (next..next + count).filter_map(|id| u32::try_from(id).ok()).collect();
                let own = word.own_file.then(|| tower.tokenizer.encode(&word.token));
                tower.words.push(InversionTokens { token: word.token.clone(), ids, own });
                next += count;
                rows.push(vectors);
            }
            // Longer words before those that they contain.
            tower.words.sort_by_key(|word| std::cmp::Reverse(word.token.len()));
            if !rows.is_empty() {
                let (theirs, known) = (tower.tokenizer.vocab_size(), tower.network.vocabulary());
                if theirs > known {
                    let why =
                        format!("the vocabulary has {theirs} tokens, the text encoder {known}");
                    return Err(Error::corrupt(tower.tokenizer.origin(), why));
                }
                tower.network = tower.network.with_tokens(&Tensor::cat(&rows, 0)?)?;
            }
        }
        Ok(self)
    }
}

/// What a tower reads texts with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    /// New words, the longest first.
    pub(super) words: &'a [InversionTokens],
    /// Tokens of a window, start and end included.
    pub(super) window: usize,
}

impl Tower {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { tokenizer: &self.tokenizer, words: &self.words, window: self.window() }
    }
}

impl Reader<'_> {
    /// The ids of a text, without start, end and padding.
    pub(super) fn ids(&self, text: &str, syntax: PromptSyntax) -> Vec<u32> {
        self.groups(text, syntax).into_iter().flat_map(|(ids, _)| ids).collect()
    }

    /// As [`ids`](Self::ids), in groups: whether one is a new word, whose vectors stay together.
    pub(super) fn groups(&self, text: &str, syntax: PromptSyntax) -> Vec<(Vec<u32>, bool)> {
        let mut groups = Vec::new();
        let mut rest = text;
        while let Some((at, word)) = self.first_word(rest) {
            self.with_files(&rest[..at], syntax, &mut groups);
            groups.push((word.ids.clone(), true));
            rest = &rest[at + word.token.len()..];
        }
        self.with_files(rest, syntax, &mut groups);
        groups
    }

    /// The first word of a LoRA.
    fn first_word(&self, text: &str) -> Option<(usize, &InversionTokens)> {
        let bundled = self.words.iter().filter(|word| word.own.is_none());
        let found = bundled.filter_map(|word| Some((find(text, &word.token)?, word)));
        found.min_by_key(|(at, _)| *at)
    }

    /// The groups of a text with words from files of their own.
    fn with_files(&self, text: &str, syntax: PromptSyntax, groups: &mut Vec<(Vec<u32>, bool)>) {
        if self.words.iter().all(|word| word.own.is_none()) {
            groups.push((self.tokenizer.encode(text), false));
        } else if syntax == PromptSyntax::Comfy {
            self.named(text, groups);
        } else {
            self.by_ids(text, groups);
        }
    }

    /// A1111's rule: where the ids of a word stand it is meant, and the longest of several.
    fn by_ids(&self, text: &str, groups: &mut Vec<(Vec<u32>, bool)>) {
        let ids = self.tokenizer.encode(text);
        let (mut plain, mut at) = (Vec::new(), 0);
        while at < ids.len() {
            let begins = |word: &&InversionTokens| {
                word.own.as_ref().is_some_and(|own| !own.is_empty() && ids[at..].starts_with(own))
            };
            if let Some(word) = self.words.iter().filter(begins).max_by_key(|word| length(word)) {
                groups.push((std::mem::take(&mut plain), false));
                groups.push((word.ids.clone(), true));
                at += length(word);
            } else {
                plain.push(ids[at]);
                at += 1;
            }
        }
        groups.push((plain, false));
    }

    /// ComfyUI's rule: `embedding:NAME` behind a space; a name that is unknown stands for nothing.
    fn named(&self, text: &str, groups: &mut Vec<(Vec<u32>, bool)>) {
        const CALL: &str = "embedding:";
        let mut rest = text;
        let mut at = if text.starts_with(CALL) { Some(0) } else { call(text) };
        while let Some(start) = at {
            groups.push((self.tokenizer.encode(rest[..start].trim_end()), false));
            rest = &rest[start + CALL.len()..];
            let next = call(rest);
            let piece = next.map_or(rest, |next| &rest[..next]);
            let name = piece.split_whitespace().next().unwrap_or_default();
            let behind = piece.trim_start().get(name.len()..).unwrap_or_default();
            let known = |name: &str| {
                let bare = EXTENSIONS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
                self.words.iter().find(|word| word.own.is_some() && word.token == bare)
            };
            let plain = name.trim_end_matches(',');
            let commas = if known(name).is_some() { "" } else { &name[plain.len()..] };
            if let Some(word) = known(name).or_else(|| known(plain)) {
                groups.push((word.ids.clone(), true));
            }
            groups.push((self.tokenizer.encode(&format!("{commas} {behind}")), false));
            rest = next.map_or("", |next| &rest[next..]);
            at = next.map(|_| 0);
        }
        groups.push((self.tokenizer.encode(rest), false));
    }
}

/// How many tokens the characters of a word are.
fn length(word: &InversionTokens) -> usize {
    word.own.as_ref().map_or(0, Vec::len)
}

/// Extensions that a name may have.
const EXTENSIONS: [&str; 3] = [".safetensors", ".pt", ".bin"];

/// Where a call of an embedding begins behind a space or a line break.
fn call(text: &str) -> Option<usize> {
    let places = text.match_indices("embedding:").map(|(at, _)| at);
    places.into_iter().find(|at| text[..*at].ends_with([' ', '\n']))
}

/// Where `word` stands in `text` by itself, not as a part of a longer one.
fn find(text: &str, word: &str) -> Option<usize> {
    let apart = |inside: Option<char>, outside: Option<char>| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !(letter(inside) && letter(outside))
    };
    text.char_indices().map(|(at, _)| at).find(|&at| {
        let same = text.get(at..at + word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
        same && !word.is_empty()
            && apart(word.chars().next(), text[..at].chars().next_back())
            && apart(word.chars().next_back(), text[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn words_stand_apart() {
        assert_eq!(find("a Cat sat", "cat"), Some(2));
        assert_eq!(find("concatenate a cat", "cat"), Some(14));
        assert_eq!(find("<s1><s2>", "<s2>"), Some(4));
        assert_eq!(find("é <s1>x", "<s1>"), Some(3));
        assert_eq!(find("cats", "cat"), None);
        assert_eq!(find("cat", ""), None);
    }
}
