//! Cards: the description of a LoRA, in a small file beside it.

use super::{place, table};
use crate::error::{Error, Result};
use crate::lora::spec::{check_weight, short};
use serde::{Deserialize, Serialize, Serializer};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The contents of a card; everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Card {
    /// Name of the file that the card describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Words that call its effect when they stand in the prompt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trigger_words: Vec<String>,
    /// Recommended weight, used when the user gives none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_weight")]
    pub weight: Option<f32>,
    /// Family of the models that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Licence, as an SPDX expression or in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// The keys of a card.
const KEYS: [&str; 10] = [
    "file",
    "sha256",
    "title",
    "description",
    "trigger_words",
    "weight",
    "family",
    "licence",
    "source",
    "created",
];

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's shape
fn short_weight<S: Serializer>(weight: &Option<f32>, to: S) -> Result<S::Ok, S::Error> {
    weight.map(short).serialize(to)
}

impl Card {
    /// Where the card of a file or folder of weights is: `ink.toml` beside `ink.safetensors`.
    pub fn path(weights: &Path) -> PathBuf {
        if weights.is_dir() {
            let mut name = weights.as_os_str().to_owned();
            name.push(".toml");
            return name.into();
        }
        weights.with_extension("toml")
    }

    /// The card of a file or folder of weights; `None` without one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for one that is not TOML or has an unknown key, [`Error::Io`] for one that
    /// cannot be read, [`Error::Limit`] for one beyond all reason.
    pub fn of(weights: &Path) -> Result<Option<Self>> {
        let path = Self::path(weights);
        if !path.is_file() {
            return Ok(None);
        }
        Self::parse(&table::text(&path)?, &path).map(Some)
    }

    /// Reads the text of the card `path`, which is named in errors.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let mut read = table::table(text, path)?;
        table::check_keys(&read, &KEYS, path)?;
        // TOML has dates; one without quotes is as good.
        if let Some(toml::Value::Datetime(date)) = read.get("created") {
            let date = date.to_string();
            read.insert("created".to_owned(), date.into());
        }
        let card: Self = table::value(read, path)?;
        let weight = card.weight.map(check_weight).transpose();
        weight.map_err(|e| Error::corrupt(path, format!("weight: {e}")))?;
        Ok(card)
    }

    /// Whether it describes the file with the SHA-256 `sum`; `None` when it names none.
    pub fn describes(&self, sum: &str) -> Option<bool> {
        self.sha256.as_ref().map(|own| own.trim().eq_ignore_ascii_case(sum))
    }

    /// The card as TOML.
    ///
    /// # Errors
    /// [`Error::Internal`], never expected.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Internal(format!("card: {e}")))
    }

    /// Writes the card of a file or folder of weights and returns its path.
    ///
    /// # Errors
    /// [`Error::Exists`] without `force`, [`Error::Write`].
    pub fn write(&self, weights: &Path, force: bool) -> Result<PathBuf> {
        let (path, text) = (Self::path(weights), self.to_toml()?);
        place::whole(&path, force, |file| {
            file.write_all(text.as_bytes()).map_err(|e| Error::write(&path, e))
        })?;
        Ok(path)
    }

    /// This card with the gaps filled from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let words =
            if self.trigger_words.is_empty() { other.trigger_words } else { self.trigger_words };
        Self {
            file: self.file.or(other.file),
            sha256: self.sha256.or(other.sha256),
            title: self.title.or(other.title),
            description: self.description.or(other.description),
            trigger_words: words,
            weight: self.weight.or(other.weight),
            family: self.family.or(other.family),
            licence: self.licence.or(other.licence),
            source: self.source.or(other.source),
            created: self.created.or(other.created),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Card> {
        Card::parse(text, Path::new("ink.toml"))
    }

    #[test]
    fn cards_are_written_as_they_are_read() {
        let text = "file = \"ink.safetensors\"\ntitle = \"Ink\"\ntrigger_words = [\"ink style\"]\n\
                    weight = 0.8\ncreated = \"2026-01-02\"\n";
        let card = parse(text).unwrap();
        assert_eq!((card.weight, card.trigger_words.len()), (Some(0.8), 1));
        assert_eq!(card.to_toml().unwrap(), text);
        assert_eq!(parse("created = 2026-01-02").unwrap().created.unwrap(), "2026-01-02");
        assert_eq!(parse("").unwrap(), Card::default());
        let filled = Card { title: Some("x".into()), ..Card::default() }.or(card.clone());
        assert_eq!((filled.title.as_deref(), filled.file), (Some("x"), card.file));
    }

    #[test]
    fn mistakes_name_the_card_and_the_key() {
        for (text, part) in [
            ("wieght = 1", "did you mean `weight`"),
            ("qqqqqqqqqq = 1", "known: file"),
            ("weight = \"much\"", "invalid type"),
            ("weight = nan", "finite"),
            ("title = ", "line 1"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with("ink.toml: ") && message.contains(part), "{message}");
        }
    }

    #[test]
    fn every_field_has_a_key() {
        let text = |s: &str| Some(s.to_owned());
        let full = Card {
            file: text("f"),
            sha256: text("s"),
            title: text("t"),
            description: text("d"),
            trigger_words: vec!["w".into()],
            weight: Some(1.0),
            family: text("f"),
            licence: text("l"),
            source: text("s"),
            created: text("c"),
        };
        assert_eq!(full.to_toml().unwrap().parse::<toml::Table>().unwrap().len(), KEYS.len());
        assert_eq!(parse(&full.to_toml().unwrap()).unwrap(), full);
    }

    #[test]
    fn a_card_lies_beside() {
        let folder = tempfile::tempdir().unwrap();
        let (file, peft) = (folder.path().join("ink.v1.pt"), folder.path().join("peft.v1"));
        std::fs::create_dir(&peft).unwrap();
        assert_eq!(Card::path(&file), folder.path().join("ink.v1.toml"));
        assert_eq!(Card::path(&peft), folder.path().join("peft.v1.toml"));
        assert_eq!(Card::of(&file).unwrap(), None);
        let card = Card { title: Some("Ink".into()), ..Card::default() };
        card.write(&file, false).unwrap();
        assert_eq!(Card::of(&file).unwrap(), Some(card.clone()));
        assert!(matches!(card.write(&file, false), Err(Error::Exists { .. })));
        card.write(&file, true).unwrap();
    }
}
