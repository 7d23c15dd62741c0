//! What a value of an axis does to a job.

use super::axis::{Axis, AxisValue};
use super::kind::{Kind, Part};
use crate::app::{Job, resolver};
use crate::batch::Draft;
use crate::error::{Error, Result};
use crate::family::Defaults;
use crate::lora::LoraRef;
use crate::pipeline::fields::field;
use crate::prompt::escape_tags;
use crate::store::Store;
use serde_json::{Map, Value};

/// Gives `job` the value of an axis.
///
/// # Errors
/// [`Error::BadRequest`] for a value that does not fit, naming the field.
pub(super) fn apply(axis: &Axis, value: &AxisValue, job: &mut Job, store: &Store) -> Result<()> {
    let text = value.text.as_str();
    match &axis.kind {
        Kind::Nothing => Ok(()),
        Kind::Field(key) if value.nothing => {
            let is_text = ["prompt", "negative_prompt"].contains(key);
            let empty = if is_text { Value::from("") } else { Value::Null };
            let keys = field(key).map_or(&[][..], |row| row.sets);
            put(job, keys.iter().map(|key| ((*key).to_owned(), empty.clone())).collect())
        }
        Kind::Sampler if value.nothing => {
            let keys = ["sampler", "schedule"].map(|key| (key.to_owned(), Value::Null));
            put(job, keys.into_iter().collect())
        }
        Kind::Sampler => put(job, read("sampler_name", text)?),
        Kind::Model(key) if value.nothing => {
            put(job, Map::from_iter([((*key).to_owned(), Value::Null)]))
        }
        Kind::Field(key) | Kind::Model(key) => put(job, read(key, text)?),
        Kind::Option(name) => {
            let mut options =
                serde_json::to_value(&job.request.sampler_options).unwrap_or_default();
            if let Value::Object(options) = &mut options {
                options.remove(*name);
                if !value.nothing {
                    let why = "expected a number";
                    let number: f64 =
                        text.parse().map_err(|_| Error::bad_request(axis_field(), text, why))?;
                    options.insert((*name).to_owned(), number.into());
                }
            }
            put(job, Map::from_iter([("sampler_options".to_owned(), options)]))
        }
        Kind::Stack | Kind::Loras if value.nothing => Ok(()),
        Kind::Stack => resolver::stack(store, text, false, &mut job.request),
        Kind::Loras => {
            let lora = LoraRef::parse_flag(text)?;
            untagged(job)?;
            let loras = &mut job.request.loras;
            match loras.iter_mut().find(|other| other.name == lora.name) {
                Some(other) => *other = lora,
                None => loras.push(lora),
            }
            Ok(())
        }
        Kind::Lora { name, part } => lora(job, name, *part, value),
        Kind::Replace(_) | Kind::Order => words(axis, value, job),
    }
}

/// The field that errors about values name before the axis is put in its place.
fn axis_field() -> &'static str {
    "axis"
}

/// The values that a text gives to the field or key `name`.
fn read(name: &str, text: &str) -> Result<Map<String, Value>> {
    let mut draft = Draft::new(1);
    draft.set_text(name, text)?;
    Ok(draft.values)
}

/// Lays `values` over those of a job.
fn put(job: &mut Job, values: Map<String, Value>) -> Result<()> {
    let mut map = job.to_map()?;
    map.extend(values);
    *job = Job::from_map(map)?;
    Ok(())
}

/// Moves the LoRAs of the prompt's tags to the others; the plan stays the same.
fn untagged(job: &mut Job) -> Result<()> {
    let plan = job.request.plan(&Defaults::of_unknown_model(), 0)?;
    if plan.loras.len() > job.request.loras.len() {
        job.request.prompt = escape_tags(&plan.prompt);
        job.request.loras = plan.loras;
    }
    Ok(())
}

