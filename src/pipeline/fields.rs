//! The table of a request's fields: how each one is called in flags, in settings files and in the texts that
//! programs exchange in pictures, which values it accepts, and when it is written.
//!
//! A new field is a field of [`Request`] and [`Plan`](super::Plan), a row of [`FIELDS`], and the code that acts on it:
//! `docs/how-to/add-a-request-field.md` names the places.
//!
//! Floor 5.

use super::request::{MAX_COUNT, Request};
use crate::error::{Error, Result};
use crate::lora::{Apply, LoraRef, Method, StepWindow};
use crate::sampling::{Sampler, Schedule};
use crate::size::ImageSize;
use serde_json::{Map, Value};
use std::str::FromStr;

/// Pixels above which a picture may be decoded in tiles by itself, on one machine or another.
const LARGE: usize = 1 << 20;
/// The largest part of the tokens that may be merged: one of every 2×2 stays.
const MOST_MERGED: f64 = 0.75;

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

/// A row in which nothing is said.
const ROW: Field = Field {
    key: "",
    sets: &[],
    flag: None,
    label: None,
    title: None,
    setting: None,
    range: None,
    names: Vec::new,
    read: text,
    write: |_| Vec::new(),
    neutral: "",
};
const FLAG: Flag = Flag {
    long: "",
    short: None,
    alias: None,
    value: "N",
    heading: None,
    place: 0,
    help: "",
    opposite: None,
};
const PICTURE: Flag = Flag { heading: Some("Picture"), ..FLAG };
const SAVERS: Flag = Flag { heading: Some("Step savers"), ..FLAG };
const LORA: Flag = Flag { heading: Some("LoRA"), ..FLAG };
const LABEL: Label = Label { name: "", place: 100, own: false, write: None };

