//! What is wrong with a template, and where.

use std::ops::Range;

/// A part of a template that has no meaning, or a prompt that cannot be made of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct ExpandError {
    /// The template, or the value of a wildcard in which the mistake stands.
    pub text: String,
    /// The bytes of `text` that are wrong.
    pub span: Range<usize>,
    /// The collection whose value `text` is; nothing where `text` is the template itself.
    pub collection: Option<String>,
    /// What is wrong and how to write it instead.
    pub why: String,
}

/// The text that a mistake may stand in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) text: String,
    pub(super) collection: Option<String>,
}

impl Origin {
    /// An error at `span` of this text.
    pub(super) fn error(&self, span: Range<usize>, why: impl Into<String>) -> ExpandError {
        let Self { text, collection } = self.clone();
        ExpandError { text, span, collection, why: why.into() }
    }
}
