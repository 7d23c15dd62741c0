//! The grammar of `NAME:SPEC:SPEC`, see [`LoraRef::parse_flag`].

use super::{BlockWeights, LoraRef, StepWindow, Strength, blocks, check_weight};
use crate::error::{Error, Result};
use crate::suggest::did_you_mean;

/// Where a reference stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A value of its own, as of a flag or field.
    Flag,
    /// In `<lora:…>`.
    Tag,
}

impl Place {
    fn example(self) -> &'static str {
        match self {
            Place::Flag => "e.g. ink:0.8 or ink:unet=0.8,text=0.5:steps=0..0.6",
            Place::Tag => "e.g. <lora:ink:0.8> or <lora:ink:0.8:steps=0..0.6>",
        }
    }
}

/// The keys, their aliases behind them.
const KEYS: [(&str, &[&str]); 8] = [
    ("weight", &["w"]),
    ("unet", &[]),
    ("text", &["te"]),
    ("blocks", &["lbw"]),
    ("steps", &[]),
    ("start", &[]),
    ("stop", &[]),
    ("step", &[]),
];

/// Reads a whole reference.
pub(super) fn parse(text: &str, place: Place) -> Result<LoraRef> {
    let read = || {
        let (name, specs) = split(text);
        let name = if place == Place::Tag { name.trim() } else { name };
        check_name(name)?;
        let mut parts = Parts::default();
        specs.iter().try_for_each(|spec| parts.read(spec))?;
        parts.finish(name, place)
    };
    read().map_err(|error| {
        let why = match error {
            // The innermost value is more precise than the whole text.
            Error::BadRequest { value, why, .. } if value == text => why,
            Error::BadRequest { value, why, .. } => format!("`{value}`: {why}"),
            other => return other,
        };
        Error::bad_request("lora", text, format!("{why}; {}", place.example()))
    })
}

/// Reads the specifications alone.
pub(super) fn strength(text: &str) -> Result<Strength> {
    let mut parts = Parts::default();
    for spec in text.split(':') {
        if !is_spec(spec) {
            let why = "expected a weight or KEY=VALUE, e.g. 0.8 or unet=0.8,text=0.5:steps=0..0.6";
            return Err(Error::bad_request("lora", spec, why));
        }
        parts.read(spec)?;
    }
    Ok(parts.finish("", Place::Flag)?.strength(None))
}

/// Whether `name` can be a name: it is there, and none of it reads as a specification.
pub(super) fn check_name(name: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::bad_request("lora", name, why));
    if name.trim().is_empty() {
        return refuse("expected the name of a LoRA first");
    }
    if name.ends_with(':') {
        return refuse("expected a weight or KEY=VALUE behind the colon");
    }
    if split(name).0 != name {
        return refuse("expected a name alone, without weight and other settings");
    }
    Ok(())
}

/// The name and the specifications behind it, in their order.
fn split(text: &str) -> (&str, Vec<&str>) {
    let mut name = text;
    let mut specs = Vec::new();
    while let Some((rest, last)) = name.rsplit_once(':') {
        if !is_spec(last) {
            break;
        }
        specs.push(last);
        name = rest;
    }
    specs.reverse();
    (name, specs)
}

/// Whether a piece between colons is meant as a specification: a number, a preset, `word=…`.
fn is_spec(piece: &str) -> bool {
    let first = piece.split(',').next().unwrap_or_default().trim();
    let is_word = |key: &str| {
        let key = key.trim();
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphabetic())
    };
    first.parse::<f32>().is_ok()
        || blocks::is_preset(first)
        || first.split_once('=').is_some_and(|(key, _)| is_word(key))
}

/// The specifications that were read so far.
#[derive(Debug, Default)]
struct Parts<'a> {
    /// Numbers without a key.
    numbers: Vec<f32>,
    /// Key and value, each key once.
    named: Vec<(&'static str, String)>,
    /// The text of the last key, for messages.
    last: &'a str,
}

