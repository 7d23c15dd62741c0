//! Easy Diffusion: a PNG text for every setting, or all of them as JSON.

use super::settings::{Settings, number, text};
use super::told::{Refusal, Told};
use crate::picture::Embedded;
use crate::prompt::PromptSyntax;
use serde_json::{Map, Value};

/// Its settings, by key and as people read them.
const KEYS: [(&str, &str); 17] = [
    ("prompt", "Prompt"),
    ("negative_prompt", "Negative Prompt"),
    ("seed", "Seed"),
    ("num_inference_steps", "Steps"),
    ("guidance_scale", "Guidance Scale"),
    ("width", "Width"),
    ("height", "Height"),
    ("sampler_name", "Sampler"),
    ("scheduler_name", "Scheduler"),
    ("use_stable_diffusion_model", "Stable Diffusion model"),
    ("use_vae_model", "VAE model"),
    ("use_lora_model", "LoRA model"),
    ("lora_alpha", "LoRA Strength"),
    ("clip_skip", "Clip Skip"),
    ("use_hypernetwork_model", "Hypernetwork model"),
    ("tiling", "Seamless Tiling"),
    ("prompt_strength", "Prompt Strength"),
];

/// What its texts say. `prompt` alone is of no program in particular.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    let object = texts.keywords().map(|(key, text)| (key.to_owned(), text.into())).collect();
    read_json(&object)
}

/// What its JSON says; `None` for that of others.
pub(super) fn read_json(object: &Map<String, Value>) -> Option<Result<Told, Refusal>> {
    let renamed = |(key, value): (&String, &Value)| {
        let known = KEYS.iter().find(|(own, shown)| own == key || shown == key)?;
        Some((known.0.to_owned(), value.clone()))
    };
    let object: Map<String, Value> = object.iter().filter_map(renamed).collect();
    let own = ["num_inference_steps", "use_stable_diffusion_model"];
    if !object.contains_key("prompt") || !own.iter().any(|key| object.contains_key(*key)) {
        return None;
    }
    let mut settings = Settings::of(&object, Told::json("Easy Diffusion", PromptSyntax::A1111));
    settings.prompts("prompt", "negative_prompt");
    settings.put("Steps", "num_inference_steps");
    settings.put("Sampler", "sampler_name");
    settings.put("Schedule type", "scheduler_name");
    settings.put("CFG scale", "guidance_scale");
    settings.put("Seed", "seed");
    settings.size("width", "height");
    settings.put("Model", "use_stable_diffusion_model");
    settings.put("VAE", "use_vae_model");
    // A switch: the last layer, or the one before.
    if let Some(skip) = settings.take("clip_skip") {
        settings.push("Clip skip", if skip.eq_ignore_ascii_case("true") { "2" } else { "1" });
    }
    let listed = |value: Option<Value>| match value {
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(other) => vec![text(&other)],
        None => Vec::new(),
    };
    let names: Vec<String> = listed(settings.value("use_lora_model"));
    let weights: Vec<String> = listed(settings.value("lora_alpha"));
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
        let weight = weights.get(index).and_then(|w| number(&w.as_str().into())).unwrap_or(1.0);
        settings.told.lora(name, weight, weight);
    }
    settings.drop_as("tiling", &["none", "None"]);
    Some(Ok(settings.finish()))
}