/// Every field, in the order in which commands and settings files list them.
pub const FIELDS: &[Field] = &[
    Field { key: "prompt", sets: &["prompt"], write: |r| vec![r.prompt.clone()], ..ROW },
    Field {
        key: "negative_prompt",
        sets: &["negative_prompt"],
        flag: Some(Flag {
            long: "negative",
            short: Some('N'),
            alias: Some("negative-prompt"),
            value: "TEXT",
            place: 2,
            help: "What to keep away from",
            ..FLAG
        }),
        setting: Some(Setting { example: "\"blurry\"", remark: "what to keep away from" }),
        write: |r| vec![r.negative_prompt.clone()],
        ..ROW
    },
    Field {
        key: "width",
        sets: &["width"],
        flag: Some(Flag {
            long: "width",
            short: Some('W'),
            value: "PIXELS",
            place: 8,
            help: "Pixels across, a multiple of 8",
            ..PICTURE
        }),
        setting: Some(Setting { example: "512", remark: "pixels, a multiple of 8" }),
        read: count,
        // Both sides are written at once.
        write: |_| Vec::new(),
        ..ROW
    },
    Field {
        key: "height",
        sets: &["height"],
        flag: Some(Flag {
            long: "height",
            short: Some('H'),
            value: "PIXELS",
            place: 9,
            help: "Pixels down, a multiple of 8",
            ..PICTURE
        }),
        setting: Some(Setting { example: "512", remark: "pixels, a multiple of 8" }),
        read: count,
        write: |_| Vec::new(),
        ..ROW
    },
    Field {
        key: "size",
        sets: &["width", "height"],
        flag: Some(Flag {
            long: "size",
            value: "WxH",
            place: 10,
            help: "Width and height at once",
            ..PICTURE
        }),
        label: Some(Label { name: "Size", place: 6, ..LABEL }),
        read: size,
        write: |r| some(r.width.zip(r.height).map(|(width, height)| format!("{width}x{height}"))),
        ..ROW
    },
    Field {
        key: "steps",
        sets: &["steps"],
        flag: Some(Flag {
            long: "steps",
            short: Some('s'),
            place: 1,
            help: "Sampling steps [default: by model]",
            ..PICTURE
        }),
        label: Some(Label { name: "Steps", place: 1, ..LABEL }),
        setting: Some(Setting { example: "30", remark: "more is slower and, to a point, better" }),
        range: Some(Range { low: 1.0, high: f64::INFINITY, why: "at least 1 is needed" }),
        read: count,
        write: |r| some(r.steps),
        ..ROW
    },
    Field {
        key: "guidance_scale",
        sets: &["guidance_scale"],
        flag: Some(Flag {
            long: "guidance",
            short: Some('g'),
            alias: Some("cfg-scale"),
            value: "X",
            place: 2,
            help: "How strictly to follow the prompt; 1 = off, 5 to 8 is usual",
            ..PICTURE
        }),
        label: Some(Label { name: "CFG scale", place: 4, ..LABEL }),
        setting: Some(Setting {
            example: "7.0",
            remark: "how strictly to follow the prompt; 1 = off",
        }),
        range: Some(Range {
            low: 1.0,
            high: 1000.0,
            why: "expected 1 (off) to 1000; 5 to 8 is usual",
        }),
        read: number,
        write: |r| some(r.guidance_scale),
        ..ROW
    },
    Field {
        key: "guidance_interval",
        sets: &["guidance_interval"],
        flag: Some(Flag {
            long: "guidance-interval",
            value: "A..B",
            place: 1,
            help: "Steps at which guidance acts: fractions of the run (0.2..0.8) or steps from 0 (4..16); at others \
                 the prompt alone is evaluated, in half the time [default: all]",
            ..SAVERS
        }),
        label: Some(Label { name: "Guidance interval", own: true, ..LABEL }),
        read: window,
        write: |r| some(r.guidance_interval),
        ..ROW
    },
    Field {
        key: "reuse",
        sets: &["reuse"],
        flag: Some(Flag {
            long: "reuse",
            alias: Some("deepcache"),
            place: 2,
            help: "Evaluate the whole network every N steps and its finest layers alone between (DeepCache); 3 is \
                 usual with 20 steps or more [default: 1, always the whole]",
            ..SAVERS
        }),
        label: Some(Label { name: "Feature reuse", own: true, ..LABEL }),
        range: Some(Range {
            low: 1.0,
            high: f64::INFINITY,
            why: "1 evaluates the whole network at every step",
        }),
        read: count,
        write: |r| some(Some(r.reuse)),
        neutral: "1",
        ..ROW
    },
    Field {
        key: "merge_tokens",
        sets: &["merge_tokens"],
        flag: Some(Flag {
            long: "merge-tokens",
            value: "R",
            place: 3,
            help: "Merge this part of the tokens of the finest self-attention with others like them (ToMe), 0 to \
                 0.75; pays for large pictures [default: 0]",
            ..SAVERS
        }),
        label: Some(Label { name: "Token merging ratio", own: true, ..LABEL }),
        range: Some(Range {
            low: 0.0,
            high: MOST_MERGED,
            why: "expected 0 (none) to 0.75 of the tokens; 0.5 is usual",
        }),
        read: number,
        write: |r| some(Some(r.merge_tokens)),
        neutral: "0",
        ..ROW
    },
    Field {
        key: "sampler",
        sets: &["sampler"],
        flag: Some(Flag {
            long: "sampler",
            value: "NAME",
            place: 3,
            help: "Integrator",
            ..PICTURE
        }),
        label: Some(Label {
            name: "Sampler",
            place: 2,
            write: Some(|r| r.sampler.map(|sampler| sampler.spec().label.to_owned())),
            ..LABEL
        }),
        setting: Some(Setting { example: "\"dpmpp-2m\"", remark: "" }),
        names: || Sampler::ALL.iter().map(|sampler| sampler.name()).collect(),
        read: parsed::<Sampler>,
        write: |r| some(r.sampler),
        ..ROW
    },
    Field {
        key: "schedule",
        sets: &["schedule"],
        flag: Some(Flag {
            long: "schedule",
            value: "NAME",
            place: 4,
            help: "Spacing of noise levels",
            ..PICTURE
        }),
        label: Some(Label {
            name: "Schedule type",
            place: 3,
            write: Some(|r| r.schedule.map(|schedule| schedule.spec().label.to_owned())),
            ..LABEL
        }),
        setting: Some(Setting { example: "\"karras\"", remark: "" }),
        names: || Schedule::ALL.iter().map(|schedule| schedule.name()).collect(),
        read: parsed::<Schedule>,
        write: |r| some(r.schedule),
        ..ROW
    },
    Field {
        key: "clip_skip",
        sets: &["clip_skip"],
        flag: Some(Flag {
            long: "clip-skip",
            place: 5,
            help: "Text encoder layer from the last; 1 = the model's own choice",
            ..PICTURE
        }),
        label: Some(Label { name: "Clip skip", place: 8, ..LABEL }),
        setting: Some(Setting {
            example: "1",
            remark: "text encoder layer from the last; 1 = that one",
        }),
        range: Some(Range { low: 1.0, high: f64::INFINITY, why: "1 is the last layer" }),
        read: count,
        write: |r| some(r.clip_skip),
        neutral: "1",
        ..ROW
    },
    Field {
        key: "seed",
        sets: &["seed"],
        flag: Some(Flag {
            long: "seed",
            short: Some('S'),
            place: 6,
            help: "Seed of the first picture, or `random`; picture i uses seed + i",
            ..PICTURE
        }),
        label: Some(Label { name: "Seed", place: 5, ..LABEL }),
        read: seed,
        write: |r| some(r.seed),
        ..ROW
    },
    Field {
        key: "count",
        sets: &["count"],
        flag: Some(Flag {
            long: "count",
            short: Some('n'),
            place: 7,
            help: "How many pictures [default: 1]",
            ..PICTURE
        }),
        range: Some(Range { low: 1.0, high: MAX_COUNT as f64, why: "expected 1 to 10000" }),
        read: count,
        write: |r| some(Some(r.count)),
        neutral: "1",
        ..ROW
    },
    Field {
        key: "loras",
        sets: &["loras"],
        flag: Some(Flag {
            long: "lora",
            short: Some('l'),
            value: "NAME[:W]",
            place: 1,
            help: "A LoRA: NAME, NAME:0.8, NAME:unet=1,text=0.5:blocks=MIDD:steps=0..0.6; repeat for more",
            ..LORA
        }),
        title: Some("LoRA"),
        read: lora,
        write: |r| r.loras.iter().map(ToString::to_string).collect(),
        ..ROW
    },
    Field {
        key: "lora_method",
        sets: &["lora_method"],
        flag: Some(Flag {
            long: "lora-method",
            value: "METHOD",
            place: 3,
            help: "How several LoRAs are put together: sum, sequential, svd, ties, dare, dare-ties, switch or \
                 composite; with numbers: ties:density=0.3, svd:rank=32, switch:period=2 [default: sum]",
            ..LORA
        }),
        title: Some("LoRA method"),
        read: parsed::<Method>,
        write: |r| some(Some(r.lora_method)),
        neutral: "sum",
        ..ROW
    },
    Field {
        key: "apply",
        sets: &["apply"],
        flag: Some(Flag {
            long: "apply",
            value: "HOW",
            place: 4,
            help: "auto, merge (into the weights) or bypass (beside them) [default: auto]",
            ..LORA
        }),
        title: Some("Apply"),
        read: parsed::<Apply>,
        write: |r| some(Some(r.apply)),
        neutral: "auto",
        ..ROW
    },
    Field {
        key: "tile",
        sets: &["tile"],
        flag: Some(Flag {
            long: "tile",
            value: "",
            heading: Some("Machine"),
            place: 90,
            help: "Decode in tiles: less memory [default: for large pictures]",
            opposite: Some(["no-tile", "Decode in one piece"]),
            ..FLAG
        }),
        title: Some("Tile"),
        read: switch,
        write: tile,
        ..ROW
    },
    Field {
        key: "preview",
        sets: &["preview"],
        flag: Some(Flag {
            long: "preview",
            heading: Some("Output"),
            place: 8,
            help: "A rough look every N steps in OUTPUT.preview.png, removed at the end",
            ..FLAG
        }),
        read: count,
        write: |r| some(Some(r.preview)),
        neutral: "0",
        ..ROW
    },
];

