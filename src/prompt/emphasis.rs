//! What A1111's emphasis does with the weights that it reads: its setting "Emphasis mode".

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What is done with the weights of A1111's syntax.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Emphasis {
    /// Features are multiplied, and their mean stays.
    #[default]
    Original,
    /// Features are multiplied.
    NoNorm,
    /// Brackets are read and weights left out; `BREAK` divides.
    Ignore,
    /// Brackets are text, and `BREAK` is a word.
    None,
}

impl Emphasis {
    /// Every mode, the default first.
    pub const ALL: [Self; 4] = [Self::Original, Self::NoNorm, Self::Ignore, Self::None];

    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::NoNorm => "no-norm",
            Self::Ignore => "ignore",
            Self::None => "none",
        }
    }

    /// Its name in A1111's settings and pictures.
    pub fn label(self) -> &'static str {
        match self {
            Self::Original => "Original",
            Self::NoNorm => "No norm",
            Self::Ignore => "Ignore",
            Self::None => "None",
        }
    }

    /// Whether it is the default, which is not written.
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for it
    pub(crate) fn is_original(&self) -> bool {
        *self == Self::Original
    }
}

impl std::fmt::Display for Emphasis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Emphasis {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is = |mode: &Self| {
            text.eq_ignore_ascii_case(mode.name()) || text.eq_ignore_ascii_case(mode.label())
        };
        Self::ALL.into_iter().find(is).ok_or_else(|| {
            Error::bad_request("emphasis", text, "expected original, no-norm, ignore or none")
        })
    }
}
