//! New words: textual inversions whose vectors stand where the word stands in a prompt.

use super::{TextTowers, Tokenizer, Tower};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// A word with vectors of its own.
#[derive(Debug, Clone)]
pub struct InversionVectors {
    /// The word as it is written in prompts; case does not matter.
    pub token: String,
    /// For each text tower its vectors, `[n, D]`.
    pub vectors: Vec<Option<Tensor>>,
}

/// The ids that stand for a word in one tower.
#[derive(Debug, Clone)]
pub(super) struct InversionTokens {
    token: String,
    ids: Vec<u32>,
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
                tower.words.push(InversionTokens { token: word.token.clone(), ids });
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
    pub(super) fn ids(&self, text: &str) -> Vec<u32> {
        self.groups(text).into_iter().flat_map(|(ids, _)| ids).collect()
    }

    /// As [`ids`](Self::ids), in groups: whether one is a new word, whose vectors stay together.
    pub(super) fn groups(&self, text: &str) -> Vec<(Vec<u32>, bool)> {
        let mut groups = Vec::new();
        let mut rest = text;
        while let Some((at, word)) = self.first_word(rest) {
            groups.push((self.tokenizer.encode(&rest[..at]), false));
            groups.push((word.ids.clone(), true));
            rest = &rest[at + word.token.len()..];
        }
        groups.push((self.tokenizer.encode(rest), false));
        groups
    }

    fn first_word(&self, text: &str) -> Option<(usize, &InversionTokens)> {
        let found = self.words.iter().filter_map(|word| Some((find(text, &word.token)?, word)));
        found.min_by_key(|(at, _)| *at)
    }
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
