//! A job: a model and a request.
//!
//! In JSON a job is one object, the model's keys beside the request's: a line of a batch file, the body of a POST. A
//! record of a picture and a line that `generate --json` printed are read as the job that made the picture.

use super::choice::ModelChoice;
use crate::error::{Error, Result};
use crate::pipeline::fields::{FIELDS, check_type};
use crate::pipeline::{DTypeChoice, DeviceChoice, Request};
use crate::store::STARTER;
use crate::suggest::did_you_mean;
use crate::weights::Quantisation;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::str::FromStr;

/// A model and a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Job {
    /// The model: a name, a path or `hub:owner/name`; `None` = the starter.
    pub model: Option<String>,
    /// A VAE file or folder instead of the model's own.
    pub vae: Option<String>,
    /// Float type; `None` = by device.
    pub dtype: Option<DTypeChoice>,
    /// The blocks that the UNet is kept in; `None` = as the files hold it.
    pub quantize: Option<Quantisation>,
    /// Where to run; `None` = the first GPU that there is, else the CPU.
    pub device: Option<DeviceChoice>,
    /// The pictures that are wanted.
    pub request: Request,
}

/// The keys of a job beside those of its request.
pub(crate) const MODEL_KEYS: [&str; 5] = ["model", "vae", "dtype", "quantize", "device"];

/// What records and printed lines hold beside the job; it changes nothing in it.
const REMARKS: [&str; 11] = [
    "schema", "version", "event", "path", "index", "width", "height", "timings", "seed", "hashes",
    "drawn_on",
];

impl Job {
    /// Reads a job from JSON.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the key.
    pub fn from_json(json: &str) -> Result<Self> {
        let value = serde_json::from_str(json);
        match value.map_err(|e| Error::bad_request("job", excerpt(json), e.to_string()))? {
            Value::Object(map) => Self::from_map(flat(map)?),
            _ => Err(Error::bad_request("job", excerpt(json), "expected a JSON object")),
        }
    }

    /// Makes a job of the values of its keys; null stands for what is left open.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the key.
    pub fn from_map(mut map: Map<String, Value>) -> Result<Self> {
        map.retain(|_, value| !value.is_null());
        let mut own = MODEL_KEYS.map(|key| (key, map.remove(key))).into_iter();
        let mut word = || own.next().map_or(Ok(None), |(key, value)| text(key, value));
        let (model, vae) = (word()?, word()?);
        let (dtype, quantize, device) = (word()?, word()?, word()?);
        Ok(Self {
            model,
            vae,
            dtype: parsed(dtype.as_deref())?,
            quantize: parsed(quantize.as_deref())?,
            device: parsed(device.as_deref())?,
            request: request(map)?,
        })
    }

    /// The name of the model.
    pub fn model_name(&self) -> &str {
        self.model.as_deref().filter(|name| !name.is_empty()).unwrap_or(STARTER)
    }

    /// The values of all keys that are not left open.
    ///
    /// # Errors
    /// [`Error::Internal`] when the request is no JSON, which no request is.
    pub fn to_map(&self) -> Result<Map<String, Value>> {
        let internal = |error| Error::Internal(format!("a request: {error}"));
        let ModelChoice { vae, quantize, dtype, .. } = self.choice();
        let device = self.device.map(|device| device.to_string());
        let words = [self.model.clone(), vae, dtype, quantize, device];
        let words = MODEL_KEYS.iter().zip(words);
        let mut map: Map<String, Value> =
            words.filter_map(|(key, word)| Some(((*key).to_owned(), word?.into()))).collect();
        if let Value::Object(request) = serde_json::to_value(&self.request).map_err(internal)? {
            map.extend(request.into_iter().filter(|(_, value)| !value.is_null()));
        }
        Ok(map)
    }

    /// Model, VAE and number types as words, as they stand in records; the starter by its name.
    pub fn choice(&self) -> ModelChoice {
        ModelChoice {
            model: Some(self.model_name().to_owned()),
            vae: self.vae.clone(),
            quantize: self.quantize.map(|kind| kind.to_string()),
            dtype: self.dtype.map(|kind| kind.to_string()),
        }
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_map().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        flat(map).and_then(Job::from_map).map_err(D::Error::custom)
    }
}

