//! Stacks: several LoRAs under one name, in a file.

use super::list::{is_called, walk};
use super::{Store, actual, only, place, table};
use crate::error::{Error, Result};
use crate::lora::LoraRef;
use crate::lora::spec::KEYS as LORA_KEYS;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Name of the folder of stacks inside a folder of LoRAs.
const FOLDER: &str = "stacks";

/// LoRAs to use together, in order, and how they are put together.
///
/// ```toml
/// method = "sum"
///
/// [[lora]]
/// name = "ink"
/// weight = 0.8
/// steps = "0..0.6"
///
/// [[lora]]
/// name = "styles/anime"
/// unet = 0.5
/// text = 0.0
/// blocks = "OUTALL"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// How the LoRAs are put together; `None` = their sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Share of the entries that a pruning method keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// Seed of a method that draws.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Rank of the result of a method that compresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Steps before a method that switches goes on to the next LoRA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<usize>,
    /// The LoRAs, at least one.
    #[serde(rename = "lora")]
    pub loras: Vec<LoraRef>,
}

/// The keys of a stack.
const KEYS: [&str; 6] = ["lora", "method", "density", "seed", "rank", "period"];

impl Stack {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for one that is not TOML, has an unknown key or no LoRA, [`Error::Io`],
    /// [`Error::Limit`] for one beyond all reason.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&table::text(path)?, path)
    }

    /// Reads the text of the file `path`, which is named in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let read = table::table(text, path)?;
        table::check_keys(&read, &KEYS, path)?;
        for lora in read.get("lora").and_then(toml::Value::as_array).into_iter().flatten() {
            lora.as_table().map_or(Ok(()), |lora| table::check_keys(lora, &LORA_KEYS, path))?;
        }
        let none = "a stack needs at least one [[lora]] with a name";
        if !read.contains_key("lora") {
            return Err(Error::corrupt(path, none));
        }
        let stack: Self = table::value(read, path)?;
        if stack.loras.is_empty() { Err(Error::corrupt(path, none)) } else { Ok(stack) }
    }

    /// The stack as TOML.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a seed that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        if let Some(seed) = self.seed.filter(|seed| i64::try_from(*seed).is_err()) {
            let why = format!("whole numbers in TOML end at {}; choose a smaller seed", i64::MAX);
            return Err(Error::bad_request("seed", seed, why));
        }
        toml::to_string(self).map_err(|e| Error::Internal(format!("stack: {e}")))
    }

    /// Writes the file `path`.
    ///
    /// # Errors
    /// [`Error::Exists`] without `force`, [`Error::Write`], and as [`to_toml`](Self::to_toml).
    pub fn write(&self, path: &Path, force: bool) -> Result<()> {
        let text = self.to_toml()?;
        place::whole(path, force, |file| {
            file.write_all(text.as_bytes()).map_err(|e| Error::write(path, e))
        })
    }
}

impl Store {
    /// Finds and reads a stack: an existing `.toml` file, or a name in `stacks` in the folders of
    /// LoRAs, with or without `.toml`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near matches when there is none or more than one, and as
    /// [`Stack::read`].
    pub fn stack(&self, name: &str) -> Result<Stack> {
        let path = &*actual(name);
        if path.extension().is_some_and(|e| e == "toml") && path.is_file() {
            return Stack::read(path);
        }
        let all = self.stacks();
        let is_meant = |(listed, path): &&(String, PathBuf)| is_called(listed, Some(path), name);
        let called = all.iter().filter(is_meant).map(|(_, path)| path.clone());
        let known = all.iter().map(|(name, _)| name.as_str());
        let folders: Vec<PathBuf> = self.lora_folders().iter().map(|f| f.join(FOLDER)).collect();
        Stack::read(&only(name, ("stack", "single stack"), called, known, &folders)?)
    }

    /// Names and files of all stacks, by folder and name.
    pub fn stacks(&self) -> Vec<(String, PathBuf)> {
        let mut all = Vec::new();
        for folder in self.lora_folders() {
            let mut found = Vec::new();
            walk(&folder.join(FOLDER), &mut |path, prefix, name| {
                let stem = name.strip_suffix(".toml").filter(|_| path.is_file());
                found.extend(stem.map(|stem| (format!("{prefix}{stem}"), path.to_path_buf())));
                stem.is_some()
            });
            found.sort();
            all.extend(found);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
method = \"ties\"
density = 0.5
seed = 7

[[lora]]
name = \"ink\"
weight = 0.8
steps = \"0..0.6\"

[[lora]]
name = \"styles/anime\"
unet = 0.5
text = 0.0
blocks = \"OUTALL\"
";

    fn parse(text: &str) -> Result<Stack> {
        Stack::parse(text, Path::new("s.toml"))
    }

    #[test]
    fn stacks_are_written_as_they_are_read() {
        let stack = parse(TEXT).unwrap();
        assert_eq!(stack.loras[0], "ink:0.8:steps=0..0.6".parse().unwrap());
        assert_eq!(stack.loras[1], "styles/anime:unet=0.5,text=0:blocks=OUTALL".parse().unwrap());
        assert_eq!((stack.method.as_deref(), stack.seed), (Some("ties"), Some(7)));
        assert_eq!(stack.to_toml().unwrap(), TEXT);
        let huge = Stack { seed: Some(u64::MAX), ..stack };
        assert!(huge.to_toml().unwrap_err().to_string().contains("TOML"));
        let least = parse("[[lora]]\nname = \"x\"").unwrap();
        assert_eq!(least, Stack { loras: vec![LoraRef::new("x")], ..Stack::default() });
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        for (text, part) in [
            ("metod = 1", "did you mean `method`"),
            ("[[lora]]\nname = \"x\"\nwieght = 1", "did you mean `weight`"),
            ("[[lora]]\nweight = 1", "name"),
            ("[[lora]]\nname = \"x:0.5\"", "name alone"),
            ("[[lora]]\nname = \"x\"\nsteps = \"5\"", "A..B"),
            ("lora = 1", "invalid type"),
            ("lora = []", "at least one"),
            ("method = \"sum\"", "at least one"),
            ("seed = -1\n[[lora]]\nname = \"x\"", "seed"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with("s.toml: ") && message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn stacks_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&[], folder.path(), &|_| None);
        let store = Store { lora_folders: vec![folder.path().join("loras")], ..store };
        let stack = parse(TEXT).unwrap();
        let path = folder.path().join("loras/stacks/sub/mine.toml");
        stack.write(&path, false).unwrap();
        assert!(matches!(stack.write(&path, false), Err(Error::Exists { .. })));
        for name in ["mine", "sub/mine", "mine.toml", path.to_str().unwrap()] {
            assert_eq!(store.stack(name).unwrap(), stack, "{name}");
        }
        let message = store.stack("sub/mien").unwrap_err().to_string();
        assert!(message.contains("no stack") && message.contains("sub/mine"), "{message}");
        assert!(store.loras().is_empty(), "a stack is no LoRA");
    }
}
