//! Settings that outlive one command: files and environment, with their origins.
//!
//! Later layers win: the user's file, `colora.toml` in the current folder, `COLORA_*`. `app::settings` lays the
//! settings of a picture and of a command over them. The keys that are fields of requests come from
//! [`FIELDS`].
//!
//! Floor 6.

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::input;
use crate::pipeline::fields::{FIELDS, check_type, field};
use crate::suggest::did_you_mean;
use etcetera::BaseStrategy;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Reads one environment variable; a function so that tests need not touch the real environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Name of the file that is looked for in the current folder.
pub const LOCAL_FILE: &str = "colora.toml";

/// What can be set beside the fields of requests; `None` means that it is not set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Model to use: a name, a path or `hub:owner/name`.
    pub model: Option<String>,
    /// Folders that are searched for models by name; relative ones start at the file's folder.
    pub models_dirs: Option<Vec<PathBuf>>,
    /// Folders that are searched for LoRAs by name; relative ones start at the file's folder.
    pub loras_dirs: Option<Vec<PathBuf>>,
    /// Folders that are searched for wildcards and styles; relative ones start at the file's folder.
    pub prompts_dirs: Option<Vec<PathBuf>>,
    /// `auto`, `cpu`, `cuda`, `cuda:1` or `metal`.
    pub device: Option<String>,
    /// `f32`, `tf32`, `f16` or `bf16`.
    pub dtype: Option<String>,
    /// Worker threads on the CPU.
    pub threads: Option<usize>,
    /// A VAE to use instead of the model's own; a relative path starts at the file's folder.
    pub vae: Option<PathBuf>,
    /// File name template of pictures.
    pub output: Option<String>,
    /// Whether settings are written into pictures.
    pub metadata: Option<bool>,
}

/// Longest settings file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Keys beside those of [`FIELDS`], each with an example value and a remark, for the template of `config init`.
const KEYS: [(&str, &str, &str); 10] = [
    ("model", "\"starter\"", "a name, a path or hub:owner/name"),
    ("models_dirs", "[\"~/models\"]", "folders searched for models by name"),
    ("loras_dirs", "[\"~/loras\"]", "folders searched for LoRAs by name"),
    ("prompts_dirs", "[\"~/prompts\"]", "folders searched for wildcards and styles"),
    ("device", "\"auto\"", "auto, cpu, cuda, cuda:1 or metal"),
    ("dtype", "\"f32\"", "f32, tf32, f16 or bf16; default by device"),
    ("threads", "4", "worker threads on the CPU"),
    ("vae", "\"vae.safetensors\"", "instead of the model's own"),
    ("output", "\"{date}-{seed}-{index}.png\"", "also {time}, {model}, {prompt}"),
    ("metadata", "true", "write the settings into pictures"),
];

/// Every key that can be set, in the order of the template.
pub fn keys() -> impl Iterator<Item = &'static str> {
    let fields = FIELDS.iter().filter(|field| field.setting.is_some()).map(|field| field.key);
    KEYS.iter().map(|(key, ..)| *key).chain(fields)
}

/// Environment variables that set a key.
const VARIABLES: [(&str, &str); 6] = [
    ("COLORA_MODEL", "model"),
    ("COLORA_MODELS", "models_dirs"),
    ("COLORA_LORA_PATH", "loras_dirs"),
    ("COLORA_PROMPTS", "prompts_dirs"),
    ("COLORA_DEVICE", "device"),
    ("COLORA_DTYPE", "dtype"),
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => f.write_str(name),
        }
    }
}

/// The merged settings and the origin of each.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The merged settings.
    pub config: Config,
    values: BTreeMap<String, (toml::Value, Origin)>,
}

