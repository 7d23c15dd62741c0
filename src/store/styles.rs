//! Styles in the folders of prompts: tables of TOML, and the `styles.csv` of A1111.

use super::{Store, table};
use crate::csv::records;
use crate::error::{Error, Result};
use crate::input;
use crate::prompt::Style;
use crate::suggest::did_you_mean;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file of styles.
const LONGEST: u64 = 16 << 20;
/// Most files of styles in a folder.
const MOST_FILES: usize = 1000;
/// The table of styles in a file of TOML.
const TABLE: &str = "style";

/// A style as a file of TOML has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    prompt: String,
    #[serde(default, alias = "negative_prompt")]
    negative: String,
}

impl Store {
    /// Every style in the folders of prompts: `[style.NAME]` of files `*.toml`, and files `styles*.csv` as A1111 has them. Of
    /// two with one name the first one counts.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Corrupt`] for a file that cannot be read.
    pub fn styles(&self) -> Result<Vec<Style>> {
        let mut found: Vec<Style> = Vec::new();
        for folder in self.prompt_folders() {
            for path in files(folder) {
                let text = input::text(&path, LONGEST, "a file of styles")?;
                let is_table = path.extension().is_some_and(|extension| extension == "toml");
                let styles = if is_table { of_toml(&text, &path)? } else { of_csv(&text, &path)? };
                for style in styles {
                    if !found.iter().any(|known| known.name == style.name) {
                        found.push(style);
                    }
                }
            }
        }
        Ok(found)
    }

    /// The style called `name`, whatever the case of its letters.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near names, and as [`styles`](Self::styles).
    pub fn style(&self, name: &str) -> Result<Style> {
        let all = self.styles()?;
        let same = |style: &&Style| style.name == name;
        let alike = |style: &&Style| style.name.to_lowercase() == name.to_lowercase();
        if let Some(style) = all.iter().find(same).or_else(|| all.iter().find(alike)) {
            return Ok(style.clone());
        }
        let names = || all.iter().map(|style| style.name.as_str());
        let near = did_you_mean(name, names());
        let hint = if !near.is_empty() {
            near
        } else if all.is_empty() {
            let folders = self.prompt_folders().iter().map(|folder| folder.display().to_string());
            let folders = folders.collect::<Vec<_>>().join(", ");
            format!(
                "; styles are [style.NAME] in a file NAME.toml, or A1111's styles.csv, in {folders}"
            )
        } else {
            format!("; there are {}", names().take(20).collect::<Vec<_>>().join(", "))
        };
        Err(Error::NotFound { what: "style", name: name.to_owned(), hint, how: None })
    }
}

/// The files of a folder that may hold styles, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(items) = fs::read_dir(folder) else { return Vec::new() };
    let may = |path: &PathBuf| {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
        let is = |ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
        let table = name.starts_with("styles") && is("csv");
        !name.starts_with('.') && (table || is("toml")) && path.is_file()
    };
    let mut found: Vec<PathBuf> = items.flatten().map(|item| item.path()).filter(may).collect();
    found.sort();
    found.truncate(MOST_FILES);
    found
}

/// The styles of a file of TOML; none for one that is about something else, as a file of jobs is.
fn of_toml(text: &str, path: &Path) -> Result<Vec<Style>> {
    let mut all = table::table(text, path)?;
    let Some(styles) = all.remove(TABLE) else { return Ok(Vec::new()) };
    let styles: BTreeMap<String, Written> =
        styles.try_into().map_err(|error| Error::corrupt(path, format!("[{TABLE}]: {error}")))?;
    let style = |(name, Written { prompt, negative })| Style { name, prompt, negative };
    Ok(styles.into_iter().map(style).collect())
}

