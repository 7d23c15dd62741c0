//! From a name to its files: folders of models and LoRAs, the cache shared with other
//! tools, and (feature `hub`) downloads into that cache.
//!
//! Floor 6.

mod actual;
mod add;
mod cache;
mod card;
mod digest;
mod embedding;
mod find;
mod hashes;
#[cfg(feature = "hub")]
mod hub;
mod list;
mod lora;
mod place;
mod prompts;
mod snapshot;
mod stack;
mod styles;
mod table;

pub use actual::actual;
pub use add::NewLora;
pub use cache::{DEFAULT_ENDPOINT, HubCache, HubId};
pub use card::Card;
pub use digest::Hashing;
pub use embedding::EmbeddingEntry;
pub use find::Wanted;
pub use list::{Entry, Kind};
pub use lora::{FoundLora, LoraEntry};
pub use stack::Stack;

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::pipeline::Cancel;
use crate::suggest::did_you_mean;
use snapshot::{Absent, Usable};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the model that is built into colora.
pub const STARTER: &str = "starter";

/// Reads one environment variable; a function so that tests need not touch the real environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where a model was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// The one built into colora.
    Starter,
    /// A checkpoint file or a diffusers folder.
    Files(PathBuf),
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The file inside the repository.
    pub file: String,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all, when the server reports them.
    pub total: Option<u64>,
}

/// Receives the progress of downloads.
pub type Progress<'a> = &'a dyn Fn(&Transfer);

/// The places where models and LoRAs are looked for.
#[derive(Debug, Clone)]
pub struct Store {
    folders: Vec<PathBuf>,
    lora_folders: Vec<PathBuf>,
    prompt_folders: Vec<PathBuf>,
    cache: HubCache,
    hashes: hashes::HashCache,
}

impl Store {
    /// The store with the folders `dirs` in front, then `models` in `folder` and `colora/models` in
    /// the user's data folder; the shared cache as the environment describes it. LoRAs are in
    /// `loras` at the same two places, see [`with_loras`](Self::with_loras) for more.
    pub fn new(dirs: &[PathBuf], folder: &Path, env: Env<'_>) -> Self {
        let mut folders: Vec<PathBuf> = dirs.iter().map(actual).collect();
        folders.push(folder.join("models"));
        let data = data_dir(env).map(|data| data.join("colora"));
        folders.extend(data.iter().map(|data| data.join("models")));
        let lora_folders = [folder.join("loras")]
            .into_iter()
            .chain(data.iter().map(|data| data.join("loras")))
            .collect();
        let prompt_folders = [folder.join("prompts")]
            .into_iter()
            .chain(data.map(|data| data.join("prompts")))
            .collect();
        let hashes = hashes::HashCache::new(env);
        Self { folders, lora_folders, prompt_folders, cache: HubCache::new(env), hashes }
    }

    /// The folders that are searched by name, in order, whether they exist or not.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The cache that is shared with other tools.
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// Finds `name`: [`STARTER`], `hub:owner/name`, an existing path, or a name in the folders with
    /// or without its extension.
    ///
    /// A hub model that is in the shared cache is used from there without any request; otherwise it
    /// is downloaded, `progress` is called and `cancel` checked between blocks.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near matches when there is none or more than one, for what is in the cache and
    /// cannot be used, for an unreachable hub and for what the hub refuses; [`Error::Unsupported`] when a download is needed but this
    /// build lacks the feature `hub`; [`Error::BadRequest`] for a malformed hub id.
    pub fn resolve(&self, name: &str, cancel: &Cancel, progress: Progress<'_>) -> Result<Model> {
        if name == STARTER {
            return Ok(Model::Starter);
        }
        if let Some(id) = name.strip_prefix("hub:") {
            let id: HubId = id.parse()?;
            return match self.cache.look(&id, snapshot::model) {
                Ok(usable) => Ok(Model::Files(said(usable))),
                Err(absent) => {
                    instead(&absent, &id, || self.pull(&id, cancel, progress)).map(Model::Files)
                }
            };
        }
        match existing(name)? {
            Some(path) => Ok(Model::Files(path)),
            None => self.by_name(name).map(Model::Files),
        }
    }

    /// Whether [`resolve`](Self::resolve) finds the hub model `name` here; true for what is no id at all, which
    /// it refuses.
    pub fn has_hub_model(&self, name: &str) -> bool {
        let id = name.strip_prefix("hub:").unwrap_or(name).parse::<HubId>();
        !id.is_ok_and(|id| self.cache.find(&id).is_none())
    }

