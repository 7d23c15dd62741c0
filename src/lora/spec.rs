//! How a user names a LoRA and chooses how strongly, where and when it works.
//!
//! One grammar for flags, prompts, stacks and requests; no file is looked at.

mod blocks;
mod grammar;
mod steps;
#[cfg(test)]
mod tests;

pub use blocks::{Block, BlockFactors, BlockWeights, Layout};
pub use steps::StepWindow;

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Largest weight that is accepted, either sign; 1 is as trained, useful ones stay below 5.
pub const MAX_WEIGHT: f32 = 100.0;

/// Extensions that a tag leaves out.
const EXTENSIONS: [&str; 4] = [".safetensors", ".pt", ".bin", ".ckpt"];

/// How strongly, where and when an adapter works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strength {
    /// Factor on the UNet's part; 1 = as trained.
    pub unet: f32,
    /// Factor on the text encoders' part.
    pub text: f32,
    /// Factors by block of the network; `None` = 1 everywhere.
    pub blocks: Option<BlockWeights>,
    /// Sampling steps at which it works; `None` = all.
    pub steps: Option<StepWindow>,
}

impl Default for Strength {
    fn default() -> Self {
        Self { unet: 1.0, text: 1.0, blocks: None, steps: None }
    }
}

impl Strength {
    /// Checks values that were not read from text.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a weight that is not finite or beyond [`MAX_WEIGHT`].
    pub fn validate(&self) -> Result<()> {
        [self.unet, self.text].into_iter().try_for_each(|weight| check_weight(weight).map(drop))
    }
}

/// A LoRA as a user asks for it.
///
/// The fields that the user left out are `None`; [`strength`](Self::strength) fills them. In JSON
/// and TOML `weight` may stand for equal `unet` and `text`, and `blocks` and `steps` are texts as on
/// the command line.
///
/// # Examples
/// ```
/// use colora::lora::LoraRef;
/// let lora: LoraRef = "ink:0.8:steps=0..0.6".parse().unwrap();
/// assert_eq!((lora.name.as_str(), lora.unet, lora.text), ("ink", Some(0.8), Some(0.8)));
/// assert_eq!(lora.to_string(), "ink:0.8:steps=0..0.6");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct LoraRef {
    /// A name, a path or `hub:owner/name`.
    pub name: String,
    /// Factor on the UNet's part.
    pub unet: Option<f32>,
    /// Factor on the text encoders' part.
    pub text: Option<f32>,
    /// Factors by block.
    pub blocks: Option<BlockWeights>,
    /// Steps at which it works.
    pub steps: Option<StepWindow>,
}

/// The keys of a [`LoraRef`] in JSON and TOML.
pub(crate) const KEYS: [&str; 6] = ["name", "weight", "unet", "text", "blocks", "steps"];

impl LoraRef {
    /// A LoRA without any specification but its name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Reads what `--lora` takes: `NAME[:SPEC]…`.
    ///
    /// The text is read from the right as long as a piece between colons is a specification, so that
    /// names may hold colons. A specification is a number (both weights), the name of a block
    /// preset, or `KEY=VALUE` with commas between: `unet`, `text` (or `te`), `weight` (or `w`),
    /// `blocks` (or `lbw`), `steps=A..B`, `start`, `stop`, `step=A-B`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] with an example.
    pub fn parse_flag(text: &str) -> Result<Self> {
        grammar::parse(text, grammar::Place::Flag)
    }

    /// Reads the body of a `<lora:BODY>` tag: as [`parse_flag`](Self::parse_flag), but two numbers
    /// are the weights of text encoder and UNet, in this order, as A1111 has them.
    ///
    /// `te=` alone leaves the UNet's weight open; A1111 would use it for both.
    ///
    /// # Errors
    /// [`Error::BadRequest`] with an example.
    pub fn parse_tag(body: &str) -> Result<Self> {
        grammar::parse(body, grammar::Place::Tag)
    }

    /// Checks values that were not read from text.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a name that is empty or has settings in it, and as
    /// [`Strength::validate`].
    pub fn validate(&self) -> Result<()> {
        grammar::check_name(&self.name)?;
        self.strength(None).validate()
    }

