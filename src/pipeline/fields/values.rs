//! How values of fields are read from text and written as text.

use crate::error::{Error, Result};
use crate::lora::LoraRef;
use crate::pipeline::{GuidanceInterval, Request};
use crate::prompt::PromptSyntax;
use crate::sampling::SamplerOptions;
use crate::size::ImageSize;
use serde_json::Value;
use std::str::FromStr;

/// Pixels above which a picture may be decoded in tiles by itself, on one machine or another.
const LARGE: usize = 1 << 20;

/// The text of a value, if there is one.
pub(super) fn some(value: Option<impl ToString>) -> Vec<String> {
    value.map(|value| value.to_string()).into_iter().collect()
}

/// Tiles when they are wanted; that they are not only where some would be made without a word.
pub(super) fn tile(request: &Request) -> Vec<String> {
    let large = request.width.zip(request.height).is_some_and(|(w, h)| w * h > LARGE);
    some(request.tile.filter(|tile| *tile || large))
}

/// The syntax of prompts; plain only where it is not the default's own reading. No token is shorter than a byte, so short
/// prompts fit any text encoder.
pub(super) fn prompt_syntax(request: &Request) -> Vec<String> {
    const SHORT: usize = 75;
    let same = |text: &String| text.len() <= SHORT && PromptSyntax::default().is_literal(text);
    let implied = same(&request.prompt) && same(&request.negative_prompt);
    let written = |syntax: &PromptSyntax| *syntax != PromptSyntax::Plain || !implied;
    some(request.prompt_syntax.filter(written))
}

/// An error about the text of a flag, which names the flag itself.
pub(super) fn unread(text: &str, why: impl Into<String>) -> Error {
    Error::bad_request("", text, why)
}

pub(super) fn json(value: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Internal(format!("a request: {error}")))
}

#[allow(clippy::unnecessary_wraps)] // as the other readers
pub(super) fn text(text: &str) -> Result<Value> {
    Ok(text.into())
}

pub(super) fn count(text: &str) -> Result<Value> {
    text.parse::<usize>().map(Value::from).map_err(|error| unread(text, error.to_string()))
}

pub(super) fn number(text: &str) -> Result<Value> {
    let number = text.parse::<f64>().map_err(|error| unread(text, error.to_string()))?;
    // JSON has no such numbers, and no range here holds one.
    if number.is_finite() {
        Ok(number.into())
    } else {
        Err(unread(text, "expected a finite number"))
    }
}

pub(super) fn options(text: &str) -> Result<Value> {
    json(text.parse::<SamplerOptions>()?)
}

pub(super) fn switch(text: &str) -> Result<Value> {
    text.parse::<bool>().map(Value::from).map_err(|error| unread(text, error.to_string()))
}

/// A seed; `random`, which is null, has one drawn. -1 is what other programs call it.
pub(super) fn seed(text: &str) -> Result<Value> {
    if ["random", "-1"].contains(&text) {
        return Ok(Value::Null);
    }
    let why = "expected a whole number from 0 to 18446744073709551615, or `random`";
    text.parse::<u64>().map(Value::from).map_err(|_| unread(text, why))
}

pub(super) fn size(text: &str) -> Result<Value> {
    let size: ImageSize = text.parse()?;
    Ok(Value::from(vec![size.width(), size.height()]))
}

pub(super) fn lora(text: &str) -> Result<Value> {
    json(LoraRef::parse_flag(text)?)
}

/// A part of the run; its error without the name of the field, which may be that of a LoRA's window.
pub(super) fn window(text: &str) -> Result<Value> {
    parsed::<GuidanceInterval>(text).map_err(|error| match error {
        Error::BadRequest { why, .. } => unread(text, why),
        other => other,
    })
}

pub(super) fn parsed<T: FromStr<Err = Error> + serde::Serialize>(text: &str) -> Result<Value> {
    json(text.parse::<T>()?)
}
