//! What of a cached repository can be used without any request, and why the rest cannot.

use super::cache::{HubCache, HubId, STANDARD, is_commit, is_index, is_weights, small_text};
use super::list::is_diffusers;
use crate::error::Error;
use crate::hint::Hint;
use crate::suggest::{did_you_mean, near};
use crate::weights::Component;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Commits and files that are listed in one message.
const SHOWN: usize = 5;

/// What of a cached repository is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usable {
    /// A file or a folder.
    pub(super) path: PathBuf,
    /// A remark on the choice, for the user.
    pub(super) note: Option<String>,
}

/// Why nothing of a cached repository is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Absent {
    /// Nothing of it is here; with near names, ready for a message, or nothing.
    Unknown(String),
    /// It is here under a name in other letters.
    Spelling(String),
    /// Something of it is here that cannot be used.
    Broken(String),
    /// There is more than one thing that could be meant.
    Choice(String),
}

impl Absent {
    /// Whether a download would bring what lacks.
    pub(super) fn is_downloadable(&self) -> bool {
        !matches!(self, Absent::Choice(_))
    }

    /// The reason as an error; `what`: a model or a LoRA.
    pub(super) fn error(&self, id: &HubId, how: Hint) -> Error {
        let (why, how) = match self {
            Absent::Spelling(why) | Absent::Choice(why) => (why, None),
            Absent::Unknown(why) | Absent::Broken(why) => (why, Some(how)),
        };
        let (name, hint) = (format!("hub:{id}"), format!("; {why}"));
        Error::NotFound { what: "model", name, hint, how }
    }

    /// What the attempt to download gave, with what is wrong with the cache.
    pub(super) fn beside(&self, error: Error) -> Error {
        match (self, error) {
            (
                Absent::Broken(why) | Absent::Spelling(why) | Absent::Unknown(why),
                Error::NotFound { what, name, hint, how },
            ) if !why.is_empty() => {
                Error::NotFound { what, name, hint: format!("{hint}; {why}"), how }
            }
            (_, other) => other,
        }
    }
}

/// What a folder lacks to be a model or an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// These files, as messages name them.
    Files(Vec<String>),
    /// A choice: it has several files of weights.
    Choice(Vec<String>),
    /// Everything: it holds nothing of the kind.
    All(&'static str),
}

/// Finds the model or adapter in a folder.
pub(super) type Choose = fn(&Path) -> Result<PathBuf, Lack>;

impl HubCache {
    /// The file or folder of `id`, when all of it is here.
    pub fn find(&self, id: &HubId) -> Option<PathBuf> {
        self.look(id, model).ok().map(|usable| usable.path)
    }

    /// What of `id` is here; `choose` finds it in a snapshot when `id` names no file.
    pub(super) fn look(&self, id: &HubId, choose: Choose) -> Result<Usable, Absent> {
        let folder = self.folder(&id.repo);
        if let Err(error) = fs::metadata(&folder) {
            return Err(match error.kind() {
                ErrorKind::NotFound => self.near(id),
                _ => Absent::Broken(format!("{} cannot be read: {error}", folder.display())),
            });
        }
        let within = |snapshot: &Path| match &id.file {
            Some(file) => file_in(snapshot, file),
            None => choose(snapshot),
        };
        let snapshots = folder.join("snapshots");
        let reference = folder.join("refs").join(&id.revision);
        let commit = if is_commit(&id.revision) {
            id.revision.clone()
        } else if fs::symlink_metadata(&reference).is_ok() {
            let text = small_text(&reference).unwrap_or_default().trim().to_owned();
            Some(text)
                .filter(|text| is_commit(text))
                .ok_or_else(|| Absent::Broken(format!("{} holds no commit", reference.display())))?
        } else {
            return unnamed(id, &snapshots, &reference, &within);
        };
        let snapshot = snapshots.join(&commit);
        if !snapshot.is_dir() {
            let named = if commit == id.revision {
                String::new()
            } else {
                format!("{} names a snapshot that is not there: ", reference.display())
            };
            let why = format!("{named}{} is missing{}", snapshot.display(), others(id, &snapshots));
            return Err(Absent::Broken(why));
        }
        let usable = |path| Usable { path, note: None };
        within(&snapshot).map(usable).map_err(|lack| lack.of(id, &snapshot))
    }