/// Changes one part of a LoRA, which comes in when it is not there.
fn lora(job: &mut Job, name: &str, part: Part, value: &AxisValue) -> Result<()> {
    untagged(job)?;
    let loras = &mut job.request.loras;
    let at = loras.iter().position(|lora| lora.name == name);
    if value.nothing && part == Part::Weight {
        loras.retain(|lora| lora.name != name);
        return Ok(());
    }
    let at = at.unwrap_or_else(|| {
        loras.push(LoraRef::new(name));
        loras.len() - 1
    });
    let lora = &mut loras[at];
    let text = value.text.as_str();
    let weight = || -> Result<Option<f32>> {
        if value.nothing {
            return Ok(None);
        }
        let why = "expected a weight such as 0.8; 1 is as trained";
        let weight = text.parse::<f32>();
        weight.map(Some).map_err(|_| Error::bad_request("lora", text, why))
    };
    match part {
        Part::Weight => (lora.unet, lora.text) = (weight()?, weight()?),
        Part::Unet => lora.unet = weight()?,
        Part::Text => lora.text = weight()?,
        Part::Blocks if value.nothing => lora.blocks = None,
        Part::Blocks => lora.blocks = Some(text.parse()?),
        Part::Steps if value.nothing => lora.steps = None,
        Part::Steps => lora.steps = Some(text.parse()?),
        Part::Start | Part::Stop => {
            let window = lora.steps.map(|steps| steps.to_string()).unwrap_or_default();
            let (start, stop) = window.split_once("..").unwrap_or(("", ""));
            let new = if value.nothing { "" } else { text };
            let (start, stop) = if part == Part::Start { (new, stop) } else { (start, new) };
            let open = start.is_empty() && stop.is_empty();
            lora.steps = if open { None } else { Some(format!("{start}..{stop}").parse()?) };
        }
    }
    lora.validate()
}

/// Changes the words of the prompts: pieces that take the place of others, or their order.
fn words(axis: &Axis, value: &AxisValue, job: &mut Job) -> Result<()> {
    let request = &mut job.request;
    if axis.kind == Kind::Order {
        request.prompt = ordered(&request.prompt, &value.text)?;
        return Ok(());
    }
    let piece = match &axis.kind {
        Kind::Replace(Some(piece)) => piece.as_str(),
        _ => axis.values.first().map_or("", |first| first.text.as_str()),
    };
    let found = |text: &str| !piece.is_empty() && text.contains(piece);
    if !found(&request.prompt) && !found(&request.negative_prompt) {
        let why = "neither the prompt nor the negative prompt holds this text, which others are to take the place of";
        return Err(Error::bad_request("axis", piece, why));
    }
    let new = if value.nothing { "" } else { value.text.as_str() };
    request.prompt = request.prompt.replace(piece, new);
    request.negative_prompt = request.negative_prompt.replace(piece, new);
    Ok(())
}