/// The row of `key`.
pub fn field(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.key == key)
}

/// The rows that have a label, in the order of the line of settings.
pub fn labelled() -> Vec<(&'static Field, Label)> {
    let mut rows: Vec<_> = FIELDS.iter().filter_map(|field| Some((field, field.label?))).collect();
    rows.sort_by_key(|(_, label)| label.place);
    rows
}

/// Refuses the first value of a request that is out of its range.
///
/// # Errors
/// [`Error::BadRequest`] naming the field.
pub fn check(request: &Request) -> Result<()> {
    FIELDS.iter().try_for_each(|field| field.check(request))
}

/// Refuses a value in JSON that has not the type of the request's field `key`.
///
/// # Errors
/// What was expected and what was found, in words.
pub fn check_type(key: &str, value: &Value) -> Result<(), String> {
    let alone = Map::from_iter([(key.to_owned(), value.clone())]);
    serde_json::from_value::<Request>(alone.into()).map(drop).map_err(|error| error.to_string())
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
            ([_, _, ..], Value::Array(values)) => {
                let keys = self.sets.iter().map(|key| (*key).to_owned());
                request.extend(keys.zip(values));
            }
            (_, value) => drop(request.insert(self.key.to_owned(), value)),
        }
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

    fn check(&self, request: &Request) -> Result<()> {
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

/// The text of a value, if there is one.
fn some(value: Option<impl ToString>) -> Vec<String> {
    value.map(|value| value.to_string()).into_iter().collect()
}

/// Tiles when they are wanted; that they are not only where some would be made without a word.
fn tile(request: &Request) -> Vec<String> {
    let large = request.width.zip(request.height).is_some_and(|(w, h)| w * h > LARGE);
    some(request.tile.filter(|tile| *tile || large))
}

/// An error about the text of a flag, which names the flag itself.
fn unread(text: &str, why: impl Into<String>) -> Error {
    Error::bad_request("", text, why)
}

fn json(value: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Internal(format!("a request: {error}")))
}

