//! Folders of prompts: wildcards and styles.

use super::{Store, actual};
use crate::error::{Error, InFile, Result};
use crate::input;
use crate::prompt::expand::{Collections, Value};
use serde_json::Value as Json;
use std::fs;
use std::path::{Path, PathBuf};

/// Folder of wildcards in a folder of prompts.
const WILDCARDS: &str = "wildcards";
/// Folders in each other that are looked into.
const DEPTH: usize = 12;
/// Most files that are read.
const MOST_FILES: usize = 20_000;
/// Longest file of wildcards.
const LONGEST: u64 = 16 << 20;
/// Bytes of all files of wildcards together.
const MOST_BYTES: u64 = 256 << 20;
/// Lists in each other in a JSON file.
const MOST_NESTED: usize = 64;

impl Store {
    /// This store with the folders of prompts `dirs` before `./prompts` and `colora/prompts` in the user's data folder.
    #[must_use]
    pub fn with_prompts(mut self, dirs: &[PathBuf]) -> Self {
        let usual = std::mem::replace(&mut self.prompt_folders, dirs.iter().map(actual).collect());
        self.prompt_folders.extend(usual);
        self
    }

    /// The folders that are searched for wildcards and styles, in order, whether they exist or not.
    pub fn prompt_folders(&self) -> &[PathBuf] {
        &self.prompt_folders
    }

    /// Every collection of wildcards in the folders `wildcards` of the folders of prompts. Of two files with one name the
    /// first one counts.
    ///
    /// `NAME.txt` holds a value a line; `NAME.json` a list, or lists by names, and so does `NAME.yaml` (feature `yaml`). Hidden files and folders are passed over, and
    /// so are links that lead out of the folder.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Corrupt`] for a file that cannot be read, [`Error::Limit`] for too many of them.
    pub fn wildcards(&self) -> Result<Collections> {
        let mut all = Collections::default();
        let mut left = Left { files: MOST_FILES, bytes: MOST_BYTES };
        for folder in self.prompt_folders.iter().rev() {
            let root = folder.join(WILDCARDS);
            let Ok(root) = root.canonicalize() else { continue };
            let walk = Walk { root: &root };
            walk.folder(&root, "", DEPTH, &mut left, &mut all)?;
        }
        Ok(all)
    }
}

/// What may still be read.
struct Left {
    files: usize,
    bytes: u64,
}

impl Left {
    fn take(&mut self, path: &Path) -> Result<()> {
        let size = fs::metadata(path).map_or(0, |about| about.len());
        let limit = |what, allowed| Error::Limit { what, allowed, asked: allowed + 1 };
        self.files = self
            .files
            .checked_sub(1)
            .ok_or_else(|| limit("files of wildcards", MOST_FILES as u64))?;
        self.bytes =
            self.bytes.checked_sub(size).ok_or_else(|| limit("bytes of wildcards", MOST_BYTES))?;
        Ok(())
    }
}

/// A folder of wildcards, which nothing leads out of.
struct Walk<'a> {
    /// Without links.
    root: &'a Path,
}

impl Walk<'_> {
    fn folder(
        &self,
        folder: &Path,
        prefix: &str,
        depth: usize,
        left: &mut Left,
        all: &mut Collections,
    ) -> Result<()> {
        let items = fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
        let mut paths: Vec<PathBuf> = items.flatten().map(|item| item.path()).collect();
        paths.sort();
        for path in paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let inside = path.canonicalize().is_ok_and(|path| path.starts_with(self.root));
            if name.starts_with('.') || !inside {
                continue;
            }
            if path.is_dir() {
                if depth > 1 {
                    self.folder(&path, &format!("{prefix}{name}/"), depth - 1, left, all)?;
                }
                continue;
            }
            let Some((stem, extension)) = name.rsplit_once('.') else { continue };
            match extension {
                "txt" => {
                    left.take(&path)?;
                    let text = input::text(&path, LONGEST, "a file of wildcards")?;
                    all.insert(format!("{prefix}{stem}"), lines(&text));
                }
                "json" => {
                    left.take(&path)?;
                    let text = input::text(&path, LONGEST, "a file of wildcards")?;
                    let json = serde_json::from_str(&text)
                        .map_err(|error| Error::corrupt(&path, error.to_string()))?;
                    let place = Place { prefix, stem };
                    place.read(&json, all).in_file(&path)?;
                }
                "yaml" => {
                    left.take(&path)?;
                    let text = input::text(&path, LONGEST, "a file of wildcards")?;
                    let place = Place { prefix, stem };
                    place.read_yaml(&text, all).in_file(&path)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The values of a text: a line each, without empty ones and comments.
fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Value::from).collect()
}

/// Where a file of lists stands.
struct Place<'a> {
    /// Its folders, each with a slash.
    prefix: &'a str,
    /// Its name without extension, which is that of a list without a name.
    stem: &'a str,
}