impl Settings {
    /// Merges the user's file, `colora.toml` in `folder`, and `COLORA_*` of `env`.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that exists but cannot be read, [`Error::Corrupt`] for one that is
    /// not TOML or has an unknown key or a value of the wrong type.
    pub fn load(folder: &Path, env: Env<'_>) -> Result<Self> {
        let mut settings = Settings::default();
        for path in files(folder, env) {
            match input::text_if_there(&path, MAX_FILE, "a settings file")? {
                // A model's folder holds its author's recommendations under the same name.
                Some(text) if is_of_model(&text, &path) => {}
                Some(text) => settings.overlay(read(&text, &path)?, &Origin::File(path))?,
                None => {}
            }
        }
        for (variable, key) in VARIABLES {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                let layer = toml::Table::from_iter([(key.to_owned(), from_variable(key, &value))]);
                settings.overlay(layer, &Origin::Variable(variable))?;
            }
        }
        Ok(settings)
    }

    /// Key, value as TOML and origin of everything that is set, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &toml::Value, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (key.as_str(), value, origin))
    }

    /// Where the value of `key` came from; `None` when it is not set.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    fn overlay(&mut self, layer: toml::Table, origin: &Origin) -> Result<()> {
        for (key, value) in layer {
            self.values.insert(key, (value, origin.clone()));
        }
        let table = self.values.iter().map(|(key, (value, _))| (key.clone(), value.clone()));
        let table: toml::Table = table.collect();
        let broken = |error: toml::de::Error| Error::Internal(format!("config: {error}"));
        self.config = table.try_into().map_err(broken)?;
        Ok(())
    }
}

/// The files that are read, lowest precedence first, whether they exist or not.
pub fn files(folder: &Path, env: Env<'_>) -> Vec<PathBuf> {
    let local = folder.join(LOCAL_FILE);
    user_file(env).into_iter().chain([local]).collect()
}

/// The user's own file: `colora/config.toml` in `XDG_CONFIG_HOME` or the system's equivalent.
pub fn user_file(env: Env<'_>) -> Option<PathBuf> {
    let base = absolute(env("XDG_CONFIG_HOME"))
        .or_else(|| etcetera::choose_base_strategy().ok().map(|base| base.config_dir()))?;
    Some(base.join("colora").join("config.toml"))
}

/// A folder from the environment; the XDG specification requires to ignore relative ones.
pub(crate) fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A file with every key as a comment.
pub fn template() -> String {
    let own = KEYS.iter().map(|(key, value, remark)| (*key, *value, (*remark).to_owned()));
    let fields = FIELDS.iter().filter_map(|field| Some((field, field.setting?)));
    let fields = fields.map(|(field, setting)| (field.key, setting.example, field.remark()));
    let line = |(key, value, remark)| format!("\n## {remark}\n# {key} = {value}\n");
    let head = "# Settings of colora. Flags and COLORA_* variables win.\n".to_owned();
    [head].into_iter().chain(own.chain(fields).map(line)).collect()
}

/// The value of a variable: a text, or for the keys of folders a list of paths.
fn from_variable(key: &str, value: &OsStr) -> toml::Value {
    if !key.ends_with("_dirs") {
        return value.to_string_lossy().into_owned().into();
    }
    let folders = std::env::split_paths(value).filter(|path| !path.as_os_str().is_empty());
    folders.map(|path| readable(&path)).collect::<Vec<_>>().into()
}

/// A path with U+FFFD for what of it is no UTF-8, as TOML and JSON need it; the store finds it so.
fn readable(path: &Path) -> toml::Value {
    path.to_string_lossy().into_owned().into()
}

/// Whether a file lies in a model's folder and is about that model alone.
fn is_of_model(text: &str, path: &Path) -> bool {
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let ours = table.keys().any(|key| !key.starts_with("default_"));
    !table.is_empty() && !ours && path.with_file_name("model_index.json").is_file()
}

fn read(text: &str, path: &Path) -> Result<toml::Table> {
    let corrupt = |e: toml::de::Error| Error::corrupt(path, e.to_string().trim_end().to_owned());
    let mut table: toml::Table = text.parse().map_err(corrupt)?;
    for key in table.keys() {
        if !keys().any(|known| known == key) {
            let near = did_you_mean(key, keys());
            let error = Error::corrupt(path, format!("unknown key `{key}`{near}"));
            return Err(if near.is_empty() {
                error.with_hint(Hint::ListConfigKeys)
            } else {
                error
            });
        }
    }
    // From the text once more, because errors of a table do not name the line.
    toml::from_str::<Config>(text).map_err(corrupt)?;
    toml::from_str::<OfRequests>(text).map_err(corrupt)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for (key, value) in &mut table {
        match value {
            toml::Value::Array(paths) if key.ends_with("_dirs") => {
                for path in paths {
                    anchor(path, folder);
                }
            }
            value if key == "vae" => anchor(value, folder),
            _ => {}
        }
    }
    Ok(table)
}