fn text(text: &str) -> Result<Value> {
    Ok(text.into())
}

fn count(text: &str) -> Result<Value> {
    text.parse::<usize>().map(Value::from).map_err(|error| unread(text, error.to_string()))
}

fn number(text: &str) -> Result<Value> {
    let number = text.parse::<f64>().map_err(|error| unread(text, error.to_string()))?;
    // JSON has no such numbers, and no range here holds one.
    if number.is_finite() {
        Ok(number.into())
    } else {
        Err(unread(text, "expected a finite number"))
    }
}

fn switch(text: &str) -> Result<Value> {
    text.parse::<bool>().map(Value::from).map_err(|error| unread(text, error.to_string()))
}

/// A seed; `random`, which is null, has one drawn. -1 is what other programs call it.
fn seed(text: &str) -> Result<Value> {
    if ["random", "-1"].contains(&text) {
        return Ok(Value::Null);
    }
    let why = "expected a whole number from 0 to 18446744073709551615, or `random`";
    text.parse::<u64>().map(Value::from).map_err(|_| unread(text, why))
}

fn size(text: &str) -> Result<Value> {
    let size: ImageSize = text.parse()?;
    Ok(Value::from(vec![size.width(), size.height()]))
}

fn lora(text: &str) -> Result<Value> {
    json(LoraRef::parse_flag(text)?)
}

