//! InvokeAI before version 3: JSON under `sd-metadata`, or the command line under `Dream`.

use super::invokeai::compel;
use super::json::Json;
use super::settings::{Settings, text};
use super::told::{Refusal, Told};
use crate::picture::Embedded;
use serde_json::{Map, Value};

/// Options of the command line and their names here; those without a name change nothing.
const OPTIONS: [(&str, &str); 8] = [
    ("-s", "Steps"),
    ("-S", "Seed"),
    ("-W", "width"),
    ("-H", "height"),
    ("-C", "CFG scale"),
    ("-A", "Sampler"),
    ("-n", ""),
    ("-F", ""),
];

/// What either text says.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    let json = texts.keyword("sd-metadata").map(Json::parse);
    match json {
        Some(Err(refusal)) => Some(Err(refusal)),
        Some(Ok(json)) => of_json(json.object()?).map(Ok),
        None => of_command(texts.keyword("Dream")?).map(Ok),
    }
}

fn of_json(object: &Map<String, Value>) -> Option<Told> {
    let image = object.get("image")?.as_object()?;
    let mut settings = Settings::of(image, Told::json("InvokeAI", compel()));
    let prompt = match settings.value("prompt") {
        Some(Value::Array(parts)) => {
            let parts: Vec<String> =
                parts.iter().filter_map(|p| p.get("prompt")).map(text).collect();
            if parts.len() > 1 {
                settings.told.ignore("weights of several prompts");
            }
            parts.join(" ")
        }
        other => other.as_ref().map(text).unwrap_or_default(),
    };
    put_prompts(&mut settings.told, &prompt);
    settings.put("Steps", "steps");
    settings.put("Sampler", "sampler");
    settings.put("CFG scale", "cfg_scale");
    settings.put("Seed", "seed");
    settings.size("width", "height");
    if let Some(model) = object.get("model_weights").map(text) {
        settings.push("Model", model);
    }
    settings.drop_as("type", &["txt2img"]);
    settings.drop(&["postprocessing", "threshold", "perlin"]);
    Some(settings.finish())
}

/// `"prompt [negative]" -s 50 -S 1 -W 512 -H 512 -C 7.5 -A k_lms`
fn of_command(text: &str) -> Option<Told> {
    let (prompt, options) = text.trim().strip_prefix('"')?.rsplit_once('"')?;
    let mut told = Told::json("InvokeAI", compel());
    put_prompts(&mut told, prompt);
    let mut words = options.split_whitespace();
    let (mut width, mut height) = (None, None);
    while let Some(word) = words.next() {
        let name = OPTIONS.iter().find(|(option, _)| *option == word).map(|(_, name)| *name);
        match (name, name.and_then(|_| words.next())) {
            (Some("width"), value) => width = value,
            (Some("height"), value) => height = value,
            (Some(""), _) => {}
            (Some(name), Some(value)) => told.parameters.push(name, value),
            _ => told.ignore(word),
        }
    }
    if let Some((width, height)) = width.zip(height) {
        told.parameters.push("Size", format!("{width}x{height}"));
    }
    Some(told)
}

/// Parts the text: what stands in square brackets is to be avoided.
fn put_prompts(told: &mut Told, text: &str) {
    let (mut prompt, mut negative) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, inside, after)) = bracketed(rest) {
        prompt.push_str(before);
        negative.push(inside.trim());
        rest = after;
    }
    prompt.push_str(rest);
    prompt.trim().clone_into(&mut told.parameters.prompt);
    told.parameters.negative_prompt = negative.join(" ");
}

/// What stands before, in and behind the first square brackets.
fn bracketed(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('[')?;
    let (inside, after) = rest.split_once(']')?;
    Some((before, inside, after))
}
