//! ComfyUI: the graph that drew the picture, under `prompt`, or as the editor shows it, under `workflow`.
//!
//! The sampler that the first saved picture comes from is found by links; from there the texts, the model with its
//! LoRAs, and the noise levels are followed. Nodes on the way that are not known are named.

mod graph;
mod models;
mod sampler;
mod texts;
mod workflow;

use super::json::Json;
use super::told::{Refusal, Told};
use crate::picture::{Embedded, Place};
use crate::prompt::PromptSyntax;
use graph::Graph;
use serde_json::{Map, Value};

/// Nodes that a graph may have.
const MOST_NODES: usize = 10_000;

/// What its texts say: of a PNG, or of EXIF in a WebP file.
pub(super) fn read(texts: &Embedded) -> Option<Result<Told, Refusal>> {
    let exif = |place: &Place, key: &str| texts.get(place)?.strip_prefix(key);
    let prompt = texts.keyword("prompt").or_else(|| exif(&Place::Model, "prompt:"));
    let prompt = prompt.filter(|text| text.trim_start().starts_with('{'));
    if let Some(json) = prompt {
        return match Json::parse(json) {
            Ok(json) => read_json(json.object()?),
            Err(refusal) => Some(Err(refusal)),
        };
    }
    let workflow = texts.keyword("workflow").or_else(|| exif(&Place::Make, "workflow:"))?;
    match Json::parse(workflow) {
        Ok(json) => read_json(&workflow::graph(json.object()?)?),
        Err(refusal) => Some(Err(refusal)),
    }
}

/// What a graph says; `None` for JSON of others.
pub(super) fn read_json(object: &Map<String, Value>) -> Option<Result<Told, Refusal>> {
    object.values().find(|value| value.get("class_type").is_some())?;
    if object.len() > MOST_NODES {
        let why = format!("a graph of {} nodes; at most {MOST_NODES} are read", object.len());
        return Some(Err(Refusal::Broken(why)));
    }
    let graph = Graph::new(object);
    let Some(sampler) = sampler::find(&graph) else {
        return Some(Err(Refusal::Program("ComfyUI without a sampler that is known".into())));
    };
    let mut told = Told::json("ComfyUI", PromptSyntax::Comfy);
    sampler::read(&graph, &sampler, &mut told);
    if graph.is_exhausted() {
        return Some(Err(Refusal::Broken("its graph has too many links".into())));
    }
    Some(Ok(told))
}
