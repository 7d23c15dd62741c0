//! Where the words of a picture may lead: the user's own folders, and what lies beside the picture.

use crate::store::{STARTER, Store};
use std::path::{Component, Path, PathBuf};

/// What lies in the folder of a model or of a LoRA, so that a bare word can mean the folder.
const SIGNS: [&str; 2] = ["model_index.json", "adapter_config.json"];
/// How deep folders beside a picture are searched for links that lead away, and how many files.
const DEPTH: usize = 4;
const MOST_FILES: usize = 10_000;

/// What a word names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A model.
    Model,
    /// The model that takes over within the run.
    Refiner,
    /// A VAE, by path alone.
    Vae,
    /// A LoRA.
    Lora,
    /// A LoRA in a tag of the prompt.
    Tag,
}

impl What {
    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            What::Model => "model",
            What::Refiner => "refiner",
            What::Vae => "VAE",
            What::Lora | What::Tag => "LoRA",
        }
    }
}

/// Where a word leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Within reach, written so that it leads there from the current folder.
    Open(String),
    /// To what is not downloaded.
    Away,
    /// Anywhere else.
    Beyond,
}

/// The folders that a picture's words may lead to.
#[derive(Debug)]
pub(super) struct Reach<'a> {
    store: &'a Store,
    /// The picture's folder as it was given.
    beside: PathBuf,
    /// The same without links.
    picture: Option<PathBuf>,
    /// The user's folders of models and LoRAs and the cache, without links.
    own: Vec<PathBuf>,
    /// All of these, with links and without: no other path is even looked at.
    spelt: Vec<PathBuf>,
}

impl<'a> Reach<'a> {
    /// What is in reach of the picture at `path`.
    pub(super) fn new(store: &'a Store, path: &Path) -> Self {
        let beside = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let folders = store.folders().iter().chain(store.lora_folders());
        let folders: Vec<PathBuf> = folders.cloned().chain([store.cache().root().into()]).collect();
        let real = |folder: &PathBuf| here(folder).canonicalize().ok();
        let own: Vec<PathBuf> = folders.iter().filter_map(real).collect();
        let picture = real(&beside);
        let written = folders.iter().chain([&beside]).filter_map(|folder| plain(folder));
        let spelt = written.chain(own.iter().cloned()).chain(picture.clone()).collect();
        Self { store, beside, picture, own, spelt }
    }

    /// Where `word` leads.
    pub(super) fn way(&self, what: What, word: &str) -> Way {
        let open = || Way::Open(word.to_owned());
        if word.is_empty() || what == What::Model && word == STARTER {
            return open();
        }
        if word.starts_with("hub:") && what != What::Vae {
            let here = match what {
                What::Lora | What::Tag => self.store.has_hub_lora(word),
                _ => self.store.has_hub_model(word),
            };
            return if here { open() } else { Way::Away };
        }
        // Names of other machines are not looked at: to ask for one sends credentials.
        if word.starts_with(r"\\") || word.starts_with("//") {
            return Way::Beyond;
        }
        let path = Path::new(word);
        if self.holds(path) && is_there(word, path) {
            return open();
        }
        let rooted =
            path.has_root() || matches!(path.components().next(), Some(Component::Prefix(_)));
        let beside = Some(self.beside.join(path)).filter(|path| !rooted && self.holds(path));
        if let Some(found) = beside.filter(|path| is_there(word, path)) {
            return found.to_str().map_or(Way::Beyond, |found| Way::Open(found.to_owned()));
        }
        if rooted || path.components().any(|part| part == Component::ParentDir) {
            return Way::Beyond;
        }
        let named = match what {
            What::Model | What::Refiner => self.store.named(word).ok(),
            What::Lora | What::Tag => self.store.lora_named(word).ok(),
            What::Vae => None,
        };
        // Something else has this name, in the current folder, where it would be taken first, or beside the
        // picture, from where it leads away.
        let other = path.exists() || self.located(word).is_some();
        match (other, named.as_deref().and_then(Path::to_str)) {
            (true, Some(named)) => Way::Open(named.to_owned()),
            (true, None) => Way::Beyond,
            (false, _) => open(),
        }
    }

    /// The word as the user would have it who trusts the picture: as it stands, or beside the picture when only
    /// there is such a file.
    pub(super) fn trusted(&self, word: &str) -> String {
        let found = self.located(word).filter(|_| !Path::new(word).exists());
        found.and_then(|found| found.to_str().map(str::to_owned)).unwrap_or(word.to_owned())
    }

    /// The file or folder beside the picture that `word` can mean.
    fn located(&self, word: &str) -> Option<PathBuf> {
        let beside = self.beside.join(word);
        (!word.starts_with("hub:") && is_there(word, &beside)).then_some(beside)
    }

    /// Whether `path` is within reach, links resolved.
    fn holds(&self, path: &Path) -> bool {
        let within = |path: &Path, folders: &[PathBuf]| folders.iter().any(|f| path.starts_with(f));
        if !plain(path).is_some_and(|plain| within(&plain, &self.spelt)) {
            return false;
        }
        let Ok(real) = path.canonicalize() else { return false };
        // In his own folders the user may have put links to wherever he likes.
        let parent = here(path.parent().unwrap_or(path)).canonicalize().ok();
        let placed = parent.zip(path.file_name()).map(|(parent, name)| parent.join(name));
        if within(&real, &self.own) || placed.is_some_and(|placed| within(&placed, &self.own)) {
            return true;
        }
        let Some(picture) = &self.picture else { return false };
        let stays = |real: &Path| real.starts_with(picture) || within(real, &self.own);
        stays(&real) && links_stay(path, &stays)
    }
}

