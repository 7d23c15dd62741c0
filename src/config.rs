//! Settings that outlive one command: files and environment, with their origins.
//!
//! Later layers win: built-in defaults, the user's file, `colora.toml` in the current folder,
//! `COLORA_*`. Flags come last and are the doors' business.
//!
//! Floor 6.

use crate::error::{Error, Result};
use crate::input;
use crate::sampling::{Sampler, Schedule};
use crate::suggest::did_you_mean;
use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Reads one environment variable; a function so that tests need not touch the real environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Name of the file that is looked for in the current folder.
pub const LOCAL_FILE: &str = "colora.toml";

/// What can be set; `None` means that nobody did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Model to use: a name, a path or `hub:owner/name`.
    pub model: Option<String>,
    /// Folders that are searched for models by name; relative ones start at the file's folder.
    pub models_dirs: Option<Vec<PathBuf>>,
    /// Folders that are searched for LoRAs by name; relative ones start at the file's folder.
    pub loras_dirs: Option<Vec<PathBuf>>,
    /// `auto`, `cpu`, `cuda`, `cuda:1` or `metal`.
    pub device: Option<String>,
    /// `f32`, `f16` or `bf16`.
    pub dtype: Option<String>,
    /// Worker threads on the CPU.
    pub threads: Option<usize>,
    /// A VAE to use instead of the model's own; a relative path starts at the file's folder.
    pub vae: Option<PathBuf>,
    /// File name template of pictures.
    pub output: Option<String>,
    /// Whether settings are written into pictures.
    pub metadata: Option<bool>,
    /// What to keep away from.
    pub negative_prompt: Option<String>,
    /// Pixels across.
    pub width: Option<usize>,
    /// Pixels down.
    pub height: Option<usize>,
    /// Sampling steps.
    pub steps: Option<usize>,
    /// Classifier-free guidance; 1 = off.
    pub guidance_scale: Option<f64>,
    /// Integrator.
    pub sampler: Option<Sampler>,
    /// Spacing of noise levels.
    pub schedule: Option<Schedule>,
    /// Layer of the text encoder, counted from the last.
    pub clip_skip: Option<usize>,
}

/// Longest settings file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

impl Config {
    /// The same with U+FFFD for what of paths is no UTF-8, as TOML and JSON need them; the store finds them so.
    fn into_text(mut self) -> Self {
        let folders = self.models_dirs.iter_mut().chain(&mut self.loras_dirs).flatten();
        for path in folders.chain(&mut self.vae) {
            *path = path.to_string_lossy().into_owned().into();
        }
        self
    }
}

/// Keys with an example value and a remark: the template of `config init`.
const KEYS: [(&str, &str, &str); 17] = [
    ("model", "\"starter\"", "a name, a path or hub:owner/name"),
    ("models_dirs", "[\"~/models\"]", "folders searched for models by name"),
    ("loras_dirs", "[\"~/loras\"]", "folders searched for LoRAs by name"),
    ("device", "\"auto\"", "auto, cpu, cuda, cuda:1 or metal"),
    ("dtype", "\"f32\"", "f32, tf32, f16 or bf16; default by device"),
    ("threads", "4", "worker threads on the CPU"),
    ("vae", "\"vae.safetensors\"", "instead of the model's own"),
    ("output", "\"{date}-{seed}-{index}.png\"", "also {time}, {model}, {prompt}"),
    ("metadata", "true", "write the settings into pictures"),
    ("negative_prompt", "\"blurry\"", "what to keep away from"),
    ("width", "512", "pixels, a multiple of 8"),
    ("height", "512", "pixels, a multiple of 8"),
    ("steps", "30", "more is slower and, to a point, better"),
    ("guidance_scale", "7.0", "how strictly to follow the prompt; 1 = off"),
    ("sampler", "\"dpmpp-2m\"", "dpmpp-2m, euler or ddim"),
    ("schedule", "\"karras\"", "discrete, karras or exponential"),
    ("clip_skip", "1", "text encoder layer from the last; 1 = that one"),
];

