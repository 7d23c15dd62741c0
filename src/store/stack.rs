//! Stacks: several LoRAs under one name, in a file.

use super::list::{is_called, walk};
use super::lora::existing;
use super::{Store, actual, only, place, table};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::lora::spec::KEYS as LORA_KEYS;
use crate::lora::{LoraRef, Method};
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
    /// The stack of `loras` that `method` puts together.
    pub fn of(loras: Vec<LoraRef>, method: Method) -> Self {
        let stack = Self { loras, ..Self::default() };
        // As it is written: 0.3, not the f64 that is nearest to its f32.
        let written = |share: f32| share.to_string().parse().ok();
        let method_name = Some(method.name().to_owned());
        match method {
            Method::Sum => stack,
            Method::Sequential | Method::Composite => Self { method: method_name, ..stack },
            Method::Svd { rank } => Self { method: method_name, rank: Some(rank), ..stack },
            Method::Ties { density } => {
                Self { method: method_name, density: written(density), ..stack }
            }
            Method::Dare { density, seed } | Method::DareTies { density, seed } => {
                Self { method: method_name, density: written(density), seed: Some(seed), ..stack }
            }
            Method::Switch { period } => {
                Self { method: method_name, period: Some(period), ..stack }
            }
        }
    }

    /// How the LoRAs are put together.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a method that does not exist or takes no such numbers.
    pub fn method(&self) -> Result<Method> {
        let Some(name) = &self.method else { return Ok(Method::default()) };
        let numbers = [
            self.density.map(|x| format!("density={x}")),
            self.seed.map(|n| format!("seed={n}")),
            self.rank.map(|n| format!("rank={n}")),
            self.period.map(|n| format!("period={n}")),
        ];
        let numbers: Vec<String> = numbers.into_iter().flatten().collect();
        format!("{name}:{}", numbers.join(",")).parse()
    }

    /// Refuses a name under which no stack can be saved.
    ///
    /// # Errors
    /// [`Error::BadRequest`].
    pub fn check_name(name: &str) -> Result<()> {
        place::check_name(name.strip_suffix(".toml").unwrap_or(name))
    }

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
        Stack::read(&self.stack_path(name)?)
    }

    /// Finds the file of a stack, as [`stack`](Self::stack) does.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near matches when there is none or more than one.
    pub fn stack_path(&self, name: &str) -> Result<PathBuf> {
        let path = &*actual(name);
        if path.extension().is_some_and(|e| e == "toml") && path.is_file() {
            return Ok(path.to_path_buf());
        }
        self.stack_named(name)
    }

    /// Saves a stack under a name, its paths made absolute, in the folder `to` or the first folder of LoRAs that exists, and returns its file.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a name that leaves the folder, for a stack without LoRAs and as [`Stack::to_toml`];
    /// [`Error::Exists`] without `force`; [`Error::Write`]; [`Error::Unsupported`] when there is no folder of LoRAs.
    pub fn save_stack(
        &self,
        name: &str,
        stack: &Stack,
        to: Option<&Path>,
        force: bool,
    ) -> Result<PathBuf> {
        Stack::check_name(name)?;
        let name = name.strip_suffix(".toml").unwrap_or(name);
        if stack.loras.is_empty() {
            return Err(Error::bad_request("loras", "", "a stack needs at least one LoRA"));
        }
        let folder = to.map(Path::to_path_buf).or_else(|| self.first_lora_folder());
        let none =
            || Error::unsupported("saving a stack without a folder of LoRAs", Hint::NameLoraFolder);
        let path = folder.ok_or_else(none)?.join(FOLDER).join(format!("{name}.toml"));
        let loras = stack.loras.iter().map(from_everywhere).collect::<Result<Vec<_>>>()?;
        Stack { loras, ..stack.clone() }.write(&path, force)?;
        Ok(path)
    }

    /// Removes the stack `name` from the folders of LoRAs, and returns the file that it was; never one elsewhere.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near matches when there is none or more than one, [`Error::Write`].
    pub fn remove_stack(&self, name: &str) -> Result<PathBuf> {
        let path = self.stack_named(name)?;
        std::fs::remove_file(&path).map_err(|error| Error::write(&path, error))?;
        Ok(path)
    }

    /// The file of the stack `name` in the folders of LoRAs.
    fn stack_named(&self, name: &str) -> Result<PathBuf> {
        let all = self.stacks();
        let is_meant = |(listed, path): &&(String, PathBuf)| is_called(listed, Some(path), name);
        let called = all.iter().filter(is_meant).map(|(_, path)| path.clone());
        let known = all.iter().map(|(name, _)| name.as_str());
        let folders: Vec<PathBuf> = self.lora_folders().iter().map(|f| f.join(FOLDER)).collect();
        only(name, ("stack", "single stack"), called, known, &folders)
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

/// The LoRA with a name that leads to it from every folder, where it is a path from this one.
fn from_everywhere(lora: &LoraRef) -> Result<LoraRef> {
    let Some(path) = existing(&lora.name)?.filter(|path| path.is_relative()) else {
        return Ok(lora.clone());
    };
    let full = std::path::absolute(&path).map_err(|error| Error::io(&path, error))?;
    let name = full.to_str().ok_or_else(|| {
        let why = "a stack holds text, and this path is none; rename the file or a folder";
        Error::bad_request("lora", full.display(), why)
    })?;
    Ok(LoraRef { name: name.to_owned(), ..lora.clone() })
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
    fn methods_are_written_as_they_are_read() {
        for text in
            ["sum", "sequential", "composite", "svd:rank=8", "ties:density=0.3", "switch:period=2"]
        {
            let method: Method = text.parse().unwrap();
            let stack = Stack::of(vec![LoraRef::new("ink")], method);
            assert_eq!(parse(&stack.to_toml().unwrap()).unwrap().method().unwrap(), method);
        }
        let dare: Method = "dare-ties:density=0.1,seed=9".parse().unwrap();
        let written = Stack::of(vec![LoraRef::new("ink")], dare).to_toml().unwrap();
        assert!(written.contains("density = 0.1\nseed = 9\n"), "{written}");
        assert_eq!(parse(&written).unwrap().method().unwrap(), dare);
    }

    #[test]
    fn stacks_are_saved_and_removed_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&[], folder.path(), &|_| None);
        let loras = folder.path().join("loras");
        let store = Store { lora_folders: vec![loras.clone()], ..store };
        let stack = parse(TEXT).unwrap();
        let path = store.save_stack("sub/mine.toml", &stack, None, false).unwrap();
        assert_eq!(path, loras.join("stacks/sub/mine.toml"));
        assert_eq!(store.stack("mine").unwrap(), stack);
        assert!(matches!(
            store.save_stack("sub/mine", &stack, None, false),
            Err(Error::Exists { .. })
        ));
        let other = Stack { method: None, density: None, seed: None, ..stack.clone() };
        store.save_stack("sub/mine", &other, None, true).unwrap();
        assert_eq!(store.stack("mine").unwrap(), other);
        for name in ["../x", "/x", "", ".x", "a/.x", "C:x", "a\\b", "a/", " x", "a\nb", ".toml"] {
            let saved = store.save_stack(name, &stack, None, false);
            assert!(matches!(saved, Err(Error::BadRequest { .. })), "{name}");
        }
        assert!(store.save_stack("x", &Stack::default(), None, false).is_err(), "no LoRA");
        let beside = folder.path().join("beside.toml");
        stack.write(&beside, false).unwrap();
        let outside = store.remove_stack(beside.to_str().unwrap());
        assert!(matches!(outside, Err(Error::NotFound { .. })) && beside.is_file());
        assert_eq!(store.remove_stack("mine").unwrap(), path);
        assert!(!path.exists() && matches!(store.stack("mine"), Err(Error::NotFound { .. })));
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
