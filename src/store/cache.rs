//! The cache of hub downloads that is shared with other tools: where it is, what a
//! repository's folder looks like, and what of it is usable without any request.

use super::Env;
use super::list::{Entry, Kind, size};
use crate::error::{Error, Result};
use crate::input;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The hub that is asked unless `HF_ENDPOINT` names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Names that diffusers and PEFT give to the weights of an adapter.
pub(super) const STANDARD: [&str; 4] = [
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
];
/// The settings that PEFT writes beside the weights.
pub(super) const CONFIG: &str = "adapter_config.json";

/// A model on the hub: `owner/name[/FILE][@REVISION]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// One file of the repository; `None` for a whole model.
    pub file: Option<String>,
}

impl std::str::FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let why = "expected hub:owner/name, hub:owner/name@revision or hub:owner/name/file";
            Error::bad_request("model", format!("hub:{text}"), why)
        };
        let (path, revision) = text.rsplit_once('@').unwrap_or((text, "main"));
        let mut parts = path.splitn(3, '/');
        let (owner, name) = parts.next().zip(parts.next()).ok_or_else(bad)?;
        let file = parts.next().map(str::to_owned);
        let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let fine = is_relative(revision)
            && [owner, name].iter().all(|s| plain(s) && is_relative(s))
            && file.as_deref().is_none_or(is_relative);
        let repo = format!("{owner}/{name}");
        if fine { Ok(Self { repo, revision: revision.to_owned(), file }) } else { Err(bad()) }
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repo)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether `path` stays below the folder it is joined to, on every system.
pub(super) fn is_relative(path: &str) -> bool {
    let normal = |c| matches!(c, Component::Normal(_));
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && !path.ends_with('/')
        && Path::new(path).components().all(normal)
}

/// Whether `text` is a full commit id.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A secret that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// An address without the name and the password that may stand in it.
pub(super) fn without_secrets(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}***@{host}{}", &rest[end..]),
        None => url.to_owned(),
    }
}

/// The shared cache and how the hub behind it is reached.
#[derive(Debug, Clone)]
pub struct HubCache {
    root: PathBuf,
    endpoint: String,
    offline: bool,
    #[cfg_attr(not(feature = "hub"), allow(dead_code))] // only downloads need it
    pub(super) token: Option<Secret>,
}

impl HubCache {
    /// The cache as `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` set it, and the
    /// older `HUGGINGFACE_HUB_CACHE` and `TRANSFORMERS_OFFLINE` where these are silent.
    pub fn new(env: Env<'_>) -> Self {
        let text = |name: &str| {
            let value = env(name).map(|v| v.to_string_lossy().trim().to_owned());
            value.filter(|v| !v.is_empty())
        };
        let folder = |name: &str| text(name).map(|value| super::actual(expanded(&value, env)));
        let cache_dir = || {
            let home = || etcetera::home_dir().map(|home| home.join(".cache")).unwrap_or_default();
            folder("XDG_CACHE_HOME").unwrap_or_else(home)
        };
        let home = folder("HF_HOME").unwrap_or_else(|| cache_dir().join("huggingface"));
        let token_file =
            || small_text(&folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")));
        let token = text("HF_TOKEN").or_else(token_file).map(|t| t.trim().to_owned());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let yes = ["1", "on", "yes", "true"];
        let root = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        Self {
            root: root.unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: text("HF_HUB_OFFLINE")
                .or_else(|| text("TRANSFORMERS_OFFLINE"))
                .is_some_and(|v| yes.contains(&v.to_lowercase().as_str())),
            token: token.filter(|t| !t.is_empty()).map(Secret),
        }
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The hub's address for people, without the name and the password that may stand in it.
    pub fn shown_endpoint(&self) -> String {
        without_secrets(&self.endpoint)
    }

    /// Whether requests are forbidden.
    pub fn offline(&self) -> bool {
        self.offline
    }

    /// The folder of a repository.
    pub(super) fn folder(&self, repo: &str) -> PathBuf {
        self.root.join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The repositories of which something is here, sorted.
    pub(super) fn repositories(&self) -> Vec<HubId> {
        let items = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let id = |item: fs::DirEntry| {
            let name = item.file_name();
            name.to_str()?.strip_prefix("models--")?.replacen("--", "/", 1).parse().ok()
        };
        let mut ids: Vec<HubId> = items.filter_map(id).collect();
        ids.sort_by(|a, b| a.repo.cmp(&b.repo));
        ids
    }

    /// The models that are here in full, under their `main` revision.
    pub fn entries(&self) -> Vec<Entry> {
        let entry = |id: HubId| {
            let path = self.find(&id)?;
            let kind = if path.is_dir() { Kind::Diffusers } else { Kind::Safetensors };
            let bytes = Some(size(&path, 3));
            Some(Entry { name: format!("hub:{id}"), kind, bytes, path: Some(path) })
        };
        self.repositories().into_iter().filter_map(entry).collect()
    }
}

/// A path from the environment as other tools read it: `~` is the home folder, `$NAME` and `${NAME}` are
/// variables; unknown ones stay as they are.
fn expanded(path: &str, env: Env<'_>) -> PathBuf {
    let home = || env("HOME").map(PathBuf::from).or_else(|| etcetera::home_dir().ok());
    let path = match (path.strip_prefix('~'), home()) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with(['/', '\\']) => {
            format!("{}{rest}", home.to_string_lossy())
        }
        _ => path.to_owned(),
    };
    let mut parts = path.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, rest) = match part.strip_prefix('{').and_then(|part| part.split_once('}')) {
            Some(found) => found,
            None => part.split_at(part.find(|c| !is_name(c)).unwrap_or(part.len())),
        };
        match env(name).filter(|_| !name.is_empty()) {
            Some(value) => out.extend([&*value.to_string_lossy(), rest]),
            None => out.extend(["$", part]),
        }
    }
    out.into()
}