/// A record of a picture or a printed line with the keys of its parts in one map; other maps as they are.
///
/// # Errors
/// [`Error::BadRequest`] when `request` is no object.
pub(crate) fn flat(mut map: Map<String, Value>) -> Result<Map<String, Value>> {
    let Some(request) = map.remove("request") else { return Ok(map) };
    let (Value::Object(mut keys), made_with) = (request, map.remove("made_with")) else {
        return Err(Error::bad_request("request", "", "expected a JSON object"));
    };
    // Where words are recorded, `model` is the name of what they led to.
    if let Some(Value::Object(words)) = made_with {
        map.remove("model");
        keys.extend(words);
    }
    if map.contains_key("schema") {
        map.retain(|key, _| !REMARKS.contains(&key.as_str()));
    }
    keys.extend(map);
    Ok(keys)
}

/// A request of the values of its fields.
fn request(map: Map<String, Value>) -> Result<Request> {
    for (key, value) in &map {
        let row = FIELDS.iter().find(|field| field.sets.contains(&key.as_str()));
        let Some(field) = row else {
            let fields = FIELDS.iter().flat_map(|field| field.sets).copied();
            let near = did_you_mean(key, MODEL_KEYS.into_iter().chain(fields));
            return Err(Error::bad_request("job", key, format!("unknown key{near}")));
        };
        // The row of a field comes before that of several.
        check_type(key, value).map_err(|why| Error::bad_request(field.key, value, why))?;
    }
    serde_json::from_value(map.into()).map_err(|e| Error::Internal(format!("a request: {e}")))
}

fn text(key: &'static str, value: Option<Value>) -> Result<Option<String>> {
    match value {
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Error::bad_request(key, other, "expected a text")),
        None => Ok(None),
    }
}

fn parsed<T: FromStr<Err = Error>>(word: Option<&str>) -> Result<Option<T>> {
    word.map(str::parse).transpose()
}

/// The beginning of a text, for an error.
fn excerpt(text: &str) -> String {
    const MOST: usize = 60;
    text.chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_one_object() {
        let json = r#"{"model":"m","dtype":"bf16","quantize":"q8_0","device":"cuda:1","prompt":"a fox","steps":4}"#;
        let job = Job::from_json(json).unwrap();
        assert_eq!((job.model.as_deref(), job.request.steps), (Some("m"), Some(4)));
        assert_eq!(job.device, Some(DeviceChoice::Cuda(1)));
        assert_eq!(serde_json::from_str::<Job>(json).unwrap(), job);
        let again = serde_json::to_string(&job).unwrap();
        assert_eq!(Job::from_json(&again).unwrap(), job);
        assert!(again.starts_with(
            r#"{"model":"m","dtype":"bf16","quantize":"q8_0","device":"cuda:1","prompt":"#
        ));
        assert_eq!(Job::from_json("{}").unwrap(), Job::default());
    }

    #[test]
    fn records_and_printed_lines_are_jobs() {
        let record = r#"{"schema":1,"version":"0.1.0","model":"name","made_with":{"model":"a/m.safetensors","vae":"v"},
            "request":{"prompt":"x","seed":3}}"#;
        let job = Job::from_json(record).unwrap();
        assert_eq!(
            (job.model.as_deref(), job.vae.as_deref()),
            (Some("a/m.safetensors"), Some("v"))
        );
        assert_eq!((job.request.prompt.as_str(), job.request.seed), ("x", Some(3)));
        let line = r#"{"schema":1,"event":"saved","path":"x.png","index":0,"seed":3,"width":8,"height":8,"model":"name",
            "timings":{},"request":{"prompt":"x","seed":3,"width":16}}"#;
        let job = Job::from_json(line).unwrap();
        assert_eq!((job.model.as_deref(), job.request.width), (Some("name"), Some(16)));
    }

    #[test]
    fn mistakes_name_the_key() {
        for (json, part) in [
            (r#"{"stepz":1}"#, "did you mean `steps`"),
            (r#"{"steps":"many"}"#, "steps = "),
            (r#"{"dtype":"f8"}"#, "dtype = f8"),
            (r#"{"model":3}"#, "model = 3"),
            (r#"{"request":3}"#, "request"),
            ("[1]", "a JSON object"),
            ("{", "job"),
        ] {
            let error = Job::from_json(json).unwrap_err();
            assert!(matches!(error, Error::BadRequest { .. }));
            assert!(error.to_string().contains(part), "{json}: {error}");
        }
    }
}