/// The prompt with the pieces of `order`, which stand in it in some order, in this one.
///
/// # Source
/// stable-diffusion-webui 1.10 `scripts/xyz_grid.py` (`apply_order`): the places stay, the pieces move.
fn ordered(prompt: &str, order: &str) -> Result<String> {
    let pieces: Vec<&str> = order.split(", ").collect();
    let mut places = Vec::with_capacity(pieces.len());
    for piece in &pieces {
        let why = "the prompt does not hold this piece";
        let at = prompt.find(piece).filter(|_| !piece.is_empty());
        let at = at.ok_or_else(|| Error::bad_request("axis", piece, why))?;
        places.push((at, piece.len()));
    }
    places.sort_unstable();
    let mut out = String::new();
    let mut end = 0;
    for ((at, length), piece) in places.into_iter().zip(pieces) {
        if at < end {
            let why = "it overlaps with another piece";
            return Err(Error::bad_request("axis", piece, why));
        }
        out += &prompt[end..at];
        out += piece;
        end = at + length;
    }
    Ok(out + &prompt[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn store() -> Store {
        Store::new(&[], Path::new("."), &|_| None)
    }

    /// The job with the last value of an axis.
    fn edited(job: &Job, spec: &str) -> Result<Job> {
        let axis = Axis::parse(spec, &store())?;
        let mut job = job.clone();
        apply(&axis, axis.values.last().unwrap(), &mut job, &store())?;
        Ok(job)
    }

    fn base() -> Job {
        Job::from_json(
            r#"{"prompt":"a red fox, <lora:ink:0.5> in snow","negative_prompt":"red fog","loras":[{"name":"gold","unet":1,"text":0.5,"steps":"0..0.5"}]}"#,
        )
        .unwrap()
    }

    fn loras(job: &Job) -> Vec<String> {
        job.request.loras.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_changes_what_it_names() {
        let job = base();
        assert_eq!(edited(&job, "steps=5").unwrap().request.steps, Some(5));
        assert_eq!(edited(&job, "steps=5,none").unwrap().request.steps, None);
        let size = edited(&job, "size=64x128").unwrap().request;
        assert_eq!((size.width, size.height), (Some(64), Some(128)));
        let sampler = edited(&job, "Sampler=DPM++ 2M Karras").unwrap().request;
        assert_eq!(sampler.sampler.unwrap().to_string(), "dpmpp-2m");
        assert_eq!(sampler.schedule.unwrap().to_string(), "karras");
        let eta = edited(&job, "Eta=0..1:0.5").unwrap().request;
        assert_eq!(eta.sampler_options.to_string(), "eta=1");
        assert_eq!(edited(&job, "model=x").unwrap().model.as_deref(), Some("x"));
        let replaced = edited(&job, "prompt:red=blue").unwrap().request;
        assert_eq!(replaced.negative_prompt, "blue fog");
        assert!(replaced.prompt.starts_with("a blue fox"));
        assert!(edited(&job, "Prompt S/R=red,none").unwrap().request.prompt.starts_with("a  fox"));
        assert_eq!(edited(&job, "prompt=\"a, b\"").unwrap().request.prompt, "a, b");
        let order = edited(&job, "order=fox,snow").unwrap().request.prompt;
        assert_eq!(order, "a red snow, <lora:ink:0.5> in fox");
        assert_eq!(edited(&job, "seed=-1").unwrap().request.seed, None);
    }

    #[test]
    fn parts_of_a_lora_leave_the_others() {
        let job = base();
        let gold = "gold:unet=1,text=0.5:steps=0..0.5";
        for (spec, expected) in [
            ("lora.gold=0.25", vec!["gold:0.25:steps=0..0.5", "ink:0.5"]),
            ("lora.gold.te=2", vec!["gold:unet=1,text=2:steps=0..0.5", "ink:0.5"]),
            ("lora.gold.stop=0.75", vec!["gold:unet=1,text=0.5:steps=0..0.75", "ink:0.5"]),
            ("lora.gold.start=0.25", vec!["gold:unet=1,text=0.5:steps=0.25..0.5", "ink:0.5"]),
            ("lora.gold.steps=none", vec!["gold:unet=1,text=0.5", "ink:0.5"]),
            ("lora.ink=0.75", vec![gold, "ink:0.75"]),
            ("lora.ink=1,none", vec![gold]),
            ("lora.new=0.75", vec![gold, "ink:0.5", "new:0.75"]),
            ("lora=new:0.5", vec![gold, "ink:0.5", "new:0.5"]),
            (
                "lora.gold.blocks=MIDD",
                vec!["gold:unet=1,text=0.5:blocks=MIDD:steps=0..0.5", "ink:0.5"],
            ),
        ] {
            let edited = edited(&job, spec).unwrap();
            assert_eq!(loras(&edited), expected, "{spec}");
            assert!(!edited.request.prompt.contains("<lora"), "{spec}");
        }
        // Nothing of the LoRAs changes: the tags stay where they are.
        assert_eq!(loras(&edited(&job, "lora=x,none").unwrap()), [gold]);
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let job = base();
        for (spec, part) in [
            ("steps=many", "steps"),
            ("sampler=eulr", "euler"),
            ("eta=x", "expected a number"),
            ("lora.gold=much", "expected a weight"),
            ("lora.gold=1000", "at most 100"),
            ("lora.gold.start=0.5", "between these ends"),
            ("prompt:cat=dog", "neither the prompt"),
            ("order=fox,cat", "does not hold"),
            ("order=red,red fox", "overlaps"),
            ("dtype=f8", "f8"),
        ] {
            let message = edited(&job, spec).unwrap_err().to_string();
            assert!(message.contains(part), "{spec}: {message}");
        }
    }
}