/// Environment variables that set a key.
const VARIABLES: [(&str, &str); 5] = [
    ("COLORA_MODEL", "model"),
    ("COLORA_MODELS", "models_dirs"),
    ("COLORA_LORA_PATH", "loras_dirs"),
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
                // A model's folder says under the same name what its author recommends.
                Some(text) if is_of_model(&text, &path) => {}
                Some(text) => settings.overlay(read(&text, &path)?, &Origin::File(path))?,
                None => {}
            }
        }
        for (variable, key) in VARIABLES {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                settings.overlay(from_variable(key, &value), &Origin::Variable(variable))?;
            }
        }
        Ok(settings)
    }

    /// Key, value as TOML and origin of everything that is set, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, String, &Origin)> {
        self.values.iter().map(|(key, (value, origin))| (key.as_str(), value.to_string(), origin))
    }

    /// Where the value of `key` came from; `None` when nobody set it.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.get(key).map(|(_, origin)| origin)
    }

    fn overlay(&mut self, layer: Config, origin: &Origin) -> Result<()> {
        let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("config: {e}"));
        for (key, value) in toml::Table::try_from(layer.into_text()).map_err(|e| broken(&e))? {
            self.values.insert(key, (value, origin.clone()));
        }
        let table = self.values.iter().map(|(k, (v, _))| (k.clone(), v.clone()));
        let table: toml::Table = table.collect();
        self.config = table.try_into().map_err(|e| broken(&e))?;
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

/// A folder from the environment; the XDG specification says to ignore relative ones.
pub(crate) fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A file with every key as a comment.
pub fn template() -> String {
    let key = |(key, value, remark)| format!("\n## {remark}\n# {key} = {value}\n");
    let head = "# Settings of colora. Flags and COLORA_* variables win.\n".to_owned();
    [head].into_iter().chain(KEYS.map(key)).collect()
}

fn from_variable(key: &str, value: &std::ffi::OsStr) -> Config {
    let text = Some(value.to_string_lossy().into_owned());
    match key {
        "model" => Config { model: text, ..Config::default() },
        "device" => Config { device: text, ..Config::default() },
        "dtype" => Config { dtype: text, ..Config::default() },
        _ => {
            let folders = std::env::split_paths(value).filter(|p| !p.as_os_str().is_empty());
            let folders = Some(folders.collect());
            match key {
                "loras_dirs" => Config { loras_dirs: folders, ..Config::default() },
                _ => Config { models_dirs: folders, ..Config::default() },
            }
        }
    }
}

/// Whether a file lies in a model's folder and is about that model alone.
fn is_of_model(text: &str, path: &Path) -> bool {
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let ours = table.keys().any(|key| !key.starts_with("default_"));
    !table.is_empty() && !ours && path.with_file_name("model_index.json").is_file()
}

fn read(text: &str, path: &Path) -> Result<Config> {
    let corrupt = |e: toml::de::Error| Error::corrupt(path, e.to_string().trim_end().to_owned());
    let table: toml::Table = text.parse().map_err(corrupt)?;
    let known = || KEYS.iter().map(|(key, ..)| *key);
    for key in table.keys() {
        if !known().any(|k| k == key) {
            let near = did_you_mean(key, known());
            let hint = if near.is_empty() { "; see `colora config init`" } else { &near };
            return Err(Error::corrupt(path, format!("unknown key `{key}`{hint}")));
        }
    }
    let mut config: Config = toml::from_str(text).map_err(corrupt)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let folders = config.models_dirs.iter_mut().chain(&mut config.loras_dirs).flatten();
    for path in folders.chain(&mut config.vae) {
        *path = anchored(path, folder);
    }
    Ok(config)
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
        assert_eq!(
            (config.model.as_deref(), config.steps, config.height),
            (Some("c"), Some(5), Some(64))
        );
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
            ("qqqqqqqqqq = 1", "config init"),
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
        let config = read(&uncommented, Path::new("x.toml")).unwrap();
        let set = toml::Table::try_from(&config).unwrap();
        assert_eq!(set.len(), KEYS.len(), "every example parses");
        let json = serde_json::to_value(Config::default()).unwrap();
        assert_eq!(json.as_object().unwrap().len(), KEYS.len(), "every field has a key");
    }
}
