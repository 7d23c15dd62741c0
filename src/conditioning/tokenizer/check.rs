//! Whether a vocabulary, its merges and the words added to it belong together.
//!
//! CLIP's vocabulary follows from its merges: 256 byte symbols, the same at the end of a word, what each merge
//! makes in the order of the merges, and the tokens that are not text. Of a file that was cut, or belongs to
//! another, the tokenizer would give other ids without a word.

use super::{END_OF_WORD, Parts, byte_symbols};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};

/// Byte symbols, inside of a word and at its end.
const BYTES: usize = 2 * 256;

/// Checks what the networks and the `tokenizers` crate rely on.
pub(super) fn parts(parts: &Parts) -> Result<()> {
    ids(parts).map_err(|why| Error::corrupt(&parts.files.vocab, why))?;
    merges(parts).map_err(|why| Error::corrupt(&parts.files.merges, why))
}

/// Ids are each another one, and those of the vocabulary leave no gap.
fn ids(parts: &Parts) -> Result<(), String> {
    let Parts { vocab, added, .. } = parts;
    let count = vocab.len() + added.len();
    let mut seen: HashMap<u32, &str> = HashMap::with_capacity(count);
    for (token, &id) in vocab.iter().chain(added) {
        if let Some(other) = seen.insert(id, token) {
            let (first, second) = (other.min(token.as_str()), other.max(token.as_str()));
            return Err(format!("two tokens have the id {id}: `{first}` and `{second}`"));
        }
    }
    match vocab.iter().filter(|(_, id)| **id as usize >= count).min() {
        None => Ok(()),
        Some((token, id)) => {
            Err(format!("the id {id} of `{token}` is not below the {count} tokens"))
        }
    }
}

/// Every merge joins tokens to a token, and every token is a byte, a merge's or no text.
fn merges(parts: &Parts) -> Result<(), String> {
    let vocab = &parts.vocab;
    let in_order = has_clips_bytes(vocab);
    let mut made = HashSet::new();
    let mut whole = String::new();
    for (index, (left, right)) in parts.merges.iter().enumerate() {
        whole.clear();
        whole.extend([&**left, &**right]);
        for token in [left, right, &whole] {
            if !vocab.contains_key(token) {
                return Err(format!("a merge makes or takes `{token}`, which is not a token"));
            }
        }
        let found = vocab.get(&whole).copied().unwrap_or_default();
        let expected = BYTES + index;
        if in_order && found as usize != expected {
            return Err(format!(
                "the merge `{left} {right}` makes the token with the id {found}, expected {expected}; merges are missing before it, or it belongs to another vocabulary"
            ));
        }
        if !in_order && !made.insert(found) {
            return Err(format!("two merges make `{whole}`"));
        }
    }
    no_orphans(parts, &made, in_order)
}

/// Whether the vocabulary begins as CLIP's does.
fn has_clips_bytes(vocab: &HashMap<String, u32>) -> bool {
    let inside = byte_symbols().map(String::from);
    let ends = byte_symbols().map(|byte| format!("{byte}{END_OF_WORD}"));
    inside.chain(ends).zip(0..).all(|(token, id)| vocab.get(&token) == Some(&id))
}

/// Tokens before the first that is no text come from somewhere; what others appended stands behind it.
fn no_orphans(parts: &Parts, made: &HashSet<u32>, in_order: bool) -> Result<(), String> {
    let Parts { vocab, merges, added, extra, options, .. } = parts;
    let id = |token: &String| vocab.get(token).or_else(|| added.get(token)).copied();
    let Some(end) = id(&options.bos_token).into_iter().chain(id(&options.eos_token)).min() else {
        return Ok(());
    };
    if in_order && end as usize <= BYTES + merges.len() {
        return Ok(());
    }
    let bytes: HashSet<char> = byte_symbols().collect();
    let is_byte = |token: &str| {
        let mut symbols = token.strip_suffix(END_OF_WORD).unwrap_or(token).chars();
        symbols.next().is_some_and(|first| bytes.contains(&first)) && symbols.next().is_none()
    };
    let comes_from_merges = |id: u32| {
        if in_order { (id as usize) < BYTES + merges.len() } else { made.contains(&id) }
    };
    let orphan = |&(token, id): &(&String, &u32)| {
        let listed = || extra.iter().any(|special| special.content == *token);
        *id < end && !comes_from_merges(*id) && !is_byte(token) && !listed()
    };
    let orphans = vocab.iter().filter(orphan).count();
    let first = vocab.iter().filter(orphan).min_by_key(|(_, id)| **id);
    match first {
        None => Ok(()),
        Some((token, id)) => Err(format!(
            "no merge makes `{token}` (id {id}) and {} more of the {} tokens; the {} merges are not all of this vocabulary's",
            orphans - 1,
            vocab.len(),
            merges.len()
        )),
    }
}