impl Place<'_> {
    #[cfg(feature = "yaml")]
    fn read_yaml(&self, text: &str, all: &mut Collections) -> Result<()> {
        let json: Json = serde_saphyr::from_str(text).map_err(|error| {
            let why = error.to_string();
            Error::bad_request("wildcards", "YAML", why.lines().next().unwrap_or_default())
        })?;
        self.read(&json, all)
    }

    /// Notes that there are wildcards which this build does not read.
    #[cfg(not(feature = "yaml"))]
    #[allow(clippy::unnecessary_wraps)] // as with the feature
    fn read_yaml(&self, _: &str, all: &mut Collections) -> Result<()> {
        let name = format!("{}{}.yaml", self.prefix, self.stem);
        all.note(format!("{name} was not read, which takes a build with the feature yaml"));
        Ok(())
    }

    fn read(&self, json: &Json, all: &mut Collections) -> Result<()> {
        match json {
            Json::Array(list) => {
                all.insert(format!("{}{}", self.prefix, self.stem), values(list)?);
                Ok(())
            }
            Json::Object(_) => named(self.prefix, json, MOST_NESTED, all),
            _ => Err(wrong("a list of values, or lists by names", json)),
        }
    }
}

/// The lists below `json`, called by the names that lead to them.
fn named(prefix: &str, json: &Json, depth: usize, all: &mut Collections) -> Result<()> {
    let Json::Object(map) = json else { return Ok(()) };
    for (name, value) in map {
        let name = format!("{prefix}{name}");
        match value {
            Json::Null => {}
            Json::String(text) => all.insert(name, [text.as_str()]),
            Json::Array(list) => all.insert(name, values(list)?),
            Json::Object(_) if depth > 0 => named(&format!("{name}/"), value, depth - 1, all)?,
            other => return Err(wrong("a text, a list or names", other)),
        }
    }
    Ok(())
}

/// The values of a list: texts, `3::text` with a weight, and objects with text and weight.
fn values(list: &[Json]) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for item in list {
        match item {
            Json::Null => {}
            Json::String(text) if text.is_empty() => {}
            Json::String(text) => found.push(weighed(text)),
            Json::Object(map) => {
                let text = map.get("text").or_else(|| map.get("content")).and_then(Json::as_str);
                let text = text.ok_or_else(|| wrong("an object with `text` and `weight`", item))?;
                let weight = map.get("weight").map_or(Some(1.0), Json::as_f64);
                let weight = weight.filter(|weight| weight.is_finite() && *weight >= 0.0);
                let weight = weight.ok_or_else(|| wrong("a weight of 0 or more", item))?;
                found.push(Value { text: text.to_owned(), weight });
            }
            Json::Number(number) => found.push(number.to_string().into()),
            other => return Err(wrong("a text, or an object with `text` and `weight`", other)),
        }
    }
    Ok(found)
}

/// A text with its weight before it, or without one.
fn weighed(text: &str) -> Value {
    let parts = text.rsplit_once("::").filter(|_| text.starts_with(|c: char| c.is_ascii_digit()));
    let parts = parts.and_then(|(weight, text)| Some((weight.parse::<f64>().ok()?, text)));
    match parts {
        Some((weight, text)) if weight.is_finite() => Value { text: text.to_owned(), weight },
        _ => text.into(),
    }
}

