//! The graph as ComfyUI's editor keeps it: nodes whose values stand in a list, and a list of links.

use serde_json::{Map, Value, json};

/// The values of the nodes that are read, in their order. Numbers that change by themselves have a word behind them.
const VALUES: [(&str, &[&str]); 14] = [
    ("KSampler", &["seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"]),
    (
        "KSamplerAdvanced",
        &[
            "add_noise",
            "noise_seed",
            "",
            "steps",
            "cfg",
            "sampler_name",
            "scheduler",
            "start_at_step",
            "end_at_step",
        ],
    ),
    ("CheckpointLoaderSimple", &["ckpt_name"]),
    ("UNETLoader", &["unet_name"]),
    ("VAELoader", &["vae_name"]),
    ("LoraLoader", &["lora_name", "strength_model", "strength_clip"]),
    ("LoraLoaderModelOnly", &["lora_name", "strength_model"]),
    ("CLIPTextEncode", &["text"]),
    (
        "CLIPTextEncodeSDXL",
        &[
            "width",
            "height",
            "crop_w",
            "crop_h",
            "target_width",
            "target_height",
            "text_g",
            "text_l",
        ],
    ),
    ("CLIPSetLastLayer", &["stop_at_clip_layer"]),
    ("EmptyLatentImage", &["width", "height", "batch_size"]),
    ("RandomNoise", &["noise_seed"]),
    ("KSamplerSelect", &["sampler_name"]),
    ("BasicScheduler", &["scheduler", "steps", "denoise"]),
];
/// Values of nodes whose other inputs are links alone.
const OTHERS: [(&str, &[&str]); 2] = [("CFGGuider", &["cfg"]), ("PrimitiveNode", &["value"])];

/// The graph as it is run; `None` when this is none.
pub(super) fn graph(editor: &Map<String, Value>) -> Option<Map<String, Value>> {
    let nodes = editor.get("nodes")?.as_array()?;
    let links = editor.get("links").and_then(Value::as_array);
    let sources: Map<String, Value> = links.into_iter().flatten().filter_map(source).collect();
    Some(nodes.iter().filter_map(|node| run(node, &sources)).collect())
}

/// A link by its number: the node and the output that it comes from.
fn source(link: &Value) -> Option<(String, Value)> {
    let link = link.as_array()?;
    Some((link.first()?.to_string(), json!([link.get(1)?.to_string(), link.get(2)?.as_u64()?])))
}

fn run(node: &Value, sources: &Map<String, Value>) -> Option<(String, Value)> {
    // Muted and bypassed nodes do nothing.
    if node.get("mode").and_then(Value::as_u64).is_some_and(|mode| mode != 0) {
        return None;
    }
    let kind = node.get("type")?.as_str()?;
    let mut inputs = Map::new();
    let known = VALUES.iter().chain(&OTHERS).find(|(known, _)| *known == kind);
    let names = known.map_or(&[][..], |(_, names)| *names);
    let values = node.get("widgets_values").and_then(Value::as_array);
    for (name, value) in names.iter().zip(values.into_iter().flatten()) {
        if !name.is_empty() {
            inputs.insert((*name).to_owned(), value.clone());
        }
    }
    for input in node.get("inputs").and_then(Value::as_array).into_iter().flatten() {
        let name = input.get("name").and_then(Value::as_str);
        let from = input.get("link").and_then(|link| sources.get(&link.to_string()));
        if let Some((name, from)) = name.zip(from) {
            inputs.insert(name.to_owned(), from.clone());
        }
    }
    Some((node.get("id")?.to_string(), json!({"class_type": kind, "inputs": inputs})))
}
