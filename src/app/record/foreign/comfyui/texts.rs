//! The texts that a sampler was conditioned on.

use super::graph::{Graph, Node};
use crate::app::record::foreign::told::Told;

/// Inputs that lead from a conditioning to the one before.
const CONDITIONING: [&str; 6] =
    ["conditioning", "conditioning_1", "conditioning_to", "positive", "negative", "base_ctx"];
/// Nodes that leave a conditioning as it is.
const PASSING: [&str; 3] = ["Reroute", "ConditioningConcat", "CR Conditioning Input Switch"];

/// A text of a conditioning.
struct Found {
    text: String,
    /// The text of the other encoder, when it is another.
    other: Option<String>,
}

/// The prompts of the node that has them as inputs.
pub(super) fn read(graph: &Graph<'_>, node: Node<'_>, told: &mut Told) {
    let positive = text(graph, node, "positive", told);
    let negative = text(graph, node, "negative", told);
    positive.text.trim().clone_into(&mut told.parameters.prompt);
    negative.text.trim().clone_into(&mut told.parameters.negative_prompt);
    for (name, found) in [("text_l", positive.other), ("negative text_l", negative.other)] {
        if let Some(other) = found {
            told.parameters.push(name, other);
        }
    }
}

/// The text that `input` of `node` leads to.
fn text(graph: &Graph<'_>, node: Node<'_>, input: &str, told: &mut Told) -> Found {
    let nothing = Found { text: String::new(), other: None };
    // Loaders that are all in one hold the texts themselves.
    if let Some(own) = node.own(input) {
        return Found { text: own.to_owned(), other: None };
    }
    let Some(first) = graph.follow(node, input).or_else(|| graph.follow(node, "conditioning"))
    else {
        return nothing;
    };
    let mut chain = vec![first];
    chain.extend(graph.chain(first, &[&[input], &CONDITIONING[..]].concat()));
    for node in chain {
        if node.kind == "ConditioningZeroOut" {
            return nothing;
        }
        if let Some(found) = of_node(graph, node).or_else(|| Some(plain(node.own(input)?))) {
            return found;
        }
        if !PASSING.contains(&node.kind) {
            told.ignore(node.kind);
        }
    }
    nothing
}

fn plain(text: &str) -> Found {
    Found { text: text.to_owned(), other: None }
}

/// The text of a node that encodes one; `None` for another node.
fn of_node(graph: &Graph<'_>, node: Node<'_>) -> Option<Found> {
    let value = |input: &str| graph.value(node, input).unwrap_or_default();
    if node.has(&["text_g"]) {
        let (text, other) = (value("text_g"), value("text_l"));
        let other = Some(other).filter(|other| !other.is_empty() && *other != text);
        return Some(Found { text, other });
    }
    let encodes = node.has(&["clip"]) || node.kind.contains("TextEncode");
    let input = ["text", "prompt", "text_positive"].into_iter().find(|input| node.has(&[input]))?;
    encodes.then(|| plain(&value(input)))
}

/// The layer that the prompt's text encoder stops at: theirs counts from -1.
pub(super) fn clip_skip(graph: &Graph<'_>, node: Node<'_>, told: &mut Told) {
    let Some(first) = graph.follow(node, "positive").or_else(|| graph.follow(node, "conditioning"))
    else {
        return;
    };
    let mut encoders = vec![first];
    encoders.extend(graph.chain(first, &CONDITIONING));
    let clips = encoders.into_iter().flat_map(|encoder| graph.chain(encoder, &["clip"]));
    let layer = |clip: Node<'_>| graph.number(clip, "stop_at_clip_layer");
    if let Some(layer) = clips.into_iter().find_map(layer).filter(|layer| *layer < 0.0) {
        told.parameters.push("Clip skip", -layer);
    }
}