    /// The strength to use; `recommended` is the weight for what the user left open, 1 without one.
    pub fn strength(&self, recommended: Option<f32>) -> Strength {
        let usual = recommended.unwrap_or(1.0);
        Strength {
            unet: self.unet.unwrap_or(usual),
            text: self.text.unwrap_or(usual),
            blocks: self.blocks.clone(),
            steps: self.steps,
        }
    }

    /// The body of the tag that A1111 reads: the name of the file without folders and extension, and the weights of
    /// the text encoders and of the UNet, one when they are equal.
    pub fn tag(&self) -> String {
        let last = self.name.rsplit(['/', '\\']).next().unwrap_or(&self.name);
        let stem = EXTENSIONS.iter().find_map(|end| last.strip_suffix(end)).unwrap_or(last);
        let Self { name: _, unet, text, blocks, steps } = self.clone();
        let mut tag = match (text, unet) {
            (Some(text), Some(unet)) if text != unet => format!("{stem}:{text}:{unet}"),
            _ => return Self { name: stem.to_owned(), unet, text, blocks, steps }.to_string(),
        };
        for (key, value) in
            [("blocks", blocks.map(|b| b.to_string())), ("steps", steps.map(|s| s.to_string()))]
        {
            tag.extend(value.map(|value| format!(":{key}={value}")));
        }
        tag
    }

    /// Returns the LoRA with every specification of `strength`.
    #[must_use]
    pub fn with_strength(self, strength: Strength) -> Self {
        let Strength { unet, text, blocks, steps } = strength;
        Self { name: self.name, unet: Some(unet), text: Some(text), blocks, steps }
    }
}

impl FromStr for LoraRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse_flag(text)
    }
}

impl fmt::Display for LoraRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (self.unet, self.text) {
            (Some(unet), Some(text)) if unet == text => write!(f, ":{unet}")?,
            (Some(unet), Some(text)) => write!(f, ":unet={unet},text={text}")?,
            (Some(unet), None) => write!(f, ":unet={unet}")?,
            (None, Some(text)) => write!(f, ":text={text}")?,
            (None, None) => {}
        }
        self.blocks.iter().try_for_each(|blocks| write!(f, ":blocks={blocks}"))?;
        self.steps.iter().try_for_each(|steps| write!(f, ":steps={steps}"))
    }
}

impl fmt::Display for Strength {
    /// Writes the specifications of a [`LoraRef`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = LoraRef::default().with_strength(self.clone()).to_string();
        f.write_str(named.trim_start_matches(':'))
    }
}

impl FromStr for Strength {
    type Err = Error;

    /// Reads what [`LoraRef::parse_flag`] takes behind the name; weights that are left out are 1.
    fn from_str(text: &str) -> Result<Self> {
        grammar::strength(text)
    }
}

/// `weight` when it can be one.
///
/// # Errors
/// [`Error::BadRequest`] for what is not finite or beyond [`MAX_WEIGHT`].
pub fn check_weight(weight: f32) -> Result<f32> {
    let refuse = |why: &str| Err(Error::bad_request("lora", weight, why));
    if !weight.is_finite() {
        return refuse("expected a finite number, e.g. 0.8; 1 is as trained");
    }
    if weight.abs() > MAX_WEIGHT {
        return refuse("expected at most 100 either way; 1 is as trained, and 80 % is 0.8");
    }
    Ok(weight)
}

/// A [`LoraRef`] as JSON and TOML have it; the weights are `f64` so that 0.8 is written as 0.8.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unet: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocks: Option<BlockWeights>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<StepWindow>,
}

impl TryFrom<Written> for LoraRef {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let Written { name, weight, unet, text, blocks, steps } = written;
        grammar::check_name(&name)?;
        let checked = |weight: Option<f64>| weight.map(|w| check_weight(w as f32)).transpose();
        let (unet, text) = (checked(unet.or(weight))?, checked(text.or(weight))?);
        Ok(Self { name, unet, text, blocks, steps })
    }
}

impl From<LoraRef> for Written {
    fn from(lora: LoraRef) -> Self {
        let LoraRef { name, unet, text, blocks, steps } = lora;
        let (unet, text) = (unet.map(short), text.map(short));
        let weight = unet.filter(|_| unet == text);
        let rest = |value: Option<f64>| value.filter(|_| weight.is_none());
        Self { name, weight, unet: rest(unet), text: rest(text), blocks, steps }
    }
}

/// The `f64` that is written as the shortest text that gives back `value`: 0.8, not 0.800000012.
pub(crate) fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
