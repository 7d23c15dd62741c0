//! InvokeAI since version 3: JSON under `invokeai_metadata`.

use super::json::Json;
use super::settings::{Settings, number, text};
use super::told::{Refusal, Told};
use crate::picture::Embedded;
use crate::prompt::PromptSyntax;
use serde_json::{Map, Value};

/// Keys that change nothing.
const HARMLESS: [&str; 6] =
    ["app_version", "created_by", "rand_device", "seamless_x", "seamless_y", "style_preset"];
/// Its samplers that go by other names elsewhere.
const NAMES: [(&str, &str); 2] = [("kdpm_2_a", "DPM2 a"), ("kdpm_2", "DPM2")];

/// What its JSON says.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    let json = match Json::parse(texts.keyword("invokeai_metadata")?) {
        Ok(json) => json,
        Err(refusal) => return Some(Err(refusal)),
    };
    read_json(json.object()?)
}

/// What an object of its JSON says; `None` for that of others.
pub(super) fn read_json(object: &Map<String, Value>) -> Option<Result<Told, Refusal>> {
    object.get("positive_prompt").filter(|prompt| prompt.is_string())?;
    let mut settings = Settings::of(object, Told::json("InvokeAI", compel()));
    settings.prompts("positive_prompt", "negative_prompt");
    // An empty style is the prompt.
    for style in ["positive_style_prompt", "negative_style_prompt"] {
        let own = &settings.told.parameters;
        let own = [own.prompt.clone(), own.negative_prompt.clone()];
        settings.drop_as(style, &[&own[0], &own[1]]);
    }
    settings.put("Steps", "steps");
    if let Some(name) = settings.take("scheduler") {
        let (base, schedule) = match name.strip_suffix("_k") {
            Some(base) => (base, "Karras"),
            None => (&*name, "Uniform"),
        };
        let known = NAMES.iter().find(|(theirs, _)| *theirs == base);
        settings.push("Sampler", known.map_or(base, |(_, label)| label));
        settings.push("Schedule type", schedule);
    }
    settings.put("CFG scale", "cfg_scale");
    settings.put("Seed", "seed");
    settings.size("width", "height");
    if let Some(model) = settings.value("model") {
        settings.push("Model", name(&model));
    }
    if let Some(vae) = settings.value("vae") {
        settings.push("VAE", name(&vae));
    }
    // Theirs counts layers that are left out.
    if let Some(skip) = settings.value("clip_skip").as_ref().and_then(number) {
        settings.push("Clip skip", skip + 1.0);
    }
    for lora in settings.value("loras").as_ref().and_then(Value::as_array).into_iter().flatten() {
        let weight = lora.get("weight").and_then(number).unwrap_or(1.0);
        let model = lora.get("model").or_else(|| lora.get("lora")).unwrap_or(lora);
        settings.told.lora(&name(model), weight, weight);
    }
    settings.drop_as("cfg_rescale_multiplier", &["0", "0.0"]);
    settings.drop_as("generation_mode", &["txt2img", "sdxl_txt2img"]);
    settings.drop(&HARMLESS);
    Some(Ok(settings.finish()))
}

/// The name of a model, whose keys were others before version 4.
fn name(model: &Value) -> String {
    let named = ["name", "model_name"].into_iter().find_map(|key| model.get(key)?.as_str());
    named.map_or_else(|| text(model), str::to_owned)
}

/// The syntax of compel, or plain text as long as colora does not read it: emphasis is named then.
pub(super) fn compel() -> PromptSyntax {
    "compel".parse().unwrap_or(PromptSyntax::Plain)
}
