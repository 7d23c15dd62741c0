//! A template as a tree.

use super::error::{ExpandError, Origin};
use std::ops::Range;
use std::sync::Arc;

/// How alternatives are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// All of them, one after the other: `!`.
    All,
    /// By chance: `~`.
    Random,
    /// In turns: `@`.
    Cyclic,
}

impl Method {
    /// The method that the sign before a name or an alternative asks for.
    pub(super) fn of(sign: char) -> Option<Self> {
        match sign {
            '!' => Some(Self::All),
            '~' => Some(Self::Random),
            '@' => Some(Self::Cyclic),
            _ => None,
        }
    }

    /// Whether taking alternatives by this method never ends.
    pub(super) fn is_endless(self) -> bool {
        self != Self::All
    }
}

/// Where something stands in a text. It takes no part in comparisons: the same words at two places are equal, and look so.
#[derive(Clone)]
pub(super) struct Place {
    origin: Arc<Origin>,
    span: Range<usize>,
}

impl Place {
    pub(super) fn new(origin: &Arc<Origin>, span: Range<usize>) -> Self {
        Self { origin: Arc::clone(origin), span }
    }

    pub(super) fn error(&self, why: impl Into<String>) -> ExpandError {
        self.origin.error(self.span.clone(), why)
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Text that stays as it is.
    Text(String),
    /// Parts that follow each other; none, or two and more.
    Sequence(Vec<Arc<Node>>),
    /// `{a|b}`
    Choice(Choice),
    /// `__name__`
    Wildcard(Wildcard),
    /// `${x=value}`
    Assign(Assign),
    /// `${x}`, `${x:otherwise}`
    Variable { name: String, otherwise: Option<Arc<Node>>, place: Place },
    /// `%{before … after$$inner}`
    Wrap { around: Arc<Node>, inner: Arc<Node> },
}

/// `{2-3$$, $$0.5::a|b}`
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) method: Option<Method>,
    pub(super) options: Vec<Weighed>,
    pub(super) bounds: Bounds,
    pub(super) place: Place,
}

/// How many options are taken at once, and what stands between them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bounds {
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) separator: String,
}

impl Bounds {
    /// These bounds where there are `count` options.
    pub(super) fn within(&self, count: usize) -> Self {
        let separator = self.separator.clone();
        Self { least: self.least.min(count), most: self.most.min(count), separator }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { least: 1, most: 1, separator: ",".into() }
    }
}

/// An option and how likely it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weighed {
    pub(super) node: Arc<Node>,
    pub(super) weight: f64,
}

/// `__~name(x=red)__`
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wildcard {
    pub(super) method: Option<Method>,
    pub(super) name: Arc<Node>,
    pub(super) variables: Vec<(String, Arc<Node>)>,
    pub(super) place: Place,
}

/// `${x?=!value}`
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assign {
    pub(super) name: String,
    pub(super) value: Arc<Node>,
    /// Whether the value is drawn once, and not at each use.
    pub(super) at_once: bool,
    /// Whether a value from outside stays.
    pub(super) keeps: bool,
}

impl Node {
    /// The method that the part itself asks for.
    pub(super) fn method(&self) -> Option<Method> {
        match self {
            Self::Choice(choice) => choice.method,
            Self::Wildcard(wildcard) => wildcard.method,
            _ => None,
        }
    }

    /// The parts that this one is made of.
    fn parts(&self) -> Vec<&Arc<Node>> {
        match self {
            Self::Text(_) => Vec::new(),
            Self::Sequence(parts) => parts.iter().collect(),
            Self::Choice(choice) => choice.options.iter().map(|option| &option.node).collect(),
            Self::Wildcard(wildcard) => vec![&wildcard.name],
            Self::Assign(assign) => vec![&assign.value],
            Self::Variable { otherwise, .. } => otherwise.iter().collect(),
            Self::Wrap { around, inner } => vec![around, inner],
        }
    }

    /// Whether there is a wildcard in it.
    pub(super) fn has_wildcards(&self) -> bool {
        matches!(self, Self::Wildcard(_))
            || self.parts().into_iter().any(|part| part.has_wildcards())
    }
}