    /// Near names in the cache; those that differ in capitals alone are what was meant.
    fn near(&self, id: &HubId) -> Absent {
        let known = self.repositories().into_iter();
        let known: Vec<HubId> =
            known.map(|HubId { repo, .. }| HubId { repo, ..id.clone() }).collect();
        if let Some(same) = known.iter().find(|other| other.repo.eq_ignore_ascii_case(&id.repo)) {
            return Absent::Spelling(format!("the cache has `hub:{same}`; capitals count"));
        }
        let repos = known.iter().map(|other| other.repo.as_str());
        let named = |repo: &str| {
            let meant = HubId { repo: repo.to_owned(), ..id.clone() };
            format!("`hub:{meant}`")
        };
        let near: Vec<String> = near(&id.repo, repos).into_iter().map(named).collect();
        Absent::Unknown(if near.is_empty() {
            String::new()
        } else {
            format!("did you mean {}?", near.join(" or "))
        })
    }
}

/// The snapshot of a repository without a ref, such as one that was downloaded by its commit: the only one that
/// has everything, if the user has not named another revision.
fn unnamed(
    id: &HubId,
    snapshots: &Path,
    reference: &Path,
    within: &dyn Fn(&Path) -> Result<PathBuf, Lack>,
) -> Result<Usable, Absent> {
    let all = commits(snapshots);
    let complete: Vec<(&String, PathBuf)> = all
        .iter()
        .filter_map(|commit| Some((commit, within(&snapshots.join(commit)).ok()?)))
        .collect();
    if let ([(commit, path)], "main") = (&complete[..], &*id.revision) {
        let note = format!(
            "hub:{id}: the cache has no {}; its only complete snapshot is used, commit {commit}",
            reference.display()
        );
        return Ok(Usable { path: path.clone(), note: Some(note) });
    }
    if let ([commit], "main") = (&all[..], &*id.revision) {
        let snapshot = snapshots.join(commit);
        // The lack of the only snapshot is the more precise reason.
        if let Err(lack) = within(&snapshot) {
            return Err(lack.of(id, &snapshot));
        }
    }
    Err(Absent::Broken(format!("{} is missing{}", reference.display(), others(id, snapshots))))
}

/// The snapshots that are here, as names that work.
fn others(id: &HubId, snapshots: &Path) -> String {
    let all = commits(snapshots);
    if all.is_empty() {
        return ", and there is no other snapshot".into();
    }
    let named = |commit: &String| {
        let id = HubId { revision: commit.clone(), ..id.clone() };
        format!("hub:{id}")
    };
    format!(
        "; there are snapshots that may do: {}",
        all.iter().take(SHOWN).map(named).collect::<Vec<_>>().join(", ")
    )
}

/// The commits of the snapshots in a folder, sorted.
fn commits(snapshots: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        names(snapshots).into_iter().filter(|name| is_commit(name)).collect();
    all.sort_unstable();
    all
}

/// The names in a folder; none for one that cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let items = fs::read_dir(folder).into_iter().flatten().flatten();
    items.filter_map(|item| item.file_name().into_string().ok()).collect()
}

impl Lack {
    /// Why the snapshot of a repository is not used.
    fn of(self, id: &HubId, snapshot: &Path) -> Absent {
        let place = format!("the snapshot {}", snapshot.display());
        match self {
            Lack::Files(files) => {
                let more = match files.len().saturating_sub(SHOWN) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let files: Vec<String> = files.into_iter().take(SHOWN).collect();
                Absent::Broken(format!("{place} lacks {}{more}", files.join(", ")))
            }
            Lack::All(what) => Absent::Broken(format!("{place} holds {what}")),
            Lack::Choice(files) => {
                let named = |file: &String| {
                    let id = HubId { file: Some(file.clone()), ..id.clone() };
                    format!("hub:{id}")
                };
                let named: Vec<String> = files.iter().map(named).collect();
                Absent::Choice(format!(
                    "the repository holds several files of weights; pass one of {}",
                    named.join(", ")
                ))
            }
        }
    }
}

/// One file of a snapshot.
fn file_in(snapshot: &Path, file: &str) -> Result<PathBuf, Lack> {
    let path = snapshot.join(file);
    if path.is_file() {
        return Ok(path);
    }
    if path.is_dir() {
        return Err(Lack::All("a folder of that name, where a file is expected"));
    }
    let folder = path.parent().unwrap_or(snapshot);
    let before = file.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    let known: Vec<String> =
        names(folder).into_iter().map(|name| format!("{before}{name}")).collect();
    let near = match fs::symlink_metadata(&path) {
        Ok(_) => String::new(),
        Err(_) => did_you_mean(file, known.iter().map(String::as_str)),
    };
    Err(Lack::Files(vec![format!("{}{near}", said(snapshot, file))]))
}

/// A missing file as messages name it: links may be there whose blobs are not.
fn said(snapshot: &Path, file: &str) -> String {
    let path = snapshot.join(file);
    match fs::read_link(&path) {
        Ok(blob) => {
            let blob = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
            format!("`{file}` (a link to the blob {blob}, which was deleted)")
        }
        Err(_) => format!("`{file}`"),
    }
}