    /// The model called `name` in the folders, whatever of this name lies elsewhere.
    ///
    /// # Errors
    /// [`Error::NotFound`] with near matches when there is none or more than one.
    pub fn named(&self, name: &str) -> Result<PathBuf> {
        self.by_name(name)
    }

    /// Downloads what of `id` is not in the shared cache, or brings it up to date.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    #[cfg(feature = "hub")]
    pub fn pull(&self, id: &HubId, cancel: &Cancel, progress: Progress<'_>) -> Result<PathBuf> {
        hub::pull(&self.cache, id, hub::model, cancel, progress)
    }

    /// Refuses: this build cannot download.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the feature, always.
    #[cfg(not(feature = "hub"))]
    pub fn pull(&self, id: &HubId, _: &Cancel, _: Progress<'_>) -> Result<PathBuf> {
        Err(Error::unsupported(
            format!("downloading `hub:{id}`"),
            Hint::any_of([
                Hint::BuildWith("hub"),
                format!(
                    "put the model into the cache {} with another tool",
                    self.cache.root().display()
                )
                .into(),
            ]),
        ))
    }

    /// The folders of models that are there and cannot be read, with the reasons.
    pub fn unreadable(&self) -> Vec<Error> {
        self.folders.iter().flat_map(|folder| list::unreadable(folder)).collect()
    }

    /// Every model that can be named, the starter first.
    pub fn list(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::starter()];
        for folder in &self.folders {
            entries.extend(list::scan(folder));
        }
        entries.extend(self.cache.entries());
        entries
    }

    fn by_name(&self, name: &str) -> Result<PathBuf> {
        let entries = self.list();
        let called = entries.iter().filter(|e| e.is_called(name)).filter_map(|e| e.path.clone());
        let whats = ("model", "single model");
        only(name, whats, called, entries.iter().map(|e| e.name.as_str()), &self.folders)
    }
}

/// What a download gives in the place of what is not in the cache, or why there is none.
fn instead(absent: &Absent, id: &HubId, pull: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
    let otherwise = "bring the cache up to date with another tool";
    let how = || Hint::any_of([Hint::BuildWith("hub"), otherwise.into()]);
    let known = match absent {
        Absent::Unknown(near) => !near.is_empty(),
        _ => true,
    };
    if !absent.is_downloadable() || (!cfg!(feature = "hub") && known) {
        return Err(absent.error(id, how()));
    }
    pull().map_err(|error| absent.beside(error))
}

/// The path of what is used, after its note was logged as a warning.
fn said(usable: Usable) -> PathBuf {
    if let Some(note) = usable.note {
        tracing::warn!("{note}");
    }
    usable.path
}

/// The only one of the paths `called` so; the error names near ones of `known`, or all that are
/// called so.
fn only<'a>(
    name: &str,
    (what, single): (&'static str, &'static str),
    called: impl Iterator<Item = PathBuf>,
    known: impl Iterator<Item = &'a str>,
    folders: &[PathBuf],
) -> Result<PathBuf> {
    // The same folder may be listed twice, once relative.
    let identity = |path: PathBuf| (path.canonicalize().unwrap_or(path.clone()), path);
    let found: BTreeMap<PathBuf, PathBuf> = called.map(identity).collect();
    let found: Vec<PathBuf> = found.into_values().collect();
    if let [only] = &found[..] {
        return Ok(only.clone());
    }
    let (what, hint) = if found.is_empty() {
        let near = did_you_mean(name, known);
        let sought = if near.is_empty() { "; searched in" } else { " Searched in" };
        let unread: Vec<Error> = folders.iter().flat_map(|f| list::unreadable(f)).collect();
        let unread: Vec<String> = unread.iter().map(with_cause).collect();
        let unread = unread.concat();
        (what, format!("{near}{sought} {}{unread}", shown(folders)))
    } else {
        (single, format!("; found {}; pass one of these paths", shown(&found)))
    };
    Err(Error::NotFound { what, name: name.to_owned(), hint, how: None })
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// An error and what caused it, behind other words of one line.
fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("; {error}: {cause}"),
        None => format!("; {error}"),
    }
}