/// The styles of a table with the columns `name`, `prompt` (or `text`) and `negative_prompt`. A name that begins with `#`
/// is a remark.
fn of_csv(text: &str, path: &Path) -> Result<Vec<Style>> {
    let mistake = |error: crate::error::LineError| {
        Error::corrupt(path, format!("line {}: {}", error.line, error.error))
    };
    let mut records = records(text, ',').map_err(mistake)?.into_iter();
    let Some(header) = records.next() else { return Ok(Vec::new()) };
    let place = |names: &[&str]| {
        header.cells.iter().position(|cell| names.contains(&cell.trim().to_lowercase().as_str()))
    };
    let Some(name) = place(&["name"]) else {
        let why = "line 1: expected the columns name, prompt and negative_prompt";
        return Err(Error::corrupt(path, why));
    };
    let (prompt, negative) = (place(&["prompt", "text"]), place(&["negative_prompt"]));
    let mut found = Vec::new();
    for record in records {
        let cell = |place: Option<usize>| {
            let text = place.and_then(|place| record.cells.get(place));
            text.map(|text| text.trim_start().to_owned()).unwrap_or_default()
        };
        let style =
            Style { name: cell(Some(name)), prompt: cell(prompt), negative: cell(negative) };
        if !style.name.is_empty() && !style.name.starts_with('#') {
            found.push(style);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(files: &[(&str, &str)]) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("prompts")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join("prompts").join(name), text).unwrap();
        }
        let home = folder.path().join("home");
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        (folder, store)
    }

    /// The file and its reading are A1111's: `styles` of the vectors of metadata.
    #[test]
    fn tables_of_a1111_are_read() {
        let text = "\u{feff}name,prompt,negative_prompt\r\nOil,\"oil painting of {prompt}, brush\",photo\r\n#note,x,y\r\n\
                    Quoted,\"say \"\"hi\"\", {prompt}\",\r\nSpaced, spaced ,neg\r\nEnd,\"detailed, sharp\",\r\n\
                    Lines,\"one\ntwo, {prompt}\",bad\r\n";
        let (_folder, store) = store(&[("styles.csv", text)]);
        let found: Vec<[String; 3]> =
            store.styles().unwrap().into_iter().map(|s| [s.name, s.prompt, s.negative]).collect();
        let expected = [
            ["Oil", "oil painting of {prompt}, brush", "photo"],
            ["Quoted", "say \"hi\", {prompt}", ""],
            ["Spaced", "spaced ", "neg"],
            ["End", "detailed, sharp", ""],
            ["Lines", "one\ntwo, {prompt}", "bad"],
        ];
        assert_eq!(found, expected.map(|row| row.map(str::to_owned)));
    }

    #[test]
    fn styles_are_found_by_name() {
        let (_folder, store) = store(&[
            (
                "a.toml",
                "[style.ink]\nprompt = \"ink of {prompt}\"\nnegative_prompt = \"photo\"\n[style.\"Old Oil\"]\nprompt = \"oil\"",
            ),
            ("jobs.toml", "[[job]]\nprompt = \"x\""),
            ("styles-2.csv", "name,text\nink,other\nnew,new\n"),
        ]);
        let ink = store.style("INK").unwrap();
        assert_eq!((&*ink.prompt, &*ink.negative), ("ink of {prompt}", "photo"));
        assert_eq!(store.style("old oil").unwrap().name, "Old Oil");
        assert_eq!(store.style("new").unwrap().prompt, "new");
        assert!(store.style("inc").unwrap_err().to_string().contains("did you mean `ink`"));
        let all = store.style("zebra").unwrap_err().to_string();
        assert!(all.contains("there are Old Oil, ink, new"), "{all}");
    }

    #[test]
    fn mistakes_name_the_file() {
        for (name, text) in [
            ("a.toml", "[style.x]\npromt = \"a\""),
            ("a.toml", "[style"),
            ("styles.csv", "prompt\nx\n"),
            ("styles.csv", "name,prompt\n\"x"),
        ] {
            let error = store(&[(name, text)]).1.styles().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(store(&[]).1.style("x").unwrap_err().to_string().contains("styles.csv"));
    }
}
