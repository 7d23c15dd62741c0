//! Settings in layers, each value with its origin: files and environment, then a picture, then the caller.
//!
//! A later layer wins key by key. What comes out is a [`Job`]; when a value turns out to be wrong,
//! [`Layers::origin`] says whose it is.

use super::checked::CheckedRecord;
use super::job::{Job, MODEL_KEYS};
use super::record::ImageRecord;
use crate::config::{self, Settings};
use crate::error::{Error, Result};
use crate::pipeline::fields::{FIELDS, field};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A settings file or an environment variable.
    Config(config::Origin),
    /// The record of a picture.
    Picture(PathBuf),
    /// The caller: flags, a line of a batch file, the body of a request.
    Caller,
}

/// The values of a job's keys, and who set each.
#[derive(Debug, Clone, Default)]
pub struct Layers(BTreeMap<String, (Value, Origin)>);

impl Layers {
    /// The layer of files and environment.
    ///
    /// # Errors
    /// [`Error::Internal`] for a value that JSON cannot hold, which no setting is.
    pub fn of(settings: &Settings) -> Result<Self> {
        let mut layers = Self::default();
        for (key, value, origin) in settings.entries().filter(|(key, ..)| is_key(key)) {
            let value = serde_json::to_value(value)
                .map_err(|error| Error::Internal(format!("config: {error}")))?;
            layers.put(key, value, Origin::Config(origin.clone()));
        }
        Ok(layers)
    }

    /// Lays the record of a picture over what is there.
    ///
    /// A record that colora wrote decides about model, VAE and number types even where it names none; others name a
    /// model at most.
    ///
    /// # Errors
    /// [`Error::Internal`] when its request is no JSON, which no request is.
    pub fn picture(&mut self, checked: &CheckedRecord, path: &Path) -> Result<()> {
        let ImageRecord { made_with, request, .. } = &checked.record;
        let origin = Origin::Picture(path.to_path_buf());
        let choice = checked.record.made_with();
        if made_with.is_some() {
            self.0.remove("vae");
        }
        let words = [choice.model, choice.vae, choice.dtype, choice.quantize];
        for (key, word) in MODEL_KEYS.iter().zip(words) {
            if let Some(word) = word.filter(|word| !word.is_empty()) {
                self.put(key, word.into(), origin.clone());
            }
        }
        let request = Job { request: request.clone(), ..Job::default() }.to_map()?;
        for (key, value) in request {
            self.put(&key, value, origin.clone());
        }
        Ok(())
    }

    /// As [`picture`](Self::picture), but beneath what the caller has set.
    ///
    /// # Errors
    /// As [`picture`](Self::picture).
    pub(crate) fn picture_beneath(&mut self, checked: &CheckedRecord, path: &Path) -> Result<()> {
        let is_callers = |(_, (_, origin)): &(&String, &(Value, Origin))| *origin == Origin::Caller;
        let own: Vec<_> = self
            .0
            .iter()
            .filter(is_callers)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        self.picture(checked, path)?;
        self.0.extend(own);
        Ok(())
    }

    /// Lays the caller's values over what is there; null opens what others had set.
    pub fn caller(&mut self, values: Map<String, Value>) {
        for (key, value) in values {
            self.put(&key, value, Origin::Caller);
        }
    }

    /// The job that the values make together.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the key of a value that cannot work.
    pub fn job(&self) -> Result<Job> {
        Job::from_map(self.0.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect())
    }

    /// Who set the value of `key`; `None` when nobody did.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.0.get(key).map(|(_, origin)| origin)
    }

    /// The text of `key`, when it has one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|(value, _)| value.as_str())
    }

    fn put(&mut self, key: &str, value: Value, origin: Origin) {
        let respelled = field(key).and_then(|field| Some((field, field.respelled(&value)?)));
        let Some((field, value)) = respelled else {
            self.0.insert(key.to_owned(), (value, origin));
            return;
        };
        let mut values = Map::new();
        field.put(value, &mut values);
        self.0.extend(values.into_iter().map(|(key, value)| (key, (value, origin.clone()))));
    }
}

/// Whether `key` is one of a job's.
fn is_key(key: &str) -> bool {
    MODEL_KEYS.contains(&key) || FIELDS.iter().any(|field| field.sets.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::super::choice::ModelChoice;
    use super::*;
    use crate::pipeline::Request;

    fn settings(text: &str) -> Settings {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(config::LOCAL_FILE), text).unwrap();
        let home = folder.path().join("home").into_os_string();
        Settings::load(folder.path(), &|name| (name == "XDG_CONFIG_HOME").then(|| home.clone()))
            .unwrap()
    }

    fn values(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn later_layers_win_and_origins_are_kept() {
        let file = "steps = 3\nwidth = 64\nclip_skip = 2\nnegative_prompt = \"rain\"\ndtype = \"bf16\"\nvae = \"v\"\nthreads = 1";
        let mut layers = Layers::of(&settings(file)).unwrap();
        let request = Request {
            prompt: "old".into(),
            steps: Some(4),
            width: Some(128),
            seed: Some(9),
            guidance_interval: "0..0.5".parse().ok(),
            reuse: 2,
            ..Request::default()
        };
        let made_with = Some(ModelChoice { model: Some("m".into()), ..ModelChoice::default() });
        let record = ImageRecord { made_with, request, ..ImageRecord::default() };
        let checked = CheckedRecord { record, named: crate::app::NamedByPicture::default() };
        layers.picture(&checked, Path::new("p.png")).unwrap();
        layers.caller(values(r#"{"width": 8, "prompt": "new", "tile": false, "reuse": 4}"#));
        let job = layers.job().unwrap();
        let Job { model, vae, dtype, request, .. } = &job;
        assert_eq!((model.as_deref(), vae.as_deref()), (Some("m"), None), "the picture says so");
        assert_eq!(dtype.map(|dtype| dtype.to_string()).as_deref(), Some("bf16"));
        assert_eq!((request.prompt.as_str(), request.negative_prompt.as_str()), ("new", ""));
        assert_eq!((request.width, request.steps, request.clip_skip), (Some(8), Some(4), Some(2)));
        assert_eq!((request.seed, request.tile, request.reuse), (Some(9), Some(false), 4));
        assert_eq!(request.guidance_interval, "0..0.5".parse().ok());
        assert_eq!(layers.origin("width"), Some(&Origin::Caller));
        assert_eq!(layers.origin("steps"), Some(&Origin::Picture("p.png".into())));
        assert!(matches!(layers.origin("clip_skip"), Some(Origin::Config(_))));
        assert_eq!(layers.origin("height"), None);
        layers.caller(values(r#"{"seed": null, "model": null}"#));
        assert_eq!((layers.job().unwrap().request.seed, layers.job().unwrap().model), (None, None));
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let mut layers = Layers::of(&settings("device = \"toaster\"")).unwrap();
        let Err(Error::BadRequest { field, .. }) = layers.job() else { panic!() };
        assert_eq!(field, "device");
        assert!(matches!(layers.origin(field), Some(Origin::Config(_))));
        layers.caller(values(r#"{"device": "cpu"}"#));
        assert!(layers.job().is_ok());
    }
}
