//! What the table of fields holds of each: flag, label, setting, range, and how its value is read and written.

use crate::error::{Error, Result};
use crate::pipeline::Request;
use serde_json::{Map, Value};

/// One field of a request.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Field {
    /// The key in requests, plans, jobs and settings files.
    pub key: &'static str,
    /// The fields of [`Request`] that [`read`](Self::read) gives values for: the key itself, but `width` and
    /// `height` for `size`.
    pub sets: &'static [&'static str],
    /// The flag of `generate`; `None` for the prompt, which stands by itself.
    pub flag: Option<Flag>,
    /// The name in the settings that programs exchange (AUTOMATIC1111's "parameters").
    pub label: Option<Label>,
    /// What `colora inspect` calls a field that has no label.
    pub title: Option<&'static str>,
    /// How the field stands in settings files; `None` when it cannot be set there.
    pub setting: Option<Setting>,
    /// The numbers that are accepted.
    pub range: Option<Range>,
    /// The words that are accepted; none for fields that are no choice.
    pub names: fn() -> Vec<&'static str>,
    /// Reads the value from the text of a flag or label. The value is JSON, as it stands in a request: an array of
    /// one value for each of [`sets`](Self::sets) when those are several, one element for a field that is a list.
    pub read: fn(&str) -> Result<Value>,
    /// The values as texts that [`read`](Self::read) reads: none for what the request leaves open.
    pub write: fn(&Request) -> Vec<String>,
    /// The text that says nothing: it is not written.
    pub neutral: &'static str,
    /// Another field that a text of this one may set: the schedule in `DPM++ 2M Karras`. Then [`read`](Self::read)
    /// gives an array of both values.
    pub brings: Option<&'static str>,
    /// Whether the key is that of a number in the object `sampler_options`.
    pub option: bool,
}

/// A flag of the command line.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// `--long`.
    pub long: &'static str,
    /// `-s`.
    pub short: Option<char>,
    /// Another long name, for people of other programs.
    pub alias: Option<&'static str>,
    /// The word for its value in the help; empty for a switch.
    pub value: &'static str,
    /// The heading of the help that it stands under.
    pub heading: Option<&'static str>,
    /// The place under that heading, from 1.
    pub place: usize,
    /// A line of help.
    pub help: &'static str,
    /// The long name and the help of the flag that turns a switch off.
    pub opposite: Option<[&'static str; 2]>,
}

/// A name in the settings that programs exchange.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// The name, as AUTOMATIC1111's web interface writes it.
    pub name: &'static str,
    /// The place in the line of settings.
    pub place: usize,
    /// Whether only colora means this by the name: it is not read from other programs' pictures.
    pub own: bool,
    /// The text, where it is another than that of the flag; such labels are read by `app::record`.
    pub write: Option<fn(&Request) -> Option<String>>,
}

/// The line of a settings file.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// A value in TOML that serves as an example.
    pub example: &'static str,
    /// What it means; for a choice the names stand instead.
    pub remark: &'static str,
}

/// The numbers that a field accepts.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// What was expected, for the error.
    pub why: &'static str,
}

impl Field {
    /// The value of a text, as [`read`](Self::read) gives it.
    ///
    /// # Errors
    /// [`Error::BadRequest`]; its field is empty when the text alone is wrong.
    pub fn value(&self, text: &str) -> Result<Value> {
        (self.read)(text).map_err(|error| match self.range {
            // Infinity and NaN are numbers, but in no range.
            Some(range) if text.parse::<f64>().is_ok_and(|number| !number.is_finite()) => {
                Error::bad_request(self.key, text, range.why)
            }
            _ => error,
        })
    }

    /// The values of a request that are worth writing, as texts that [`read`](Self::read) reads.
    pub fn texts(&self, request: &Request) -> Vec<String> {
        let mut texts = (self.write)(request);
        texts.retain(|text| text != self.neutral);
        texts
    }

    /// The text beside the label; `None` when there is nothing to say.
    pub fn labelled(&self, label: Label, request: &Request) -> Option<String> {
        match label.write {
            Some(write) => write(request),
            None => self.texts(request).into_iter().next(),
        }
    }

    /// Puts a value that [`read`](Self::read) gave into the map of a request.
    pub fn put(&self, value: Value, request: &mut Map<String, Value>) {
        match (self.sets, value) {
            ([own], value) if self.option => {
                let options = request.entry(*own).or_insert_with(|| Map::new().into());
                if let Some(options) = options.as_object_mut() {
                    options.insert(self.key.to_owned(), value);
                }
            }
            ([own], Value::Array(values)) if self.brings.is_some() => {
                let keys = [Some(*own), self.brings].into_iter().flatten().map(str::to_owned);
                request.extend(keys.zip(values));
            }
            ([_, _, ..], Value::Array(values)) => {
                let keys = self.sets.iter().map(|key| (*key).to_owned());
                request.extend(keys.zip(values));
            }
            (_, value) => drop(request.insert(self.key.to_owned(), value)),
        }
    }

    /// A choice in another spelling than its own, as it stands in a request: what [`put`](Self::put) takes.
    pub fn respelled(&self, value: &Value) -> Option<Value> {
        let text = value.as_str().filter(|_| !(self.names)().is_empty())?;
        if super::check_type(self.key, value).is_ok() { None } else { (self.read)(text).ok() }
    }

    /// What the value means, for the comment of a settings file.
    pub fn remark(&self) -> String {
        let names = (self.names)();
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => self.setting.map(|setting| setting.remark).unwrap_or_default().to_owned(),
        }
    }

    pub(super) fn check(&self, request: &Request) -> Result<()> {
        let Some(range) = self.range else { return Ok(()) };
        for text in (self.write)(request) {
            let number = text.parse::<f64>().unwrap_or(f64::NAN);
            if !(range.low..=range.high).contains(&number) {
                return Err(Error::bad_request(self.key, text, range.why));
            }
        }
        Ok(())
    }
}