/// Refuses a path that is there, or might be, and cannot be looked at.
///
/// # Errors
/// [`Error::Io`] where the system gives another reason than that there is nothing.
fn look_at(path: &Path) -> Result<()> {
    use std::io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    match std::fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(e) if [NotFound, NotADirectory, InvalidInput, InvalidFilename].contains(&e.kind()) => {
            Ok(())
        }
        Err(e) => Err(Error::io(path, e)),
    }
}

/// `name` as a path that exists and can be a model.
///
/// A bare word that is a plain folder is none: `models` must not shadow a model's name.
fn existing(name: &str) -> Result<Option<PathBuf>> {
    let path = &*actual(name);
    let spelt_as_path =
        path.components().count() > 1 || path.is_absolute() || name.starts_with('.');
    if spelt_as_path {
        look_at(path)?;
    }
    let usable =
        if spelt_as_path { path.exists() } else { path.is_file() || list::is_diffusers(path) };
    Ok(usable.then(|| path.to_path_buf()))
}

/// The user's data folder.
fn data_dir(env: Env<'_>) -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    let given = env("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    given.or_else(|| etcetera::choose_base_strategy().ok().map(|base| base.data_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn store(folder: &Path) -> Store {
        let home = folder.join("home");
        let env = |name: &str| {
            ["XDG_DATA_HOME", "HF_HOME"].contains(&name).then(|| OsString::from(home.clone()))
        };
        Store::new(&[folder.join("mine")], folder, &env)
    }

    fn resolve(store: &Store, name: &str) -> Result<Model> {
        store.resolve(name, &Cancel::new(), &|_| ())
    }

    fn filled() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("mine/fox.safetensors", "12345"),
            ("mine/owl.ckpt", ""),
            ("models/owl.safetensors", ""),
            ("models/sub/hare.safetensors", ""),
            ("models/.hidden.safetensors", ""),
            ("models/notes.txt", ""),
            ("home/colora/models/whole/model_index.json", "{}"),
            ("home/colora/models/whole/unet/model.safetensors", "123"),
        ] {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let store = store(folder.path());
        (folder, store)
    }

    #[test]
    fn names_lead_to_files() {
        let (folder, store) = filled();
        for (name, path) in [
            ("fox", "mine/fox.safetensors"),
            ("fox.safetensors", "mine/fox.safetensors"),
            ("owl.ckpt", "mine/owl.ckpt"),
            ("sub/hare", "models/sub/hare.safetensors"),
            ("hare", "models/sub/hare.safetensors"),
            ("whole", "home/colora/models/whole"),
        ] {
            let path = folder.path().join(path);
            assert_eq!(resolve(&store, name).unwrap(), Model::Files(path.clone()), "{name}");
            assert_eq!(resolve(&store, path.to_str().unwrap()).unwrap(), Model::Files(path));
        }
        assert_eq!(resolve(&store, STARTER).unwrap(), Model::Starter);
    }

    #[test]
    fn missing_and_ambiguous_names_are_explained() {
        let (_folder, store) = filled();
        let error = resolve(&store, "fxo").unwrap_err();
        assert_eq!(error.fault().exit_code(), 4);
        let message = error.to_string();
        assert!(message.contains("did you mean `fox`") && message.contains("mine"), "{message}");
        let message = resolve(&store, "owl").unwrap_err().to_string();
        assert!(message.contains("owl.ckpt") && message.contains("owl.safetensors"), "{message}");
        for name in ["../mine/fox", "", "notes", ".hidden"] {
            assert!(matches!(resolve(&store, name), Err(Error::NotFound { .. })), "{name}");
        }
    }

    #[test]
    fn the_list_knows_kinds_and_sizes() {
        let (_folder, store) = filled();
        let list = store.list();
        assert_eq!(list[0].kind, Kind::Starter);
        let find = |name: &str| list.iter().find(|e| e.name == name).unwrap();
        assert_eq!((find("fox").kind, find("fox").bytes), (Kind::Safetensors, Some(5)));
        assert_eq!((find("whole").kind, find("whole").bytes), (Kind::Diffusers, Some(5)));
        assert_eq!(list.len(), 6);
    }

    #[test]
    #[cfg(not(feature = "hub"))]
    fn without_the_feature_a_download_is_refused() {
        let (_folder, store) = filled();
        let error = resolve(&store, "hub:a/b").unwrap_err();
        assert_eq!(error.fault().exit_code(), 5);
        assert!(error.to_string().contains("the feature `hub`"));
    }
}
