//! How settings with numbers are written: a value, and numbers by name behind a colon: `3:adaptive=0.1`.
//!
//! Floor 0.

use crate::error::{Error, Result};
use crate::suggest::did_you_mean;

/// The parts of a setting's text.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// The field that errors name.
    field: &'static str,
    /// What stands before the first colon.
    pub(crate) head: &'a str,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Settings<'a> {
    /// The parts of `text`; names that are not among `known` are refused.
    pub(crate) fn read(field: &'static str, text: &'a str, known: &[&'static str]) -> Result<Self> {
        let (head, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut named = Vec::new();
        for part in rest.split([',', ':']).map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim());
            if !known.contains(&name) {
                let near = did_you_mean(name, known.iter().copied());
                let why = format!("expected {}{near}", known.join(", "));
                return Err(Error::bad_request(field, name, why));
            }
            named.push((name, value));
        }
        Ok(Self { field, head: head.trim(), named })
    }

    /// The text behind `name`.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.named.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// The number behind `name`, or `default`, between `least` and `most`.
    pub(crate) fn number(&self, name: &str, default: f64, least: f64, most: f64) -> Result<f64> {
        self.text(name).map_or(Ok(default), |text| self.between(name, text, least, most))
    }

    /// The number before the colon, between `least` and `most`.
    pub(crate) fn first(&self, least: f64, most: f64) -> Result<f64> {
        self.between("", self.head, least, most)
    }

    fn between(&self, name: &str, text: &str, least: f64, most: f64) -> Result<f64> {
        let number = text.parse::<f64>().unwrap_or(f64::NAN);
        if (least..=most).contains(&number) {
            return Ok(number);
        }
        let what = if name.is_empty() { String::new() } else { format!("{name}: ") };
        let why = format!("{what}expected a number from {least} to {most}");
        Err(Error::bad_request(self.field, text, why))
    }
}

/// Reading from and writing to text for a setting with `FromStr` and `Display`, in serde too.
macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = $crate::error::Error;

            fn try_from(text: String) -> $crate::error::Result<Self> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

pub(crate) use as_text;
