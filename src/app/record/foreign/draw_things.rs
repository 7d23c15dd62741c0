//! Draw Things: JSON as the comment of an XMP packet.

use super::json::Json;
use super::settings::{Settings, number, text};
use super::told::{Refusal, Told};
use crate::picture::{Embedded, Place};
use crate::prompt::PromptSyntax;
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;

/// Most nodes of XML that are looked at.
const MOST_NODES: u32 = 10_000;
/// Keys that change nothing beside the others. `v2` repeats everything.
const HARMLESS: [&str; 2] = ["v2", "profile"];

/// What its packet says.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    let xmp = texts.get(&Place::Xmp)?;
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xmp.trim(), options).ok()?;
    let comment = document.descendants().find(|node| node.tag_name().name() == "UserComment")?;
    let item = |node: &Node<'_, '_>| node.tag_name().name() == "li";
    let json = comment.descendants().find(item).unwrap_or(comment).text()?;
    let json = match Json::parse(json) {
        Ok(json) => json,
        Err(refusal) => return Some(Err(refusal)),
    };
    let object = json.object().filter(|object| object.contains_key("c"))?;
    let mut settings = Settings::of(object, Told::json("Draw Things", PromptSyntax::A1111));
    settings.prompts("c", "uc");
    settings.put("Steps", "steps");
    settings.put("Sampler", "sampler");
    settings.put("CFG scale", "scale");
    settings.put("Seed", "seed");
    settings.put("Size", "size");
    settings.put("Model", "model");
    if let Some(skip) = object.get("v2").and_then(|v2| v2.get("clipSkip")) {
        settings.push("Clip skip", text(skip));
    }
    for lora in settings.value("lora").as_ref().and_then(Value::as_array).into_iter().flatten() {
        let weight = lora.get("weight").and_then(number).unwrap_or(1.0);
        settings.told.lora(&lora.get("model").map(text).unwrap_or_default(), weight, weight);
    }
    for key in ["strength", "shift", "sharpness"] {
        settings.drop_as(key, &["1", "1.0", "0", "0.0"]);
    }
    settings.drop(&HARMLESS);
    Some(Ok(settings.finish()))
}
