//! Fooocus: JSON under `parameters`, JSON under `Comment` of older versions, and A1111's lines.

use super::json::Json;
use super::settings::{Settings, number, text};
use super::told::{Refusal, Told};
use crate::app::named_hash::{NamedHash, Subject};
use crate::picture::Embedded;
use crate::prompt::PromptSyntax;
use serde_json::{Map, Value};

/// Keys that change nothing beside what else is said.
const HARMLESS: [&str; 4] = ["metadata_scheme", "version", "created_by", "log"];
/// Keys of older versions, in their newer spelling.
const OLDER: [(&str, &str); 13] = [
    ("Prompt", "prompt"),
    ("Negative Prompt", "negative_prompt"),
    ("Fooocus V2 Expansion", "prompt_expansion"),
    ("Styles", "styles"),
    ("Performance", "performance"),
    ("Steps", "steps"),
    ("Resolution", "resolution"),
    ("Sharpness", "sharpness"),
    ("Guidance Scale", "guidance_scale"),
    ("Base Model", "base_model"),
    ("Sampler", "sampler"),
    ("Scheduler", "scheduler"),
    ("Seed", "seed"),
];

/// What its JSON says; `None` for that of others.
pub(super) fn read_json(object: &Map<String, Value>) -> Option<Result<Told, Refusal>> {
    let scheme = object.get("metadata_scheme").and_then(Value::as_str);
    let drawn = ["steps", "sampler", "guidance_scale"].iter().any(|key| object.contains_key(*key));
    let prompt = object.get("prompt").is_some_and(Value::is_string);
    let known = scheme.is_none_or(|scheme| scheme == "fooocus") && prompt && drawn;
    known.then(|| Ok(told(object)))
}

/// What an older version put into `Comment`.
pub(super) fn read_comment(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    let json = Json::parse(texts.keyword("Comment")?).ok()?;
    let object: Map<String, Value> = json.object()?.clone().into_iter().map(renamed).collect();
    read_json(&object)
}

fn renamed((key, value): (String, Value)) -> (String, Value) {
    let known = OLDER.iter().find(|(older, _)| *older == key);
    (known.map_or(key, |(_, newer)| (*newer).to_owned()), value)
}

fn told(object: &Map<String, Value>) -> Told {
    let mut settings = Settings::of(object, Told::json("Fooocus", PromptSyntax::Comfy));
    for (full, key) in [("full_prompt", "prompt"), ("full_negative_prompt", "negative_prompt")] {
        // What styles did not change is the prompt again.
        let own = settings.look(key).unwrap_or_default();
        let list = serde_json::Value::from(vec![own.clone()]).to_string();
        settings.drop_as(full, &[&own, &list]);
    }
    settings.prompts("prompt", "negative_prompt");
    settings.put("Steps", "steps");
    settings.put("Sampler", "sampler");
    settings.put("Schedule type", "scheduler");
    settings.put("CFG scale", "guidance_scale");
    settings.put("Seed", "seed");
    if let Some(size) = settings.take("resolution") {
        settings.push("Size", size.trim_matches(['(', ')']).replace(", ", "x"));
    }
    if let Some(hash) = settings.take("base_model_hash") {
        let name = settings.look("base_model").unwrap_or_default();
        settings.hash(NamedHash::new(Subject::Model, name, &hash));
    }
    settings.put("Model", "base_model");
    settings.put("VAE", "vae");
    settings.put("Clip skip", "clip_skip");
    settings.put("Performance", "performance");
    if settings.look("refiner_model").is_none_or(|name| name.eq_ignore_ascii_case("none")) {
        settings.drop(&["refiner_model", "refiner_switch"]);
    }
    loras(&mut settings, object);
    settings.drop(&HARMLESS);
    settings.finish()
}

fn loras(settings: &mut Settings, object: &Map<String, Value>) {
    let combined = |key: &&String| key.starts_with("lora_combined_");
    let keys: Vec<&String> = object.keys().filter(combined).collect();
    let listed = settings.value("loras");
    if let Some(Value::Array(listed)) = &listed {
        for lora in listed {
            let name = lora.get(0).map(text).unwrap_or_default();
            let weight = lora.get(1).and_then(number).unwrap_or(1.0);
            if let Some(hash) = lora.get(2).map(text) {
                settings.hash(NamedHash::new(Subject::Lora, &*name, &hash));
            }
            settings.told.lora(&name, weight, weight);
        }
    }
    for key in keys {
        let Some(pair) = settings.take(key) else { continue };
        // The same again, a key each; older versions have nothing else.
        if listed.is_none()
            && let Some((name, weight)) = pair.rsplit_once(" : ")
        {
            let weight = weight.trim().parse().unwrap_or(1.0);
            settings.told.lora(name.trim(), weight, weight);
        }
    }
}

/// Puts the words of its lines into A1111's.
pub(super) fn read_lines(told: &mut Told) {
    told.syntax = PromptSyntax::Comfy;
    let weights = told.parameters.get("Lora weights").unwrap_or_default().to_owned();
    for pair in weights.split(',') {
        if let Some((name, weight)) = pair.rsplit_once(':') {
            let weight = weight.trim().parse().unwrap_or(1.0);
            told.lora(name.trim(), weight, weight);
        }
    }
    // The sampler's name holds the schedule too.
    told.parameters
        .fields
        .retain(|(name, _)| !["Lora weights", "Scheduler"].contains(&name.as_str()));
}
