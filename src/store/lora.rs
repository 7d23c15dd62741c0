//! From the name of a LoRA to its file and card.

use super::cache::{CONFIG, STANDARD};
use super::list::{self, is_called, size, walk};
use super::snapshot::{self, Lack};
use super::{Card, HubId, Progress, Store, actual, digest, instead, look_at, only, said};
use crate::error::{Error, Result};
use crate::pipeline::Cancel;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Extensions of adapter files.
pub(super) const EXTENSIONS: [&str; 5] = ["safetensors", "pt", "bin", "ckpt", "pth"];
/// Weights in a folder of PEFT's.
const PEFT: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// What cloneofsimo's tools insert before the extension of the files that go with `x.pt`.
const COMPANIONS: [&str; 2] = ["text_encoder", "ti"];

/// A LoRA that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundLora {
    /// A file, or a folder of PEFT's.
    pub path: PathBuf,
    /// The card beside it.
    pub card: Option<Card>,
}

/// A LoRA that can be named.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraEntry {
    /// What to pass to `--lora`.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// A file, or a folder of PEFT's.
    #[serde(serialize_with = "list::lossy")]
    pub path: PathBuf,
    /// The card beside it.
    pub card: Option<Card>,
    /// Why the card beside it cannot be used.
    pub warning: Option<String>,
}