fn wrong(expected: &str, found: &Json) -> Error {
    let found: String = found.to_string().chars().take(60).collect();
    Error::bad_request("wildcards", found, format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(files: &[(&str, &str)]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join("prompts/wildcards").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let home = folder.path().join("home");
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        (folder, store)
    }

    fn texts(all: &Collections, name: &str) -> Vec<String> {
        all.matching(name).into_iter().map(|value| value.text).collect()
    }

    #[test]
    fn files_become_collections() {
        let (folder, store) = store(&[
            ("colours.txt", "\u{feff}red\r\n# a comment\r\n\r\n  green  \r\n2::blue\r\n"),
            ("animals/cats.txt", "siamese"),
            ("list.json", "[\"x\", \"3::y\", {\"text\": \"z\", \"weight\": 2}, \"\", null, 7]"),
            ("deep/more.json", "{\"stars\": {\"near\": [\"sun\"], \"far\": \"vega\"}}"),
            (".hidden/x.txt", "a"),
            ("notes.md", "a"),
        ]);
        let all = store.wildcards().unwrap();
        let names: Vec<&str> = all.names().collect();
        assert_eq!(names, ["animals/cats", "colours", "deep/stars/far", "deep/stars/near", "list"]);
        assert_eq!(texts(&all, "colours"), ["2::blue", "green", "red"]);
        let weights: Vec<f64> = all.matching("list").iter().map(|value| value.weight).collect();
        assert_eq!(
            (texts(&all, "list"), weights),
            (["7", "x", "y", "z"].map(str::to_owned).into(), vec![1.0, 1.0, 3.0, 2.0])
        );
        // A folder that is named comes first.
        let other = folder.path().join("other");
        fs::create_dir_all(other.join("wildcards")).unwrap();
        fs::write(other.join("wildcards/colours.txt"), "black").unwrap();
        let all = store.with_prompts(&[other]).wildcards().unwrap();
        assert_eq!(texts(&all, "colours"), ["black"]);
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn yaml_is_read_or_named() {
        let pantry = "clothes:\n  hats:\n    - cap\n    - top hat\n  shoes: boots\nmood:\n  - 3::calm\n  - wild\n  - text: odd\n    weight: 2\n";
        let (_folder, store) = store(&[("pantry.yaml", pantry)]);
        let all = store.wildcards().unwrap();
        if cfg!(feature = "yaml") {
            assert_eq!(texts(&all, "clothes/*"), ["boots", "cap", "top hat"]);
            let weights: Vec<f64> = all.matching("mood").iter().map(|v| v.weight).collect();
            assert_eq!(weights, [3.0, 2.0, 1.0]);
        } else {
            use crate::prompt::expand::Template;
            let error = Template::parse("__mood__").unwrap().all(&all).next().unwrap().unwrap_err();
            assert!(error.why.contains("pantry.yaml was not read"), "{error}");
        }
    }

    #[test]
    fn mistakes_name_the_file() {
        for (name, text) in [
            ("a.json", "[1, [2]]"),
            ("a.json", "{\"x\": 3}"),
            ("a.json", "7"),
            ("a.json", "{"),
            ("a.json", "[{\"weight\": 2}]"),
            ("a.json", "[{\"text\": \"x\", \"weight\": -1}]"),
        ] {
            let error = store(&[(name, text)]).1.wildcards().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        let (_folder, store) = store(&[]);
        assert!(store.wildcards().unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let (folder, store) = store(&[("a.txt", "inside")]);
        fs::write(folder.path().join("secret.txt"), "secret").unwrap();
        let root = folder.path().join("prompts/wildcards");
        std::os::unix::fs::symlink(folder.path().join("secret.txt"), root.join("b.txt")).unwrap();
        std::os::unix::fs::symlink(folder.path(), root.join("up")).unwrap();
        std::os::unix::fs::symlink(root.join("a.txt"), root.join("c.txt")).unwrap();
        let names: Vec<String> = store.wildcards().unwrap().names().map(str::to_owned).collect();
        assert_eq!(names, ["a", "c"]);
    }
}