impl<'a> Parts<'a> {
    /// Reads one specification: pieces between commas, where one without `=` continues the value.
    fn read(&mut self, spec: &'a str) -> Result<()> {
        self.last = spec;
        let mut bare = String::new();
        let mut named: Vec<(&'static str, String)> = Vec::new();
        for piece in spec.split(',') {
            match (piece.split_once('='), named.last_mut()) {
                (Some((key, value)), _) => named.push((known(key)?, value.trim().to_owned())),
                (None, Some((_, value))) => *value = format!("{value},{}", piece.trim()),
                (None, None) if bare.is_empty() => piece.trim().clone_into(&mut bare),
                (None, None) => bare = format!("{bare},{}", piece.trim()),
            }
        }
        if bare.contains(',') || blocks::is_preset(&bare) {
            named.push(("blocks", bare));
        } else if !bare.is_empty() {
            self.numbers.push(number(&bare)?);
        }
        named.into_iter().try_for_each(|(key, value)| self.put(key, value))
    }

    fn put(&mut self, key: &'static str, value: String) -> Result<()> {
        if self.get(key).is_some() {
            return Err(Error::bad_request("lora", self.last, format!("`{key}` is given twice")));
        }
        self.named.push((key, value));
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.named.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str())
    }

    fn weight(&self, key: &str) -> Result<Option<f32>> {
        self.get(key).map(number).transpose()
    }

    fn finish(&self, name: &str, place: Place) -> Result<LoraRef> {
        let both = self.weight("weight")?;
        if both.is_some() && !self.numbers.is_empty() {
            return Err(Error::bad_request("lora", self.last, "the weight is given twice"));
        }
        let (unet, text) = match (&self.numbers[..], place) {
            ([], _) => (both, both),
            ([both], _) => (Some(*both), Some(*both)),
            ([text, unet], Place::Tag) => (Some(*unet), Some(*text)),
            (_, Place::Flag) => {
                let why = "several weights; write unet=X,text=X for different ones";
                return Err(Error::bad_request("lora", self.last, why));
            }
            (_, Place::Tag) => {
                let why =
                    "at most two weights (text encoder, UNet); a dynamic rank is not supported";
                return Err(Error::bad_request("lora", self.last, why));
            }
        };
        Ok(LoraRef {
            name: name.to_owned(),
            unet: self.weight("unet")?.or(unet),
            text: self.weight("text")?.or(text),
            blocks: self.get("blocks").map(str::parse::<BlockWeights>).transpose()?,
            steps: self.window()?,
        })
    }

    /// The steps, from the one spelling that was used.
    fn window(&self) -> Result<Option<StepWindow>> {
        let ends = (self.get("start"), self.get("stop"));
        let spellings =
            [self.get("steps").is_some(), self.get("step").is_some(), ends != (None, None)];
        if spellings.iter().filter(|used| **used).count() > 1 {
            let why = "the steps are given twice; write steps=A..B once";
            return Err(Error::bad_request("lora", self.last, why));
        }
        if let Some(text) = self.get("steps") {
            return text.parse().map(Some);
        }
        if let Some(text) = self.get("step") {
            let why = "expected step=A-B, or better steps=A..B";
            let bad = || Error::bad_request("step", text, why);
            let (start, stop) = text.split_once('-').ok_or_else(bad)?;
            return StepWindow::between(start, stop).map(Some);
        }
        match ends {
            (None, None) => Ok(None),
            (start, stop) => {
                let open = Option::unwrap_or_default;
                StepWindow::between(open(start), open(stop)).map(Some)
            }
        }
    }
}

/// The key that `key` means.
fn known(key: &str) -> Result<&'static str> {
    let key = key.trim();
    let is = |(name, aliases): &&(&str, &[&str])| *name == key || aliases.contains(&key);
    if let Some((name, _)) = KEYS.iter().find(is) {
        return Ok(name);
    }
    if key == "dyn" {
        let why = "a dynamic rank is not supported; leave it out or resize the file";
        return Err(Error::bad_request("lora", key, why));
    }
    let names = || KEYS.iter().map(|(name, _)| *name);
    let near = did_you_mean(key, names());
    let all: Vec<&str> = names().collect();
    let why = format!(
        "unknown setting{near}{} known: {}",
        if near.is_empty() { ";" } else { "" },
        all.join(", ")
    );
    Err(Error::bad_request("lora", key, why))
}

fn number(text: &str) -> Result<f32> {
    let bad = || Error::bad_request("lora", text, "expected a number; 1 is as trained");
    let weight = text.parse().map_err(|_| bad())?;
    check_weight(weight).map_err(|error| match error {
        Error::BadRequest { field, why, .. } => Error::bad_request(field, text, why),
        other => other,
    })
}