/// The model in a folder: the folder itself, or the only checkpoint in it.
pub(super) fn model(folder: &Path) -> Result<PathBuf, Lack> {
    let listed = fs::symlink_metadata(folder.join("model_index.json")).is_ok();
    let checkpoint = |name: &str| !STANDARD.contains(&name);
    let alone = || only(folder, checkpoint, "neither a diffusers model nor a .safetensors file");
    match if listed { Err(Lack::Files(Vec::new())) } else { alone() } {
        Err(_) if listed || is_diffusers(folder) => match missing(folder) {
            missing if missing.is_empty() => Ok(folder.to_path_buf()),
            missing => Err(Lack::Files(missing)),
        },
        found => found,
    }
}

/// The only file of weights at the top of a folder.
pub(super) fn only(
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
    otherwise: &'static str,
) -> Result<PathBuf, Lack> {
    let is_weights = |name: &String| {
        Path::new(name).extension().is_some_and(|e| e == "safetensors") && wanted(name)
    };
    let mut files: Vec<String> = names(folder).into_iter().filter(is_weights).collect();
    files.sort_unstable();
    let (here, gone): (Vec<String>, Vec<String>) =
        files.into_iter().partition(|name| folder.join(name).is_file());
    match (&here[..], &gone[..]) {
        ([one], _) => Ok(folder.join(one)),
        ([], []) => Err(Lack::All(otherwise)),
        ([], gone) => Err(Lack::Files(gone.iter().map(|file| said(folder, file)).collect())),
        _ => Err(Lack::Choice(here)),
    }
}

/// What a diffusers model lacks of the components that its index names.
fn missing(snapshot: &Path) -> Vec<String> {
    let index = "model_index.json";
    let text = small_text(&snapshot.join(index));
    let Some(text) = text else { return vec![said(snapshot, index)] };
    let Ok(serde_json::Value::Object(parts)) = serde_json::from_str(&text) else {
        return vec![format!("a `{index}` that is JSON")];
    };
    let named = |part: &str| {
        let class = parts.get(part).and_then(|entry| entry.get(1));
        class.is_some_and(|class| !class.is_null())
    };
    let has = |file: &str| snapshot.join(file).exists();
    let mut missing = Vec::new();
    for component in Component::ALL.into_iter().filter(|component| named(component.name())) {
        missing.extend(missing_weights(snapshot, component));
    }
    for folder in ["tokenizer", "tokenizer_2"].into_iter().filter(|folder| named(folder)) {
        let files = ["vocab.json", "merges.txt"].map(|file| format!("{folder}/{file}"));
        if !has(&format!("{folder}/tokenizer.json")) {
            missing.extend(files.iter().filter(|file| !has(file)).map(|file| said(snapshot, file)));
        }
    }
    let scheduler = "scheduler/scheduler_config.json";
    if named("scheduler") && !has(scheduler) {
        missing.push(said(snapshot, scheduler));
    }
    missing
}

/// What a component's folder lacks of its config and its weights, all parts of them.
fn missing_weights(snapshot: &Path, component: Component) -> Vec<String> {
    let folder = snapshot.join(component.name());
    let mut missing = Vec::new();
    let config = format!("{component}/config.json");
    if !snapshot.join(&config).exists() {
        missing.push(said(snapshot, &config));
    }
    let mut weights: Vec<String> =
        names(&folder).into_iter().filter(|name| is_weights(name)).collect();
    weights.sort_unstable();
    let (here, gone): (Vec<String>, Vec<String>) =
        weights.into_iter().partition(|name| folder.join(name).exists());
    // Parts are called `model-00001-of-00002.safetensors`.
    let parts_in_all = |name: &String| {
        let (_, rest) = name.split_once("-of-")?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    let (lists, here): (Vec<String>, Vec<String>) = here.into_iter().partition(|n| is_index(n));
    let sharded = here.iter().filter_map(parts_in_all).max();
    let parts =
        here.iter().filter(|name| sharded.is_some() && parts_in_all(name) == sharded).count();
    let all_parts = !lists.is_empty() && sharded.is_some_and(|all| parts >= all);
    if all_parts || here.iter().any(|name| parts_in_all(name).is_none()) {
        return missing;
    }
    if !gone.is_empty() {
        missing.extend(gone.iter().map(|file| said(snapshot, &format!("{component}/{file}"))));
    } else if let Some(all) = sharded {
        let list = if lists.is_empty() { " and their list" } else { "" };
        missing
            .push(format!("{} of {all} parts of `{component}`{list}", all.saturating_sub(parts)));
    } else {
        let stem = if component.is_text() { "model" } else { "diffusion_pytorch_model" };
        missing.push(format!("`{component}/{stem}.safetensors`"));
    }
    missing
}
