//! Dynamic prompts: one template becomes many prompts.
//!
//! `{a|b}` stands for one of its options, `__name__` for a value of a collection of wildcards, `${x=…}` for a variable. The
//! grammar is that of the Python package `dynamicprompts`, which the extension "Dynamic Prompts" of A1111 uses, and the same
//! seed gives the same prompt as there.
//!
//! * [`Template::all`] lists every prompt, in a stable order: what stands further right varies faster.
//! * [`Template::random`] draws prompts, which a seed reproduces.
//!
//! Where this differs from `dynamicprompts`: an unknown wildcard is an error and not text; `%` is text unless `{` follows;
//! `//` is text everywhere; an alternative that never ends (`{~a|b}`, `{@a|b}`) is taken once where all prompts are
//! listed and nothing else decides how often.

mod collections;
mod draw;
mod error;
mod parse;
mod permutations;
mod scope;
mod source;
mod tree;

pub use collections::{Collections, Value};
pub use error::ExpandError;

use crate::rng::PythonRandom;
use scope::Scope;
use source::{Source, World};
use std::sync::Arc;
use tree::{Method, Node};

/// A prompt with alternatives, read.
///
/// # Examples
/// ```
/// use colora::prompt::expand::{Collections, Template};
///
/// let mut wildcards = Collections::default();
/// wildcards.insert("colour", ["red", "green"]);
/// let template = Template::parse("a __colour__ {apple|pear}").unwrap();
/// let all: Result<Vec<String>, _> = template.all(&wildcards).collect();
/// assert_eq!(all.unwrap(), ["a green apple", "a green pear", "a red apple", "a red pear"]);
/// let one = template.random(&wildcards, 42).next().unwrap().unwrap();
/// assert_eq!(one, "a green pear");
/// ```
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    root: Arc<Node>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`ExpandError`] with the place of what has no meaning: an alternative or a wildcard that is not closed, a `$` without
    /// braces, more than 100 brackets in each other.
    pub fn parse(text: &str) -> Result<Self, ExpandError> {
        Ok(Self { text: text.to_owned(), root: parse::parse(text, None)? })
    }

    /// Whether the template is text alone: there is one prompt, which is that text without comments.
    pub fn is_text(&self) -> bool {
        matches!(*self.root, Node::Text(_))
    }

    /// Whether `__name__` occurs in the template, so that the collections matter.
    pub fn has_wildcards(&self) -> bool {
        self.root.has_wildcards()
    }

    /// Every prompt, one after the other. There may be very many: the caller takes as many as it can use.
    pub fn all<'a>(&self, wildcards: &'a Collections) -> Expansion<'a> {
        self.expansion(Method::All, wildcards, 0)
    }

    /// Prompts drawn at random, without an end. The first prompt of every seed is what [`Template::random`] of that seed
    /// begins with.
    pub fn random<'a>(&self, wildcards: &'a Collections, seed: u64) -> Expansion<'a> {
        self.expansion(Method::Random, wildcards, seed)
    }

    fn expansion<'a>(
        &self,
        method: Method,
        wildcards: &'a Collections,
        seed: u64,
    ) -> Expansion<'a> {
        let scope = Scope::new(method);
        let world = World::new(wildcards, PythonRandom::new(seed), &self.text);
        let source = draw::finite(&self.root, &scope, &world);
        Expansion { source, world }
    }
}

/// The prompts of a template, one after the other.
pub struct Expansion<'a> {
    source: Result<Box<dyn Source>, ExpandError>,
    world: World<'a>,
}

impl Expansion<'_> {
    /// Goes on with the random numbers of another seed, as the extension does between the pictures of one call.
    pub fn reseed(&mut self, seed: u64) {
        self.world.random = PythonRandom::new(seed);
    }
}

impl Iterator for Expansion<'_> {
    type Item = Result<String, ExpandError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.world.begin();
        let next = match &mut self.source {
            Ok(source) => self.world.next(&mut **source),
            Err(error) => Err(error.clone()),
        };
        if next.is_err() {
            // An error is the last item.
            self.source = Ok(Box::new(source::Nothing));
        }
        next.transpose()
    }
}

impl std::fmt::Debug for Expansion<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expansion").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
