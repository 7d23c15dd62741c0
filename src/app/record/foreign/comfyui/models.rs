//! The model that a sampler used, and its LoRAs.

use super::graph::{Graph, Node};
use crate::app::record::foreign::settings::{number, text};
use crate::app::record::foreign::told::Told;
use serde_json::Value;

/// Inputs that lead to the model before.
const MODEL: [&str; 4] = ["model", "basic_pipe", "pipe", "lora_stack"];
/// Inputs that name a file.
const FILES: [&str; 3] = ["ckpt_name", "unet_name", "model_name"];
/// Nodes that leave a model as it is.
const PASSING: [&str; 2] = ["Reroute", "ModelSamplingContinuousEDM"];

/// The model of the node that has it as an input, and its LoRAs: that which is nearest to the file comes first.
pub(super) fn read(graph: &Graph<'_>, node: Node<'_>, told: &mut Told) {
    let mut loras = Vec::new();
    for node in graph.chain(node, &MODEL) {
        let own = of_node(graph, node);
        let file = FILES.iter().find_map(|input| graph.value(node, input));
        if own.is_none() && file.is_none() && !PASSING.contains(&node.kind) {
            told.ignore(node.kind);
        }
        loras.extend(own.into_iter().flatten().rev());
        if let Some(file) = file {
            told.parameters.push("Model", file);
            break;
        }
    }
    for Lora { name, unet, text } in loras.into_iter().rev() {
        told.lora(&name, unet, text);
    }
}

struct Lora {
    name: String,
    unet: f64,
    text: f64,
}

/// The LoRAs of a node in their order; `None` when it loads none.
fn of_node(graph: &Graph<'_>, node: Node<'_>) -> Option<Vec<Lora>> {
    if let Some(name) = graph.value(node, "lora_name") {
        let unet = graph.number(node, "strength_model").unwrap_or(1.0);
        // Loaders of the model alone have no other strength.
        let text = graph.number(node, "strength_clip").unwrap_or_default();
        return Some(vec![Lora { name, unet, text }]);
    }
    let mut found = Vec::new();
    for (input, value) in node.inputs() {
        let numbered = input.rsplit_once('_').filter(|(_, n)| n.parse::<u32>().is_ok());
        let Some((kind, place)) = numbered.filter(|(kind, _)| kind.starts_with("lora")) else {
            continue;
        };
        if let Value::Object(row) = value {
            found.extend(row_of(row));
        } else if ["lora", "lora_name"].contains(&kind) {
            let strength = |names: [&str; 2]| {
                names.iter().find_map(|name| graph.number(node, &format!("{name}_{place}")))
            };
            let name = graph.value(node, input).unwrap_or_default();
            let unet = strength(["strength", "lora_wt"]).unwrap_or(1.0);
            found.push(Lora { name, unet, text: unet });
        }
    }
    found.retain(|lora| !lora.name.is_empty());
    let loads = node.kind.to_lowercase().contains("lora");
    (loads || !found.is_empty()).then_some(found)
}

/// A row of the loader that holds objects.
fn row_of(row: &serde_json::Map<String, Value>) -> Option<Lora> {
    row.get("on").is_none_or(|on| on.as_bool() == Some(true)).then_some(())?;
    let unet = row.get("strength").and_then(number).unwrap_or(1.0);
    let text_strength = row.get("strengthTwo").and_then(number).unwrap_or(unet);
    Some(Lora { name: text(row.get("lora")?), unet, text: text_strength })
}

/// The VAE that decoded what `sampler` made, when it is not the model's own.
pub(super) fn vae(graph: &Graph<'_>, sampler: Node<'_>, told: &mut Told) {
    let decodes = |node: &Node<'_>| node.has(&["samples", "vae"]);
    let of_it = |node: &Node<'_>| {
        graph.chain(*node, &["samples", "latent_image"]).iter().any(|n| n.id == sampler.id)
    };
    let decoder = graph.nodes().filter(decodes).find(of_it);
    let file = decoder.and_then(|node| graph.follow(node, "vae"));
    if let Some(name) = file.and_then(|node| graph.value(node, "vae_name")) {
        told.parameters.push("VAE", name);
    }
}