/// A window of steps; its error without the name of the field, which is that of a LoRA's window.
fn window(text: &str) -> Result<Value> {
    parsed::<StepWindow>(text).map_err(|error| match error {
        Error::BadRequest { why, .. } => unread(text, why),
        other => other,
    })
}

fn parsed<T: FromStr<Err = Error> + serde::Serialize>(text: &str) -> Result<Value> {
    json(text.parse::<T>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A request in which every field has a value that is worth writing.
    fn full() -> Request {
        Request {
            prompt: "a fox".into(),
            negative_prompt: "fog".into(),
            width: Some(1152),
            height: Some(1024),
            steps: Some(9),
            guidance_scale: Some(6.5),
            guidance_interval: "0.1..0.75".parse().ok(),
            reuse: 3,
            merge_tokens: 0.25,
            sampler: Some(Sampler::Ddim),
            schedule: Some(Schedule::Exponential),
            seed: Some(u64::MAX),
            count: 2,
            clip_skip: Some(2),
            tile: Some(false),
            preview: 4,
            loras: vec!["ink:unet=0.5,text=1".parse().unwrap(), "oil".parse().unwrap()],
            lora_method: "ties:density=0.25".parse().unwrap(),
            apply: Apply::Bypass,
        }
    }

    /// A field that is forgotten here is in no flag, settings file or picture.
    #[test]
    fn the_table_holds_every_field_of_a_request() {
        let request = serde_json::to_value(full()).unwrap();
        let fields: BTreeSet<&str> =
            request.as_object().unwrap().keys().map(String::as_str).collect();
        let rows: BTreeSet<&str> = FIELDS.iter().flat_map(|field| field.sets).copied().collect();
        assert_eq!(rows, fields);
        assert_eq!(FIELDS.iter().map(|f| f.key).collect::<BTreeSet<_>>().len(), FIELDS.len());
    }

    #[test]
    fn every_value_survives_its_text() {
        let full = full();
        let mut map = Map::new();
        for field in FIELDS {
            let texts = field.texts(&full);
            let by_parts = ["width", "height"].contains(&field.key);
            assert_eq!(texts.is_empty(), by_parts, "{}", field.key);
            let mut values: Vec<Value> =
                texts.iter().map(|text| (field.read)(text).unwrap()).collect();
            match field.key {
                "loras" => field.put(values.into(), &mut map),
                _ => values.drain(..).for_each(|value| field.put(value, &mut map)),
            }
        }
        assert_eq!(serde_json::from_value::<Request>(map.into()).unwrap(), full);
    }

    #[test]
    fn what_says_nothing_is_not_written() {
        let nothing = Request::default();
        for field in FIELDS {
            assert!(field.texts(&nothing).is_empty(), "{}", field.key);
        }
        let plain = Request { clip_skip: Some(1), ..Request::default() };
        assert!(field("clip_skip").unwrap().texts(&plain).is_empty());
    }

    #[test]
    fn examples_of_settings_have_the_right_type() {
        for field in FIELDS {
            let Some(setting) = field.setting else { continue };
            let value: Value = serde_json::from_str(setting.example).unwrap();
            check_type(field.key, &value).unwrap();
            assert!(!field.remark().is_empty(), "{}", field.key);
        }
        let error = check_type("steps", &"many".into()).unwrap_err();
        assert!(error.contains("invalid type"), "{error}");
        assert!(field("count").unwrap().range.unwrap().why.contains(&MAX_COUNT.to_string()));
        let merged = field("merge_tokens").unwrap().range.unwrap();
        assert!(merged.why.contains(&MOST_MERGED.to_string()));
    }

    #[test]
    fn seeds_may_be_random() {
        assert_eq!(seed("-1").unwrap(), Value::Null);
        assert_eq!(seed("random").unwrap(), Value::Null);
        assert_eq!(seed("18446744073709551615").unwrap(), Value::from(u64::MAX));
        assert!(seed("1.5").is_err());
        assert!(number("nan").is_err());
    }
}