/// Checks the types of the keys that are fields of requests.
struct OfRequests;

impl<'de> Deserialize<'de> for OfRequests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfRequests)
    }
}

impl<'de> Visitor<'de> for OfRequests {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a table of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match field(&key) {
                Some(_) => map.next_value_seed(Typed(&key))?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }
}

/// A value that has to have the type of a field of requests.
struct Typed<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Typed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        check_type(self.0, &value).map_err(serde::de::Error::custom)
    }
}

/// Replaces a path of a file in `folder` by what it means from the current folder.
fn anchor(path: &mut toml::Value, folder: &Path) {
    if let Some(text) = path.as_str() {
        *path = readable(&anchored(Path::new(text), folder));
    }
}

/// `path` as meant by a file in `folder`: `~/` is the home folder, relative paths start at `folder`.
fn anchored(path: &Path, folder: &Path) -> PathBuf {
    match (path.strip_prefix("~"), etcetera::home_dir()) {
        (Ok(rest), Ok(home)) => home.join(rest),
        _ => folder.join(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(user: &str, local: &str, env: &[(&str, &str)]) -> Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        std::fs::create_dir_all(home.join("colora")).unwrap();
        std::fs::write(home.join("colora/config.toml"), user).unwrap();
        std::fs::write(folder.path().join(LOCAL_FILE), local).unwrap();
        let env = |name: &str| match name {
            "XDG_CONFIG_HOME" => Some(home.clone().into()),
            _ => env.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v)),
        };
        Settings::load(folder.path(), &env)
    }

    #[test]
    fn later_layers_win_and_origins_are_kept() {
        let user = "model = \"a\"\nsteps = 5\nmodels_dirs = [\"here\", \"/abs\"]";
        let env = [("COLORA_MODEL", "c"), ("COLORA_DTYPE", ""), ("COLORA_LORA_PATH", "/l")];
        let settings = load(user, "model = \"b\"\nheight = 64", &env).unwrap();
        let config = &settings.config;
        let value = |key: &str| settings.entries().find(|(k, ..)| *k == key).map(|(_, v, _)| v);
        assert_eq!(config.model.as_deref(), Some("c"));
        assert_eq!((value("steps"), value("height")), (Some(&5.into()), Some(&64.into())));
        assert_eq!(config.dtype, None, "an empty variable is none");
        assert_eq!(settings.origin("model"), Some(&Origin::Variable("COLORA_MODEL")));
        let Some(Origin::File(local)) = settings.origin("height") else { panic!() };
        assert!(local.ends_with(LOCAL_FILE));
        let dirs = config.models_dirs.clone().unwrap();
        assert!(dirs[0].ends_with("home/colora/here") && dirs[1] == Path::new("/abs"));
        assert_eq!(config.loras_dirs, Some(vec!["/l".into()]));
        assert_eq!(settings.entries().count(), 5);
        assert_eq!(settings.origin("width"), None);
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        for (text, part) in [
            ("stepz = 1", "unknown key `stepz`; did you mean `steps`"),
            ("qqqqqqqqqq = 1", "every key is a field of `Config`"),
            ("steps = \"many\"", "invalid type"),
            ("sampler = \"eulr\"", "euler"),
            ("steps = ", "line 1"),
        ] {
            let error = load("", text, &[]).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }));
            let message = error.to_string();
            assert!(message.contains(part) && message.contains(LOCAL_FILE), "{message}");
        }
    }

    #[test]
    fn the_template_holds_every_key() {
        let uncommented: String = template()
            .lines()
            .filter_map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")))
            .fold(String::new(), |all, line| all + line + "\n");
        let set = read(&uncommented, Path::new("x.toml")).unwrap();
        assert_eq!(set.len(), keys().count(), "every example parses");
        let json = serde_json::to_value(Config::default()).unwrap();
        assert_eq!(json.as_object().unwrap().len(), KEYS.len(), "every field has a key");
    }
}
