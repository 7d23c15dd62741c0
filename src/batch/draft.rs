//! A job as a line of a file asks for it, before it is laid over the settings.

use super::key::Key;
use crate::error::{Error, Result};
use crate::lora::LoraRef;
use crate::pipeline::fields::{Field, check_type, field};
use crate::sampling::{Sampler, Schedule};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Most characters of a name that a user gives.
const LONGEST_ID: usize = 100;

/// What a line of a file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The line, from 1.
    pub line: usize,
    /// The values of a job's keys; null opens what others had set.
    pub values: Map<String, Value>,
    /// LoRAs that are put on top of those of the values, by name.
    pub strengths: Vec<LoraRef>,
    /// The name of the picture.
    pub id: Option<String>,
    /// A picture whose settings the job has, where nothing else gives them.
    pub from: Option<PathBuf>,
    /// How often the job is made.
    pub repeat: Option<usize>,
    /// A stack of LoRAs.
    pub stack: Option<String>,
    /// Words that are kept beside the picture.
    pub labels: BTreeMap<String, String>,
    /// Names that were read and change nothing.
    pub ignored: Vec<String>,
}

impl Draft {
    /// A draft of line `line` that says nothing.
    pub(crate) fn new(line: usize) -> Self {
        Self { line, ..Self::default() }
    }

    /// Sets what `name` names to what `text` says.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the field.
    pub(crate) fn set_text(&mut self, name: &str, text: &str) -> Result<()> {
        match Key::of(name)? {
            Key::Field(field) if field.key == "loras" => {
                let words = text.split_whitespace().map(|word| word.trim_end_matches(','));
                let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
                words.into_iter().try_for_each(|word| self.push_lora(word))?;
            }
            Key::Field(field) => field.put(read(field, text)?, &mut self.values),
            Key::Off(field) => field.put(false.into(), &mut self.values),
            Key::Model(key) => drop(self.values.insert(key.to_owned(), text.into())),
            Key::Lora => self.push_lora(text)?,
            Key::Strength(lora) => {
                let lora = LoraRef::parse_flag(&format!("{lora}:{text}"))?;
                self.strengths.retain(|other| other.name != lora.name);
                self.strengths.push(lora);
            }
            Key::Id => self.id = Some(checked_id(text)?),
            Key::From => self.from = Some(text.into()),
            Key::Repeat => {
                let why = "expected how often the job is made, at least 1";
                let wrong = || Error::bad_request("repeat", text, why);
                let times = text.trim().parse::<usize>().ok().filter(|times| *times > 0);
                let times = times.ok_or_else(wrong)?;
                let all = self.repeat.unwrap_or(1).checked_mul(times).ok_or_else(wrong)?;
                self.repeat = Some(all);
            }
            Key::Stack => self.stack = Some(text.to_owned()),
            Key::Label(label) => drop(self.labels.insert(label, text.to_owned())),
            Key::Labels => return Err(Error::bad_request("labels", text, "expected a table")),
            Key::LabelSwitch => {
                let Some((label, value)) = text.split_once('=') else {
                    return Err(Error::bad_request("label", text, "expected NAME=VALUE"));
                };
                self.labels.insert(label.to_owned(), value.to_owned());
            }
            Key::SamplerName => self.set_sampler(text)?,
            Key::Ignored => self.ignored.push(name.to_owned()),
            Key::Missing(neutral) if neutral.contains(&text) => self.ignored.push(name.to_owned()),
            Key::Missing(_) => {
                return Err(Error::bad_request("key", name, "colora has no such setting"));
            }
        }
        Ok(())
    }

    /// Sets what `name` names to a value of JSON or TOML.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming the field.
    pub(super) fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let key = Key::of(name)?;
        match (&key, value) {
            (Key::Field(field), Value::Null) => {
                self.values.extend(field.sets.iter().map(|key| ((*key).to_owned(), Value::Null)));
            }
            (Key::Model(key), value) => drop(self.values.insert((*key).to_owned(), value)),
            (Key::Id | Key::From | Key::Stack | Key::Repeat, Value::Null) => {}
            (Key::Field(field), value) => self.set_field(field, value)?,
            (Key::Labels, Value::Object(labels)) => {
                let labels = labels.into_iter().map(|(key, value)| (key, words(&value)));
                self.labels.extend(labels);
            }
            (_, Value::Array(_) | Value::Object(_)) => {
                return Err(Error::bad_request("key", name, "expected one value"));
            }
            (_, value) => self.set_text(name, &words(&value))?,
        }
        Ok(())
    }

    fn set_field(&mut self, field: &'static Field, value: Value) -> Result<()> {
        match value {
            Value::Array(values) if field.key == "loras" => {
                self.values.remove("loras");
                for value in values {
                    let lora = match value {
                        Value::String(text) => read(field, &text)?,
                        other => other,
                    };
                    self.push_checked(field, lora)?;
                }
                Ok(())
            }
            // Seeds that are too large for numbers, windows, sizes: as a flag writes them.
            Value::String(text) if is_read(field, &text) => {
                self.values.remove(field.key);
                if field.key == "loras" {
                    self.set_text("loras", &text)
                } else {
                    field.put(read(field, &text)?, &mut self.values);
                    Ok(())
                }
            }
            value if field.sets.len() > 1 => {
                field.put(value, &mut self.values);
                Ok(())
            }
            value => {
                let typed = check_type(field.key, &value);
                typed.map_err(|why| Error::bad_request(field.key, words(&value), why))?;
                self.values.insert(field.key.to_owned(), value);
                Ok(())
            }
        }
    }

    fn push_lora(&mut self, text: &str) -> Result<()> {
        let Some(field) = field("loras") else { return Ok(()) };
        self.push_checked(field, read(field, text)?)
    }

    fn push_checked(&mut self, field: &'static Field, lora: Value) -> Result<()> {
        check_type(field.key, &Value::Array(vec![lora.clone()]))
            .map_err(|why| Error::bad_request(field.key, words(&lora), why))?;
        let list = self.values.entry(field.key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(lora);
        }
        Ok(())
    }

    /// Sampler and schedule of a name that may hold both: `DPM++ 2M Karras`.
    fn set_sampler(&mut self, text: &str) -> Result<()> {
        let (name, schedule) = Schedule::ALL
            .into_iter()
            .flat_map(|schedule| schedule.labels().map(move |label| (schedule, label)))
            .find_map(|(schedule, label)| {
                Some((text.strip_suffix(label)?.strip_suffix(' ')?, Some(schedule)))
            })
            .unwrap_or((text, None));
        let sampler = match Sampler::from_label(name) {
            Some(sampler) => sampler,
            None => name.parse()?,
        };
        self.values.insert("sampler".into(), sampler.name().into());
        if let Some(schedule) = schedule {
            self.values.insert("schedule".into(), schedule.name().into());
        }
        Ok(())
    }
}

