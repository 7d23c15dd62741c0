//! SwarmUI: JSON under `parameters`, in the words of ComfyUI.

use super::settings::{Settings, number, text};
use super::told::{Refusal, Told};
use crate::app::named_hash::{NamedHash, Subject};
use crate::prompt::{PromptSyntax, extract_tags};
use serde_json::{Map, Value};

/// Keys that change nothing: what is made how often, how its sizes were chosen, its version.
const HARMLESS: [&str; 6] =
    ["images", "aspectratio", "automaticvae", "swarm_version", "sui_image_version", "date"];

/// What its JSON says; `None` for that of others.
pub(super) fn read_json(object: &Map<String, Value>) -> Option<Result<Told, Refusal>> {
    let image = object.get("sui_image_params")?.as_object()?;
    let mut settings = Settings::of(image, Told::json("SwarmUI", PromptSyntax::Comfy));
    settings.prompts("prompt", "negativeprompt");
    settings.put("Steps", "steps");
    settings.put("Sampler", "sampler");
    settings.put("Schedule type", "scheduler");
    settings.put("CFG scale", "cfgscale");
    settings.put("Seed", "seed");
    settings.size("width", "height");
    settings.put("Model", "model");
    settings.put("VAE", "vae");
    if let Some(layer) = settings.take("clipstopatlayer") {
        settings.push("Clip skip", layer.trim_start_matches('-'));
    }
    loras(&mut settings);
    for model in object.get("sui_models").and_then(Value::as_array).into_iter().flatten() {
        let part = |key: &str| model.get(key).map(text).unwrap_or_default();
        let subject = match part("param").as_str() {
            "model" => Subject::Model,
            "loras" => Subject::Lora,
            _ => continue,
        };
        settings.hash(NamedHash::new(subject, part("name"), &part("hash")));
    }
    settings.drop(&HARMLESS);
    Some(Ok(settings.finish()))
}

/// Its LoRAs, but for those that have a tag in the prompt as well.
fn loras(settings: &mut Settings) {
    let tags = extract_tags(&settings.told.parameters.prompt).unwrap_or_default().tags;
    let tagged = |name: &str| {
        tags.iter().any(|tag| tag.body.split(':').next().is_some_and(|known| known == name))
    };
    let mut list = |key: &str| match settings.value(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let (names, weights) = (list("loras"), list("loraweights"));
    let texts = list("loratencweights");
    for (index, name) in names.iter().map(text).enumerate() {
        let weight = weights.get(index).and_then(number).unwrap_or(1.0);
        let of_text = texts.get(index).and_then(number).unwrap_or(weight);
        if !tagged(&name) {
            settings.told.lora(&name, weight, of_text);
        }
    }
}
