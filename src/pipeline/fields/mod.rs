//! The table of a request's fields: how each one is called in flags, in settings files and in the texts that
//! programs exchange in pictures, which values it accepts, and when it is written.
//!
//! A new field is a field of [`Request`] and [`Plan`](super::Plan), a row of [`FIELDS`], and the code that acts on it:
//! `docs/how-to/add-a-request-field.md` names the places.

mod blank;
mod noise;
mod row;
mod table;
mod values;

pub use row::{Field, Flag, Label, Range, Setting};
pub use table::FIELDS;

use super::Request;
use crate::error::Result;
use serde_json::{Map, Value};

/// Puts choices that stand in another spelling, or hold two, as they stand in a request. What a text holds beside its
/// own field gives way to what is said there.
pub fn respell(map: &mut Map<String, Value>) {
    for field in FIELDS {
        let Some(value) = map.get(field.key).and_then(|value| field.respelled(value)) else {
            continue;
        };
        let mut put = Map::new();
        field.put(value, &mut put);
        for (key, value) in put {
            let said = map.get(&key).is_some_and(|value| !value.is_null());
            if key == field.key || !said {
                map.insert(key, value);
            }
        }
    }
}

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
/// [`Error::BadRequest`](crate::Error::BadRequest) naming the field.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::values::{number, seed};
    use super::*;
    use crate::lora::Apply;
    use crate::pipeline::{Compat, MAX_COUNT};
    use crate::prompt::{Emphasis, PromptSyntax};
    use crate::rng::Rng;
    use crate::sampling::{Sampler, Schedule};
    use std::collections::BTreeSet;

    /// A request in which every field has a value that is worth writing.
    pub(crate) fn full() -> Request {
        Request {
            prompt: "a fox".into(),
            negative_prompt: "fog".into(),
            prompt_syntax: Some(PromptSyntax::Comfy),
            encode_empty: true,
            emphasis: Emphasis::NoNorm,
            prompt_2: Some("a fox in snow".into()),
            negative_prompt_2: Some("rain".into()),
            width: Some(1152),
            height: Some(1024),
            aspect: "2:3".parse().ok(),
            steps: Some(9),
            guidance_scale: Some(6.5),
            guidance_interval: "0.1..0.75".parse().ok(),
            guidance_rescale: "0.7:on=v".parse().ok(),
            dynamic_threshold: "7:percentile=0.9".parse().ok(),
            s_min_uncond: "1.5:all".parse().ok(),
            skip_early_cfg: 0.125,
            pag: "3:adaptive=0.5,layers=up.1".parse().ok(),
            sag: "0.5:blur=2".parse().ok(),
            freeu: "v1:b1=1.25".parse().ok(),
            prediction: "flow:shift=2.5".parse().ok(),
            refiner: Some("sdxl-refiner".into()),
            refiner_at: 0.75,
            original_size: "512x640".parse().ok(),
            crop: "3,4".parse().ok(),
            target_size: "1024x768".parse().ok(),
            negative_original_size: "256x320".parse().ok(),
            negative_crop: "5,6".parse().ok(),
            negative_target_size: "768x1024".parse().ok(),
            aesthetic_score: Some(7.0),
            negative_aesthetic_score: Some(1.5),
            reuse: 3,
            merge_tokens: 0.25,
            sampler: Some(Sampler::Ddim),
            sampler_options: "eta=0.5,s_noise=1.01".parse().unwrap(),
            schedule: Some(Schedule::Exponential),
            seed: Some(u64::MAX),
            compat: Compat::A1111,
            rng: Some(Rng::Cpu),
            variation_seed: Some(3),
            variation_strength: 0.25,
            seed_resize: "512x768".parse().ok(),
            ensd: 31337,
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
            let by_parts = field.option || ["width", "height"].contains(&field.key);
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
        assert!(merged.why.contains(&merged.high.to_string()));
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
