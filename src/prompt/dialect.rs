//! Which program's syntax a prompt is written in.

use super::comments::{has_comments, without_comments};
use super::editing::Edited;
use super::parts::{self, Part};
use super::segment::{Segment, SyntaxError};
use super::{a1111, comfy};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The syntax of a prompt: which brackets and words of it are instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PromptSyntax {
    /// A1111's emphasis (`(x)`, `(x:1.2)`, `[x]`), edits (`[a:b:0.5]`, `[a|b]`) and `BREAK`; long prompts are divided
    /// at commas.
    #[default]
    A1111,
    /// ComfyUI's emphasis (`(x)`, `(x:1.2)`); long prompts are divided every 75 tokens.
    Comfy,
    /// None: every character is text, and what does not fit the text encoder's window is cut off, as diffusers does.
    Plain,
}

impl PromptSyntax {
    /// Every syntax, the default first.
    pub const ALL: [Self; 3] = [Self::A1111, Self::Comfy, Self::Plain];

    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::A1111 => "a1111",
            Self::Comfy => "comfy",
            Self::Plain => "plain",
        }
    }

    /// The pieces of `text`, which no edit changes any more, with their weights.
    ///
    /// # Errors
    /// [`SyntaxError`] as [`a1111::parse`] and [`comfy::parse`]; none for plain text.
    pub fn segments(self, text: &str) -> Result<Vec<Segment>, SyntaxError> {
        match self {
            Self::A1111 => a1111::parse(text),
            Self::Comfy => comfy::parse(text),
            Self::Plain => Ok(vec![Segment::new(text, 1.0)]),
        }
    }

    /// Whether nothing of `text` is an instruction: it means what it means as plain text.
    pub fn is_literal(self, text: &str) -> bool {
        match self {
            Self::A1111 => {
                let changes = Edited::new(text).changes() || has_comments(text);
                a1111::is_literal(text) && !changes && !self.is_composed(text)
            }
            Self::Comfy => comfy::is_literal(text),
            Self::Plain => true,
        }
    }

    /// A prompt as it is drawn: without comments, where the syntax has them.
    pub fn uncommented(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::A1111 => without_comments(text),
            Self::Comfy | Self::Plain => Cow::Borrowed(text),
        }
    }

    /// The parts of a prompt, each of which makes an estimate of its own; one in most prompts.
    ///
    /// In A1111's syntax `AND` divides, and a number behind a part's last colon is its weight. Without `AND` the number needs
    /// a fraction: `a cat:1.5` has a weight, `16:9` has none, although A1111 itself would take the nine for one.
    pub fn parts(self, prompt: &str) -> Vec<Part> {
        if self.is_composed(prompt) {
            return parts::split(prompt);
        }
        vec![Part { text: prompt.to_owned(), weight: 1.0 }]
    }

    /// Whether a prompt has several parts, or one with a weight.
    pub fn is_composed(self, prompt: &str) -> bool {
        self == Self::A1111 && (parts::is_divided(prompt) || parts::has_weight(prompt))
    }

    /// The texts of a run of `steps`: for each the last step, counted from 1, at which it is drawn.
    pub fn schedule(self, text: &str, steps: usize) -> Vec<(usize, String)> {
        match self {
            Self::A1111 => Edited::new(text).schedule(steps),
            Self::Comfy | Self::Plain => vec![(steps, text.to_owned())],
        }
    }
}

impl std::fmt::Display for PromptSyntax {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for PromptSyntax {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|syntax| text.eq_ignore_ascii_case(syntax.name()));
        found.ok_or_else(|| {
            Error::bad_request("prompt_syntax", text, "expected a1111, comfy or plain")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for syntax in PromptSyntax::ALL {
            assert_eq!(syntax.to_string().parse::<PromptSyntax>().unwrap(), syntax);
            let json = serde_json::to_string(&syntax).unwrap();
            assert_eq!(json, format!("\"{syntax}\""));
        }
        assert_eq!("A1111".parse::<PromptSyntax>().unwrap(), PromptSyntax::A1111);
        assert!("compel".parse::<PromptSyntax>().is_err());
    }

    #[test]
    fn literal_text_is_the_same_everywhere() {
        assert!(PromptSyntax::ALL.iter().all(|syntax| syntax.is_literal("a red apple, 4k :)")));
        assert!(!PromptSyntax::A1111.is_literal("[a|b]"));
        assert!(
            !PromptSyntax::A1111.is_literal("a AND b") && !PromptSyntax::A1111.is_literal("a:1.5")
        );
        assert_eq!(PromptSyntax::Comfy.parts("a AND b:2").len(), 1);
        assert!(PromptSyntax::Comfy.is_literal("[a|b]"));
    }
}