/// The text of a small file of the cache; `None` when it cannot be read, whatever the reason.
pub(super) fn small_text(path: &Path) -> Option<String> {
    input::text(path, 1 << 20, "a file of the cache").ok()
}

/// Weights by preference: the endings of a component's files without and with a variant.
pub(super) const WEIGHTS: [&str; 4] = [".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin"];

/// Whether a file of a component's folder is called like its weights, or like the list of their parts.
pub(super) fn is_weights(name: &str) -> bool {
    let stem = name.split(['.', '-']).next().unwrap_or_default();
    ["model", "pytorch_model", "diffusion_pytorch_model"].contains(&stem)
        && WEIGHTS.contains(&form(name).as_str())
}

/// Whether a file of weights lists the parts of others.
pub(super) fn is_index(name: &str) -> bool {
    name.rsplit('.').next() == Some("json")
}

/// What follows the stem and the part number: `.safetensors`, `.fp16.safetensors`, …
///
/// Parts are `model-00001-of-00002.fp16.safetensors` or `model.fp16-00001-of-00002.safetensors`,
/// their index `model.safetensors.index.fp16.json` or `model.safetensors.index.json`.
pub(super) fn form(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let mut words: Vec<&str> = name.split('.').skip(1).collect();
    if words.last() == Some(&"json") {
        words.retain(|w| *w != "index" && *w != "json");
        words.sort_unstable_by_key(|w| ["safetensors", "bin"].contains(w));
    }
    words.iter().flat_map(|word| [".", word.split('-').next().unwrap_or(word)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn cache(vars: &[(&str, &str)]) -> HubCache {
        HubCache::new(&|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn ids_parse_and_nothing_escapes() {
        let id: HubId = "a/b-1.5/sub/x.safetensors@v2".parse().unwrap();
        assert_eq!((id.repo.as_str(), id.revision.as_str()), ("a/b-1.5", "v2"));
        assert_eq!(id.file.as_deref(), Some("sub/x.safetensors"));
        assert_eq!(id.to_string(), "a/b-1.5/sub/x.safetensors@v2");
        assert_eq!("a/b".parse::<HubId>().unwrap().to_string(), "a/b");
        for bad in [
            "", "a", "a/", "/b", "../b", "a/..", "a/b/../c", "a/b//etc", "a/b/", "a b/c", "a/b@",
            "a/b@../x", "a/b/c\\d",
        ] {
            let parsed = bad.parse::<HubId>();
            assert!(matches!(parsed, Err(Error::BadRequest { .. })), "{bad}: {parsed:?}");
        }
    }

    /// `doctor` printed the password of a private mirror.
    #[test]
    fn passwords_in_addresses_are_not_shown() {
        for (url, shown) in [
            ("http://u:p@h:8/x@y", "http://***@h:8/x@y"),
            ("https://h/a@b", "https://h/a@b"),
            ("u:p@h", "***@h"),
            ("http://u:p@q@h", "http://***@h"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn the_environment_is_honoured() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        fs::write(home.path().join("token"), " from file\n").unwrap();
        let plain = cache(&[("HF_HOME", path)]);
        assert_eq!(plain.root(), home.path().join("hub"));
        assert_eq!((plain.endpoint(), plain.offline()), (DEFAULT_ENDPOINT, false));
        assert_eq!(plain.token, Some(Secret("from file".into())));
        let set = cache(&[
            ("HF_HOME", path),
            ("HF_HUB_CACHE", "/c"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_TOKEN", "secret"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(
            (set.root(), set.endpoint(), set.offline()),
            (Path::new("/c"), "http://mirror", true)
        );
        assert_eq!(set.token, Some(Secret("secret".into())));
        assert!(!format!("{set:?}").contains("secret"));
    }

    #[test]
    fn folders_are_written_as_in_a_shell() {
        let root = |name: &str, value: &str| {
            cache(&[("HOME", "/me"), ("WHERE", "x/y"), ("HF_TOKEN", "x"), (name, value)]).root
        };
        for (name, value, expected) in [
            ("HF_HOME", "~/hf", "/me/hf/hub"),
            ("HF_HOME", "~", "/me/hub"),
            ("HF_HUB_CACHE", "$HOME/hfc", "/me/hfc"),
            ("HF_HUB_CACHE", "/a/${WHERE}z/$WHERE", "/a/x/yz/x/y"),
            ("HF_HUB_CACHE", "/a$/$MISSING/${WHERE", "/a$/$MISSING/${WHERE"),
            ("HF_HUB_CACHE", "/~/b", "/~/b"),
            ("HF_HUB_CACHE", "~you/b", "~you/b"),
            ("HUGGINGFACE_HUB_CACHE", "~/old", "/me/old"),
            ("XDG_CACHE_HOME", "$HOME/c", "/me/c/huggingface/hub"),
        ] {
            assert_eq!(root(name, value), Path::new(expected), "{name}={value}");
        }
        let both = cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")]);
        assert_eq!(both.root(), Path::new("/new"));
        assert!(cache(&[("TRANSFORMERS_OFFLINE", "1")]).offline());
        assert!(!cache(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]).offline());
    }

    #[test]
    fn a_cached_model_counts_only_when_complete() {
        let home = tempfile::tempdir().unwrap();
        let cache = cache(&[("HF_HUB_CACHE", home.path().to_str().unwrap()), ("HF_TOKEN", "x")]);
        let id: HubId = "o/n".parse().unwrap();
        let commit = "0123456789012345678901234567890123456789";
        let folder = cache.folder("o/n");
        let snapshot = folder.join("snapshots").join(commit);
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(folder.join("refs/main"), commit);
        write(
            snapshot.join("model_index.json"),
            r#"{"unet": ["d", "U"], "vae": [null, null], "tokenizer": ["t", "C"], "scheduler": ["d", "E"]}"#,
        );
        // All but one of these is not enough, whatever else there is.
        let needed = [
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "scheduler/scheduler_config.json",
        ];
        let others = [
            "unet/openvino_model.bin",
            "unet/model.onnx",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "tokenizer/tokenizer_config.json",
        ];
        for file in needed.iter().chain(&others) {
            write(snapshot.join(file), "{}");
        }
        for file in needed {
            assert_eq!(cache.find(&id), Some(snapshot.clone()), "{file}");
            fs::remove_file(snapshot.join(file)).unwrap();
            assert_eq!(cache.find(&id), None, "without {file}");
            write(snapshot.join(file), "{}");
        }
        assert_eq!(cache.entries()[0].name, "hub:o/n");
        let pinned: HubId = format!("o/n/unet/config.json@{commit}").parse().unwrap();
        assert_eq!(cache.find(&pinned), Some(snapshot.join("unet/config.json")));
        write(folder.join("refs/main"), "../../../etc");
        assert_eq!(cache.find(&id), None, "a ref is a commit and nothing else");
    }
}