/// Whether the links inside a folder, or among the files that belong to a file, lead to where it is allowed.
fn links_stay(path: &Path, stays: &dyn Fn(&Path) -> bool) -> bool {
    if path.is_dir() {
        return walk(path, "", DEPTH, &mut MOST_FILES.clone(), stays);
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    walk(here(path.parent().unwrap_or(path)), &stem, 1, &mut MOST_FILES.clone(), stays)
}

/// Looks at what in `folder` begins with `stem`; too many files are not allowed.
fn walk(
    folder: &Path,
    stem: &str,
    depth: usize,
    budget: &mut usize,
    stays: &dyn Fn(&Path) -> bool,
) -> bool {
    let Ok(items) = std::fs::read_dir(folder) else { return false };
    for item in items.flatten().filter(|item| item.file_name().to_string_lossy().starts_with(stem))
    {
        let Some(left) = budget.checked_sub(1) else { return false };
        *budget = left;
        let path = item.path();
        let real = path.canonicalize();
        let linked = item.file_type().is_ok_and(|kind| kind.is_symlink());
        if linked && !real.is_ok_and(|real| stays(&real)) {
            return false;
        }
        if path.is_dir() && depth > 0 && !walk(&path, "", depth - 1, budget, stays) {
            return false;
        }
    }
    true
}

/// Whether `path`, where `word` leads, can be a model or a LoRA; a bare word means a folder of one.
fn is_there(word: &str, path: &Path) -> bool {
    let word = Path::new(word);
    let spelt_as_path = word.components().count() > 1 || word.extension().is_some();
    if spelt_as_path { path.exists() } else { SIGNS.iter().any(|sign| path.join(sign).is_file()) }
}

/// A folder that can be opened: the current one has no name.
fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// `path` from the root, its `.` and `..` taken away by name alone.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in std::path::absolute(here(path)).ok()?.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(folder: &Path, name: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn world() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for file in [
            "home/colora/loras/ink.safetensors",
            "home/colora/models/sub/dreamy.safetensors",
            "pictures/sub/q8.safetensors",
            "pictures/whole/model_index.json",
            "pictures/plain/x",
            "secret/key.safetensors",
        ] {
            write(root, file);
        }
        let home = root.join("home");
        let env = move |name: &str| {
            ["XDG_DATA_HOME", "HF_HOME"].contains(&name).then(|| home.clone().into_os_string())
        };
        let store = Store::new(&[], &root.join("work"), &env);
        (folder, store)
    }

    /// Whatever path a stranger's picture named was opened.
    #[test]
    fn words_lead_to_the_user_s_folders_and_beside_the_picture() {
        let (folder, store) = world();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let reach = Reach::new(&store, Path::new(&at("pictures/a.png")));
        let open = |what: What, word: &str| match reach.way(what, word) {
            Way::Open(found) => found,
            other => panic!("{word}: {other:?}"),
        };
        for word in ["sub/q8.safetensors", "./sub/q8.safetensors", "whole", "./plain"] {
            assert_eq!(open(What::Model, word), at("pictures/") + word, "{word}");
        }
        for word in ["dreamy", "q8", "plain", "nowhere.safetensors", "a/b", ""] {
            assert_eq!(open(What::Model, word), word);
            assert_eq!(open(What::Lora, word), word);
        }
        for inside in ["home/colora/loras/ink.safetensors", "pictures/sub/q8.safetensors"] {
            assert_eq!(open(What::Lora, &at(inside)), at(inside));
        }
        for word in [
            "../secret/key.safetensors",
            "sub/../../secret",
            "//host/share",
            r"\\host\x",
            "/etc/passwd",
        ] {
            assert_eq!(reach.way(What::Lora, word), Way::Beyond, "{word}");
        }
        assert_eq!(reach.way(What::Vae, &at("secret/key.safetensors")), Way::Beyond);
        assert_eq!(reach.way(What::Model, &at("pictures/../secret/key.safetensors")), Way::Beyond);
        // The tests run in the project's folder.
        assert_eq!(reach.way(What::Model, "src/lib.rs"), Way::Beyond);
        assert_eq!(reach.way(What::Model, "hub:o/n"), Way::Away);
        assert_eq!(reach.way(What::Lora, "hub:o/n"), Way::Away);
        assert_eq!(reach.trusted("sub/q8.safetensors"), at("pictures/sub/q8.safetensors"));
        assert_eq!(reach.trusted("src/lib.rs"), "src/lib.rs");
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_no_further() {
        use std::os::unix::fs::symlink;
        let (folder, store) = world();
        let at = |name: &str| folder.path().join(name);
        let key = at("secret/key.safetensors");
        for link in ["pictures/l.safetensors", "pictures/whole/w.bin", "home/colora/loras/mine.pt"]
        {
            symlink(&key, at(link)).unwrap();
        }
        symlink(&key, at("pictures/sub/q8.toml")).unwrap();
        symlink(at("secret"), at("pictures/dir")).unwrap();
        let reach = Reach::new(&store, &at("pictures/a.png"));
        for word in ["l.safetensors", "whole", "sub/q8.safetensors", "dir/key.safetensors"] {
            assert_eq!(reach.way(What::Lora, word), Way::Beyond, "{word}");
            let way = reach.way(What::Lora, &at("pictures").join(word).to_string_lossy());
            assert_eq!(way, Way::Beyond, "{word}");
        }
        let mine = at("home/colora/loras/mine.pt");
        let mine = mine.to_str().unwrap();
        assert_eq!(reach.way(What::Lora, mine), Way::Open(mine.to_owned()), "the user's own link");
    }
}