/// Whether a text stands for a value of `field` as a flag takes it, not for itself.
fn is_read(field: &Field, text: &str) -> bool {
    field.sets.len() > 1 || check_type(field.key, &Value::from(text)).is_err()
}

/// The value of a text; its error names the field.
fn read(field: &'static Field, text: &str) -> Result<Value> {
    field.value(text).map_err(|error| match error {
        Error::BadRequest { field: "", value, why, hint } => {
            Error::BadRequest { field: field.key, value, why, hint }
        }
        other => other,
    })
}

/// A value as text, without the quotes of a text.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A name that a user gives to a picture.
fn checked_id(text: &str) -> Result<String> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = (1..=LONGEST_ID).contains(&text.len()) && text.chars().all(is_letter);
    if fits && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    let why = "expected 1 to 100 letters, digits, `.`, `_` or `-`, no `.` first";
    Err(Error::bad_request("id", text, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_and_values_say_the_same() {
        let mut texts = Draft::new(1);
        for (name, text) in [
            ("prompt", "a fox"),
            ("steps", "20"),
            ("cfg-scale", "6.5"),
            ("size", "64x72"),
            ("loras", "flat:0.8, gold"),
            ("lora.santa", "0.5"),
            ("seed", "18446744073709551615"),
            ("guidance_interval", "0.1..0.5"),
            ("label.set", "a"),
            ("id", "fox-1"),
            ("repeat", "2"),
            ("model", "starter"),
        ] {
            texts.set_text(name, text).unwrap();
        }
        let mut values = Draft::new(1);
        for (name, value) in [
            ("prompt", json!("a fox")),
            ("steps", json!(20)),
            ("guidance_scale", json!(6.5)),
            ("size", json!([64, 72])),
            ("loras", json!(["flat:0.8", "gold"])),
            ("lora.santa", json!(0.5)),
            ("seed", json!("18446744073709551615")),
            ("guidance_interval", json!("0.1..0.5")),
            ("labels", json!({"set": "a"})),
            ("id", json!("fox-1")),
            ("repeat", json!(2)),
            ("model", json!("starter")),
        ] {
            values.set(name, value).unwrap();
        }
        assert_eq!(texts, values);
        assert_eq!(texts.strengths[0].to_string(), "santa:0.5");
    }

    #[test]
    fn samplers_of_other_programs() {
        let mut draft = Draft::new(1);
        draft.set_text("sampler_name", "DPM++ 2M Karras").unwrap();
        assert_eq!(draft.values["sampler"], "dpmpp-2m");
        assert_eq!(draft.values["schedule"], "karras");
        draft.set_text("sampler_name", "Euler a").unwrap();
        assert!(draft.set_text("sampler_name", "DPM fast").is_err());
        draft.set_text("batch_size", "2").unwrap();
        draft.set_text("n_iter", "3").unwrap();
        assert_eq!(draft.repeat, Some(6));
        draft.set_text("outpath_samples", "x").unwrap();
        draft.set_text("tiling", "false").unwrap();
        assert_eq!(draft.ignored, ["outpath_samples", "tiling"]);
    }

    #[test]
    fn wrong_values_name_their_field() {
        let mut draft = Draft::new(1);
        for (name, value, field) in [
            ("steps", json!("many"), "steps = many"),
            ("steps", json!(1.5), "steps = 1.5"),
            ("id", json!("a/b"), "id = a/b"),
            ("id", json!(".hidden"), "id = .hidden"),
            ("repeat", json!(0), "repeat = 0"),
            ("lora.flat", json!("x=1"), "lora"),
            ("tiling", json!(true), "key = tiling"),
            ("labels", json!(3), "labels = 3"),
            ("label", json!("x"), "label = x"),
        ] {
            let message = draft.set(name, value).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
    }
}
