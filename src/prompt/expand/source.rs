//! Sources of texts, which give one after the other.

use super::collections::Collections;
use super::error::{ExpandError, Origin};
use crate::rng::PythonRandom;

/// Most steps between two prompts. Templates are short, but what they describe may be huge.
const MOST_WORK: u64 = 2_000_000;
/// Longest text that may arise, in bytes.
const LONGEST: usize = 1 << 20;

/// Something that gives texts.
pub(super) trait Source {
    /// The next text; nothing at the end, and then nothing for ever.
    fn next(&mut self, world: &mut World<'_>) -> Result<Option<String>, ExpandError>;
}

/// What all sources of a template share.
pub(super) struct World<'a> {
    pub(super) collections: &'a Collections,
    pub(super) random: PythonRandom,
    /// Steps since the last prompt.
    work: u64,
    origin: Origin,
}

impl<'a> World<'a> {
    pub(super) fn new(collections: &'a Collections, random: PythonRandom, text: &str) -> Self {
        let origin = Origin { text: text.to_owned(), collection: None };
        Self { collections, random, work: 0, origin }
    }

    /// Begins another prompt.
    pub(super) fn begin(&mut self) {
        self.work = 0;
    }

    /// The next text of `source`.
    pub(super) fn next(&mut self, source: &mut dyn Source) -> Result<Option<String>, ExpandError> {
        self.step()?;
        source.next(self)
    }

    /// Counts a step.
    pub(super) fn step(&mut self) -> Result<(), ExpandError> {
        self.work += 1;
        if self.work > MOST_WORK {
            return Err(self.error("this template takes too many steps until its next prompt"));
        }
        Ok(())
    }

    /// An error of the template as a whole.
    pub(super) fn error(&self, why: &str) -> ExpandError {
        self.origin.error(0..self.origin.text.len(), why)
    }

    /// The texts with `separator` between them, which is left out at both ends.
    pub(super) fn joined(&self, texts: &[String], separator: &str) -> Result<String, ExpandError> {
        let length: usize = texts.iter().map(|text| text.len() + separator.len()).sum();
        if length > LONGEST {
            return Err(self.error("a prompt of this template is longer than a million characters"));
        }
        if let [one] = texts {
            return Ok(one.clone());
        }
        let joined = texts.join(separator);
        if separator.is_empty() {
            return Ok(joined);
        }
        let joined = joined.strip_prefix(separator).unwrap_or(&joined);
        Ok(joined.strip_suffix(separator).unwrap_or(joined).to_owned())
    }
}

/// No text.
pub(super) struct Nothing;

impl Source for Nothing {
    fn next(&mut self, _: &mut World<'_>) -> Result<Option<String>, ExpandError> {
        Ok(None)
    }
}

/// One text, once or again and again.
pub(super) struct Fixed {
    pub(super) text: String,
    /// How often it comes; for ever where this is nothing.
    pub(super) left: Option<usize>,
}

impl Source for Fixed {
    fn next(&mut self, _: &mut World<'_>) -> Result<Option<String>, ExpandError> {
        match &mut self.left {
            Some(0) => return Ok(None),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(Some(self.text.clone()))
    }
}

/// The first text of a source that never ends.
pub(super) struct First(pub(super) Option<Box<dyn Source>>);

impl Source for First {
    fn next(&mut self, world: &mut World<'_>) -> Result<Option<String>, ExpandError> {
        self.0.take().map_or(Ok(None), |mut source| world.next(&mut *source))
    }
}
