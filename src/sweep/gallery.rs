//! Pictures that lie in a folder and belong together: the cells of a sweep, or all of a folder. What the grid and the
//! page are made of, and what `sweep.json` holds.

use crate::app::Job;
use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
use crate::input;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that says what a folder holds.
pub const FILE: &str = "sweep.json";
/// Most bytes of such a file.
const LIMIT: u64 = 256 << 20;

/// An axis, as legends show it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Legend {
    /// What varies, as the user calls it.
    pub name: String,
    /// What varies, in words.
    pub title: String,
    /// What each value is called.
    pub labels: Vec<String>,
    /// Each value as it was given.
    pub values: Vec<String>,
}

/// A picture, or the place of one that could not be made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// For each axis the place of its value.
    pub at: Vec<usize>,
    /// The job's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The picture's file, below the folder; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it is called where there are no axes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub caption: String,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// The prompt.
    #[serde(default)]
    pub prompt: String,
    /// The seed; as text, because scripts of pages have no whole numbers of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// The command that makes the picture again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How long it took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Pictures of a folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gallery {
    /// The version of this format.
    pub v: u32,
    /// The version of colora that wrote it.
    pub version: String,
    /// What the pictures have in common, in words.
    pub title: String,
    /// The seed of cells that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What all cells have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Job>,
    /// Columns, rows and pages; none for the pictures of a folder.
    pub axes: Vec<Legend>,
    /// The pictures: of a sweep every cell, columns first.
    pub cells: Vec<Shown>,
}

impl Gallery {
    /// An empty gallery of this version.
    pub fn new(title: impl Into<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { v: 1, version, title: title.into(), ..Self::default() }
    }

    /// What `folder` says that it holds; `None` for a folder without a sweep.
    ///
    /// # Errors
    /// What reading the file gives, [`Error::Corrupt`] when it is none of this kind.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let Some(text) = input::text_if_there(&path, LIMIT, "what a sweep holds")? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|e| Error::corrupt(&path, e.to_string()))
    }

    /// Writes what `folder` holds.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| Error::Internal(format!("a sweep: {error}")))?;
        replace(&folder.join(FILE), (text + "\n").as_bytes())
    }

    /// How many values an axis has; 1 where there is no such axis.
    pub(super) fn side(&self, axis: usize) -> usize {
        self.axes.get(axis).map_or(1, |axis| axis.labels.len().max(1))
    }
}

impl Shown {
    /// The path of the picture; `None` where there is none, or where it would leave the folder.
    pub(super) fn path(&self, folder: &Path) -> Option<PathBuf> {
        let file = Path::new(self.file.as_deref()?);
        let inside = file.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        inside.then(|| folder.join(file))
    }
}

/// Writes a file that may be there already, whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic_file::write(path, true, Care::Usual, |file| {
        file.write_all(bytes).map_err(|error| Error::write(path, error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_paths_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Gallery::read(folder.path()).unwrap(), None);
        let mut gallery = Gallery::new("a fox");
        gallery.seed = Some(u64::MAX);
        gallery.base = Some(Job::from_json(r#"{"prompt":"a fox","steps":2}"#).unwrap());
        gallery.axes.push(Legend { labels: vec!["1".into()], ..Legend::default() });
        gallery.cells.push(Shown {
            at: vec![0],
            file: Some("cells/a.png".into()),
            ..Shown::default()
        });
        gallery.write(folder.path()).unwrap();
        assert_eq!(Gallery::read(folder.path()).unwrap(), Some(gallery.clone()));
        for (file, inside) in
            [("a.png", true), ("../a.png", false), ("/etc/x", false), ("a/../../b", false)]
        {
            let cell = Shown { file: Some(file.into()), ..Shown::default() };
            assert_eq!(cell.path(folder.path()).is_some(), inside, "{file}");
        }
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(matches!(Gallery::read(folder.path()), Err(Error::Corrupt { .. })));
    }
}
