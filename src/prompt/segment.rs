//! What a prompt with weights is read as: pieces of text, each with its weight.

use std::ops::Range;

/// The word that ends a chunk of tokens.
pub(super) const BREAK: &str = "BREAK";

/// A piece of a prompt whose tokens have one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The text, without brackets and escapes; `BREAK` for the end of a chunk.
    pub text: String,
    /// How strongly its tokens act; 1 = as they are.
    pub weight: f64,
    /// Whether the prompt ends a chunk of tokens here. Within brackets A1111 takes the word for text with a negative
    /// weight; see [`is_exact_break`](Self::is_exact_break).
    pub is_break: bool,
}

/// A part of a prompt that has no meaning, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct SyntaxError {
    /// Bytes of the prompt that are wrong.
    pub span: Range<usize>,
    /// What is wrong and how to write it instead.
    pub why: &'static str,
}

impl Segment {
    /// Text with a weight.
    pub fn new(text: impl Into<String>, weight: f64) -> Self {
        Self { text: text.into(), weight, is_break: false }
    }

    /// The end of a chunk, as A1111 marks it.
    pub(super) fn end_of_chunk() -> Self {
        Self { text: BREAK.into(), weight: -1.0, is_break: true }
    }

    /// Whether A1111 itself ends a chunk here: it compares the text and the weight, which brackets multiply.
    pub fn is_exact_break(&self) -> bool {
        self.text == BREAK && is_same(self.weight, -1.0)
    }

    /// Whether the weight is that of text without brackets.
    pub fn is_plain(&self) -> bool {
        is_same(self.weight, 1.0)
    }
}

/// Equality of weights: numbers that were written, or made by the same products.
#[allow(clippy::float_cmp)] // that is what is meant
pub(super) fn is_same(a: f64, b: f64) -> bool {
    a == b
}

/// Joins neighbours of equal weight: their text is tokenized as one.
pub(super) fn merged(segments: Vec<Segment>) -> Vec<Segment> {
    let mut out: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments {
        match out.last_mut() {
            Some(last) if is_same(last.weight, segment.weight) => {
                last.text.push_str(&segment.text);
                last.is_break = false;
            }
            _ => out.push(segment),
        }
    }
    out
}