impl LoraEntry {
    fn new(name: String, path: PathBuf) -> Self {
        let (card, warning) = match Card::of(&path) {
            Ok(card) => (card, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let others = companions(&path).iter().map(|(_, path)| size(path, 1)).sum::<u64>();
        Self { name, bytes: size(&path, 3) + others, path, card, warning }
    }

    /// Whether the file is the one that the card was written for; `None` when the card has no sum.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Cancelled`].
    pub fn verify(&self, cancel: &Cancel) -> Result<Option<bool>> {
        let Some(card) = self.card.as_ref().filter(|card| card.sha256.is_some()) else {
            return Ok(None);
        };
        let found = digest::sha256(&weights(&self.path), cancel)?;
        Ok(card.describes(&found))
    }
}

impl Store {
    /// This store with the folders `dirs` before the other folders of LoRAs, and, after `./loras`,
    /// the folder `loras` that lies beside the program file `program` or, further up, beside a
    /// `Cargo.toml`.
    #[must_use]
    pub fn with_loras(mut self, dirs: &[PathBuf], program: Option<&Path>) -> Self {
        let at = self.lora_folders.len().min(1);
        let usual = self.lora_folders.split_off(at);
        let local = std::mem::replace(&mut self.lora_folders, dirs.iter().map(actual).collect());
        self.lora_folders.extend(local);
        self.lora_folders.extend(program.and_then(beside));
        self.lora_folders.extend(usual);
        self
    }

    /// The folders that are searched for LoRAs and stacks by name, in order, whether they exist or
    /// not.
    pub fn lora_folders(&self) -> &[PathBuf] {
        &self.lora_folders
    }

    /// Finds a LoRA: an existing file or folder of PEFT's, `hub:owner/name`, or a name in the
    /// folders, with or without its extension and sub-folder.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and what reading the card gives.
    pub fn lora(&self, name: &str, cancel: &Cancel, progress: Progress<'_>) -> Result<FoundLora> {
        let path = if let Some(id) = name.strip_prefix("hub:") {
            self.hub_lora(id, cancel, progress).map_err(of_lora)?
        } else if let Some(path) = existing(name)? {
            path
        } else {
            self.lora_by_name(name)?
        };
        Ok(FoundLora { card: Card::of(&path)?, path })
    }

    /// Whether [`lora`](Self::lora) finds the hub LoRA `name` here; true for what is no id at all, which it
    /// refuses.
    pub fn has_hub_lora(&self, name: &str) -> bool {
        let id = name.strip_prefix("hub:").unwrap_or(name).parse::<HubId>();
        !id.is_ok_and(|id| self.cache.look(&id, adapter).is_err())
    }

    /// The LoRA called `name` in the folders, whatever of this name lies elsewhere.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near matches when there is none or more than one.
    pub fn lora_named(&self, name: &str) -> Result<PathBuf> {
        self.lora_by_name(name)
    }

    /// Every LoRA that can be named.
    pub fn loras(&self) -> Vec<LoraEntry> {
        let found = self.lora_paths();
        found.into_iter().map(|(name, path)| LoraEntry::new(name, path)).collect()
    }

    /// The folders of LoRAs that are there and cannot be read, with the reasons.
    pub fn unreadable_loras(&self) -> Vec<Error> {
        self.lora_folders.iter().flat_map(|folder| list::unreadable(folder)).collect()
    }

    /// Names and paths, without a look into the cards.
    fn lora_paths(&self) -> Vec<(String, PathBuf)> {
        let mut found: Vec<(String, PathBuf)> = Vec::new();
        // Two names may lead to one folder, for instance `./loras` and the project's own.
        let mut seen = Vec::new();
        for folder in &self.lora_folders {
            let identity = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            if !seen.contains(&identity) {
                found.extend(scan(folder));
                seen.push(identity);
            }
        }
        let named = |folder: &Path| standard(folder).ok_or(Lack::All("no LoRA of a known name"));
        let cached = |id: HubId| {
            let usable = self.cache.look(&id, named).ok()?;
            Some((format!("hub:{id}"), usable.path))
        };
        found.extend(self.cache.repositories().into_iter().filter_map(cached));
        found
    }

    fn lora_by_name(&self, name: &str) -> Result<PathBuf> {
        let all = self.lora_paths();
        let file = |path: &PathBuf| Some(path.clone()).filter(|path| path.is_file());
        let is_meant =
            |(listed, path): &&(String, PathBuf)| is_called(listed, file(path).as_deref(), name);
        let called = all.iter().filter(is_meant).map(|(_, path)| path.clone());
        let known = all.iter().map(|(name, _)| name.as_str());
        only(name, ("LoRA", "single LoRA"), called, known, &self.lora_folders)
    }

    fn hub_lora(&self, id: &str, cancel: &Cancel, progress: Progress<'_>) -> Result<PathBuf> {
        let id: HubId = id.parse()?;
        let path = match self.cache.look(&id, adapter) {
            Ok(usable) => said(usable),
            Err(absent) => instead(&absent, &id, || self.pull_lora(&id, cancel, progress))?,
        };
        Ok(standard(&path).unwrap_or(path))
    }

    #[cfg(feature = "hub")]
    fn pull_lora(&self, id: &HubId, cancel: &Cancel, progress: Progress<'_>) -> Result<PathBuf> {
        super::hub::pull(&self.cache, id, super::hub::adapter, cancel, progress)
    }

    #[cfg(not(feature = "hub"))]
    fn pull_lora(&self, id: &HubId, cancel: &Cancel, progress: Progress<'_>) -> Result<PathBuf> {
        self.pull(id, cancel, progress)
    }
}

/// Turns an error about a model into one about a LoRA.
fn of_lora(error: Error) -> Error {
    match error {
        Error::NotFound { name, hint, how, .. } => {
            Error::NotFound { what: "LoRA", name, hint, how }
        }
        Error::BadRequest { value, why, hint, .. } => {
            Error::BadRequest { field: "lora", value, why, hint }
        }
        other => other,
    }
}

/// The folder `loras` beside a program or beside the `Cargo.toml` of the project it was built in.
fn beside(program: &Path) -> Option<PathBuf> {
    let own = program.parent();
    let mut folders = program.ancestors().skip(1);
    let is_place = |folder: &Path| Some(folder) == own || folder.join("Cargo.toml").is_file();
    folders.find_map(|folder| {
        Some(folder.join("loras")).filter(|loras| is_place(folder) && loras.is_dir())
    })
}

/// `name` as a path that exists.
///
/// A bare word that is a plain folder is none: `loras` must not shadow a LoRA's name.
fn existing(name: &str) -> Result<Option<PathBuf>> {
    let path = &*actual(name);
    if path.is_file() {
        return Ok(Some(path.to_path_buf()));
    }
    if let Some(path) = standard(path).filter(|_| !name.is_empty()) {
        return Ok(Some(path));
    }
    if path.exists() && !path.is_dir() {
        return Err(Error::corrupt(path, "this is no regular file; expected a file of weights"));
    }
    let spelt_as_path = path.is_absolute() || name.starts_with('.');
    if spelt_as_path {
        look_at(path)?;
    }
    if spelt_as_path && path.is_dir() {
        let hint = format!(
            "; the folder holds neither {} nor a single .safetensors file",
            STANDARD.join(" nor ")
        );
        let missing = || Error::NotFound { what: "LoRA", name: name.to_owned(), hint, how: None };
        return adapter(path).map_err(|_| missing()).map(Some);
    }
    Ok(None)
}

/// The adapter in a folder of PEFT's or diffusers': the folder itself when PEFT's settings are
/// there, the file of weights otherwise.
fn standard(folder: &Path) -> Option<PathBuf> {
    let has = |name: &&&str| folder.join(name).is_file();
    if folder.join(CONFIG).is_file() && PEFT.iter().any(|name| has(&name)) {
        return Some(folder.to_path_buf());
    }
    STANDARD.iter().find(has).map(|name| folder.join(name))
}

/// The adapter in a folder, such as the cached snapshot of a repository: one with a known name, or the only file.
fn adapter(folder: &Path) -> Result<PathBuf, Lack> {
    if let Some(path) = standard(folder) {
        return Ok(path);
    }
    if folder.join("model_index.json").exists() {
        return Err(Lack::All("a model, not a LoRA; use it as the model"));
    }
    snapshot::only(folder, |_| true, "neither a LoRA of a known name nor a .safetensors file")
}

/// The file of weights of a LoRA: itself, or the one in its folder.
pub(super) fn weights(path: &Path) -> PathBuf {
    let inside = PEFT.iter().map(|name| path.join(name)).find(|file| file.is_file());
    inside.unwrap_or_else(|| path.to_path_buf())
}

/// The names and paths of the LoRAs in `folder`, sorted; an unreadable folder holds none.
fn scan(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    walk(folder, &mut |path, prefix, name| {
        if path.is_dir() {
            let adapter = standard(path);
            found.extend(adapter.iter().map(|path| (format!("{prefix}{name}"), path.clone())));
            return adapter.is_some();
        }
        let Some((stem, extension)) = name.rsplit_once('.') else { return false };
        let taken = EXTENSIONS.contains(&extension) && !is_companion(path, stem, extension);
        if taken {
            found.push((format!("{prefix}{stem}"), path.to_path_buf()));
        }
        taken
    });
    found.sort();
    found
}

/// Whether a file only goes with another one: `x.text_encoder.pt` with `x.pt`.
fn is_companion(path: &Path, stem: &str, extension: &str) -> bool {
    let Some((first, word)) = stem.rsplit_once('.') else { return false };
    COMPANIONS.contains(&word) && path.with_file_name(format!("{first}.{extension}")).is_file()
}

/// The files that go with a LoRA's file, and the word in their names.
pub(super) fn companions(path: &Path) -> Vec<(&'static str, PathBuf)> {
    let Some(extension) = path.extension().and_then(|e| e.to_str()) else { return Vec::new() };
    let named = |word| (word, path.with_extension(format!("{word}.{extension}")));
    COMPANIONS.into_iter().map(named).filter(|(_, path)| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::fs;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn filled() -> (tempfile::TempDir, Store) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        for (path, text) in [
            ("mine/ink.safetensors", "12345"),
            ("mine/ink.toml", "weight = 0.8\ntrigger_words = [\"ink\"]"),
            ("mine/styles/anime.v2.safetensors", ""),
            ("loras/old.pt", "12"),
            ("loras/old.text_encoder.pt", "3"),
            ("loras/lone.text_encoder.pt", ""),
            ("loras/two.safetensors", ""),
            ("loras/notes.txt", ""),
            ("loras/.hidden.safetensors", ""),
            ("loras/bad.ckpt", ""),
            ("loras/bad.toml", "wieght = 1"),
            ("project/Cargo.toml", ""),
            ("project/loras/two.safetensors", ""),
            ("project/loras/peft.v1/adapter_model.safetensors", "1234"),
            ("project/loras/peft.v1/adapter_config.json", "{}"),
            ("project/loras/peft.v1.toml", "title = \"P\""),
            ("project/target/release/colora", ""),
            ("home/colora/loras/diffusers/pytorch_lora_weights.safetensors", ""),
            ("home/colora/models/ink.safetensors", ""),
            ("home/hub/models--o--n/refs/main", COMMIT),
        ] {
            write(folder, path, text);
        }
        let home = folder.join("home");
        let env = |name: &str| {
            ["XDG_DATA_HOME", "HF_HOME"].contains(&name).then(|| OsString::from(home.clone()))
        };
        let program = folder.join("project/target/release/colora");
        let store =
            Store::new(&[], folder, &env).with_loras(&[folder.join("mine")], Some(&program));
        (temporary, store)
    }

    fn find(store: &Store, name: &str) -> Result<FoundLora> {
        store.lora(name, &Cancel::new(), &|_| ())
    }

    #[test]
    fn folders_are_searched_in_order() {
        let (folder, store) = filled();
        let expected = ["mine", "loras", "project/loras", "home/colora/loras"];
        assert_eq!(store.lora_folders(), expected.map(|name| folder.path().join(name)));
        let program = folder.path().join("project/target/release/colora");
        write(folder.path(), "project/target/release/loras/x.pt", "");
        assert_eq!(beside(&program), Some(program.with_file_name("loras")), "beside the program");
        assert_eq!(beside(&folder.path().join("home/colora/x/colora")), None);
    }

    #[test]
    fn names_lead_to_files() {
        let (folder, store) = filled();
        for (name, path) in [
            ("ink", "mine/ink.safetensors"),
            ("ink.safetensors", "mine/ink.safetensors"),
            ("anime.v2", "mine/styles/anime.v2.safetensors"),
            ("styles/anime.v2", "mine/styles/anime.v2.safetensors"),
            ("styles/anime.v2.safetensors", "mine/styles/anime.v2.safetensors"),
            ("old", "loras/old.pt"),
            ("peft.v1", "project/loras/peft.v1"),
            ("diffusers", "home/colora/loras/diffusers/pytorch_lora_weights.safetensors"),
        ] {
            let path = folder.path().join(path);
            assert_eq!(find(&store, name).unwrap().path, path, "{name}");
            assert_eq!(find(&store, path.to_str().unwrap()).unwrap().path, path);
        }
        let ink = find(&store, "ink").unwrap().card.unwrap();
        assert_eq!((ink.weight, &ink.trigger_words[..]), (Some(0.8), &["ink".to_owned()][..]));
        assert_eq!(find(&store, "peft.v1").unwrap().card.unwrap().title.unwrap(), "P");
        assert_eq!(find(&store, "old").unwrap().card, None);
        for (one, file) in [("one", "any.safetensors"), ("two", "pytorch_lora_weights.bin")] {
            write(folder.path(), &format!("alone/{one}/{file}"), "");
            write(folder.path(), &format!("alone/{one}/README.md"), "");
            let whole = folder.path().join("alone").join(one);
            assert_eq!(find(&store, whole.to_str().unwrap()).unwrap().path, whole.join(file));
        }
        let whole = folder.path().join("home/colora/loras/diffusers");
        assert!(find(&store, whole.to_str().unwrap()).unwrap().path.is_file());
    }

    #[test]
    fn missing_and_ambiguous_names_are_explained() {
        let (folder, store) = filled();
        let error = find(&store, "inc").unwrap_err();
        assert_eq!(error.fault().exit_code(), 4);
        let message = error.to_string();
        assert!(message.starts_with("no LoRA named") && message.contains("`ink`"), "{message}");
        let message = find(&store, "two").unwrap_err().to_string();
        assert!(message.contains("single LoRA") && message.contains("project"), "{message}");
        let message = find(&store, folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("adapter_model"), "{message}");
        let message = find(&store, "bad").unwrap_err().to_string();
        assert!(message.contains("did you mean `weight`"), "{message}");
        for name in ["", "notes", ".hidden", "lone", "old.text_encoder", "loras"] {
            assert!(matches!(find(&store, name), Err(Error::NotFound { .. })), "{name}");
        }
        let error = find(&store, "hub:x").unwrap_err();
        assert!(matches!(error, Error::BadRequest { field: "lora", .. }));
    }

    #[test]
    fn the_list_has_sizes_and_cards() {
        let (_folder, store) = filled();
        let list = store.loras();
        let find = |name: &str| list.iter().find(|e| e.name == name).unwrap();
        assert_eq!((find("ink").bytes, find("old").bytes, find("peft.v1").bytes), (5, 3, 6));
        assert!(find("bad").warning.as_ref().unwrap().contains("wieght"));
        assert!(find("lone.text_encoder").card.is_none());
        assert_eq!(list.len(), 9);
    }

    #[test]
    fn sums_are_checked() {
        let (folder, store) = filled();
        let verify = |store: &Store| {
            let ink = store.loras().into_iter().find(|e| e.name == "ink").unwrap();
            ink.verify(&Cancel::new()).unwrap()
        };
        assert_eq!(verify(&store), None);
        let file = folder.path().join("mine/ink.safetensors");
        let sum = digest::sha256(&file, &Cancel::new()).unwrap();
        write(folder.path(), "mine/ink.toml", &format!("sha256 = \"{}\"", sum.to_uppercase()));
        assert_eq!(verify(&store), Some(true));
        fs::write(file, "other").unwrap();
        assert_eq!(verify(&store), Some(false));
    }

    #[test]
    fn cached_repositories_are_used() {
        let (folder, store) = filled();
        let snapshot = format!("home/hub/models--o--n/snapshots/{COMMIT}");
        let path = folder.path().join(&snapshot);
        write(folder.path(), &format!("{snapshot}/ink.safetensors"), "");
        assert_eq!(find(&store, "hub:o/n").unwrap().path, path.join("ink.safetensors"));
        assert_eq!(
            find(&store, "hub:o/n/ink.safetensors").unwrap().path,
            path.join("ink.safetensors")
        );
        write(folder.path(), &format!("{snapshot}/adapter_model.safetensors"), "");
        assert_eq!(find(&store, "hub:o/n").unwrap().path, path.join("adapter_model.safetensors"));
        write(folder.path(), &format!("{snapshot}/adapter_config.json"), "");
        assert_eq!(find(&store, "hub:o/n").unwrap().path, path);
        assert!(store.loras().iter().any(|e| e.name == "hub:o/n"));
    }
}
