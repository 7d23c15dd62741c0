//! A file of jobs: its format, its text, its drafts.

use super::draft::Draft;
use super::text::Read;
use super::{csv, jsonl, pictures, text, tree};
use crate::error::{Error, LineError, Result};
use crate::input;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Most bytes of a file of jobs.
const LIMIT: u64 = 1 << 30;

/// How jobs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A prompt a line, or switches.
    Text,
    /// A table with a header, separated by commas, semicolons or tabs.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// `[defaults]`, `[[job]]`, `[matrix]`.
    Toml,
    /// The tables of TOML as YAML; read with the feature `yaml`.
    Yaml,
}

impl Format {
    /// Every format by its name.
    pub const ALL: [(&str, Format); 5] = [
        ("text", Self::Text),
        ("csv", Self::Csv),
        ("jsonl", Self::Jsonl),
        ("toml", Self::Toml),
        ("yaml", Self::Yaml),
    ];

    /// The format of a file, by its name and else by its beginning; `None` for stdin that does not say.
    fn of(path: &Path, text: &str) -> Option<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        match extension.as_deref() {
            Some("txt") => Some(Self::Text),
            Some("csv" | "tsv") => Some(Self::Csv),
            Some("jsonl" | "ndjson" | "json") => Some(Self::Jsonl),
            Some("toml") => Some(Self::Toml),
            Some("yaml" | "yml") => Some(Self::Yaml),
            _ if text.trim_start().starts_with('{') => Some(Self::Jsonl),
            _ if path == Path::new("-") => None,
            _ => Some(Self::Text),
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        let why = "expected text, csv, jsonl, toml or yaml";
        found.map(|(_, format)| format).ok_or_else(|| Error::bad_request("format", name, why))
    }
}

/// A file of jobs that was read.
#[derive(Debug)]
pub struct Source {
    /// Its name; `-` is stdin.
    pub path: PathBuf,
    /// The SHA-256 of its text.
    pub sha256: String,
    /// What its lines ask for.
    pub drafts: Vec<Draft>,
    /// What is wrong in it.
    pub mistakes: Vec<LineError>,
    /// What the user may want to know.
    pub remarks: Vec<String>,
}

impl Source {
    /// Reads the file `path`, stdin for `-`; `comments`: whether lines of text that begin with `#` are skipped.
    ///
    /// # Errors
    /// What reading it gives; [`Error::BadRequest`] for stdin without a format.
    pub fn read(path: &Path, format: Option<Format>, comments: bool) -> Result<Self> {
        let bytes = if path == Path::new("-") {
            input::from(std::io::stdin().lock(), LIMIT, "a file of jobs", path)?
        } else {
            input::bytes(path, LIMIT, "a file of jobs")?
        };
        Self::parse(path, &input::decode(bytes, path)?, format, comments)
    }

    /// A job for each of `paths`, which are pictures or folders of pictures: what their records say.
    ///
    /// # Errors
    /// What listing a folder gives; what is wrong with a picture is among the mistakes.
    pub fn pictures(paths: &[PathBuf]) -> Result<Self> {
        let found = pictures::list(paths)?;
        let text =
            found.iter().fold(String::new(), |text, path| text + &path.to_string_lossy() + "\n");
        let drafts = found.into_iter().enumerate();
        let draft = |(at, path)| Draft { from: Some(path), ..Draft::new(at + 1) };
        let read = Read { drafts: drafts.map(draft).collect(), ..Read::default() };
        let path = paths.first().cloned().unwrap_or_default();
        Ok(Self::of(path, &text, read))
    }

    /// As [`read`](Self::read) for a text that is there.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for stdin without a format.
    pub fn parse(path: &Path, text: &str, format: Option<Format>, comments: bool) -> Result<Self> {
        let why =
            "stdin has no name that tells the format; expected text, csv, jsonl, toml or yaml";
        let format = format.or_else(|| Format::of(path, text));
        let format = format.ok_or_else(|| Error::bad_request("format", "", why))?;
        let read = match format {
            Format::Text => text::read(text, comments),
            Format::Csv => csv::read(text),
            Format::Jsonl => jsonl::read(text),
            Format::Toml => tree::read_toml(text),
            #[cfg(feature = "yaml")]
            Format::Yaml => tree::read_yaml(text),
            #[cfg(not(feature = "yaml"))]
            Format::Yaml => {
                return Err(Error::unsupported(
                    "a file of jobs in YAML",
                    "this colora was built without the feature yaml; TOML holds the same tables",
                ));
            }
        };
        Ok(Self::of(path.to_path_buf(), text, read))
    }

    fn of(path: PathBuf, text: &str, read: Read) -> Self {
        let Read { mut drafts, mut mistakes, mut remarks } = read;
        let mut ignored: Vec<&str> =
            drafts.iter().flat_map(|draft| &draft.ignored).map(String::as_str).collect();
        ignored.sort_unstable();
        ignored.dedup();
        if !ignored.is_empty() {
            remarks.push(format!("these change nothing here: {}", ignored.join(", ")));
        }
        pictures::look(&mut drafts, &mut mistakes, &mut remarks);
        let sha256 = crate::plain::hex(&Sha256::digest(text.as_bytes()));
        Self { path, sha256, drafts, mistakes, remarks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_name_and_content() {
        for (name, text, format) in [
            ("a.txt", "{", Some(Format::Text)),
            ("a.CSV", "", Some(Format::Csv)),
            ("a.tsv", "", Some(Format::Csv)),
            ("a.ndjson", "", Some(Format::Jsonl)),
            ("a.toml", "", Some(Format::Toml)),
            ("-", " {\"", Some(Format::Jsonl)),
            ("-", "a fox", None),
            ("prompts", "a fox", Some(Format::Text)),
        ] {
            assert_eq!(Format::of(Path::new(name), text), format, "{name}");
        }
        assert!(Source::parse(Path::new("-"), "a fox", None, true).is_err());
        assert_eq!("toml".parse::<Format>().unwrap(), Format::Toml);
        assert!("xml".parse::<Format>().is_err());
    }
}
