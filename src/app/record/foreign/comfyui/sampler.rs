//! Which node drew the picture, and with which steps, noise and sizes.

use super::graph::{Graph, Node};
use super::{models, texts};
use crate::app::record::foreign::told::Told;
use std::collections::{BTreeSet, VecDeque};

/// Nodes that end a graph.
const ENDS: [&str; 2] = ["SaveImage", "PreviewImage"];
/// Inputs that lead from a sampler to the latents that it begins with.
const LATENTS: [&str; 5] = ["latent_image", "samples", "latent", "latents", "optional_latent"];

/// The sampler that made the first saved picture; of several passes the first.
pub(super) fn find<'a>(graph: &Graph<'a>) -> Option<Node<'a>> {
    let ends = |node: &Node<'_>| ENDS.contains(&node.kind) || node.has(&["images"]);
    let (named, other): (Vec<_>, Vec<_>) =
        graph.nodes().filter(ends).partition(|node| ENDS.contains(&node.kind));
    let found = named.into_iter().chain(other).find_map(|end| nearest(graph, end));
    let last = found.or_else(|| graph.nodes().find(is_sampler))?;
    // The pass before is the sampler that its latents come from.
    let before = graph.chain(last, &LATENTS).into_iter().rfind(is_sampler);
    Some(before.unwrap_or(last))
}

/// The sampler that is reached first from `end`, against the links.
fn nearest<'a>(graph: &Graph<'a>, end: Node<'a>) -> Option<Node<'a>> {
    let mut seen = BTreeSet::from([end.id]);
    let mut open = VecDeque::from([end]);
    while let Some(node) = open.pop_front() {
        if is_sampler(&node) {
            return Some(node);
        }
        open.extend(graph.all_linked(node).into_iter().filter(|next| seen.insert(next.id)));
    }
    None
}

fn is_sampler(node: &Node<'_>) -> bool {
    node.has(&["positive", "negative", "latent_image"])
        || node.has(&["sampler", "sigmas", "latent_image"])
        || node.has(&["guider", "sigmas", "latent_image"])
}

/// Puts what `sampler` was given into `told`.
pub(super) fn read(graph: &Graph<'_>, sampler: &Node<'_>, told: &mut Told) {
    let sampler = *sampler;
    // Custom samplers get noise, guidance, sampler and levels from nodes of their own.
    let part = |input: &str| graph.follow(sampler, input).unwrap_or(sampler);
    let (noise, guider, sigmas) = (part("noise"), part("guider"), part("sigmas"));
    texts::read(graph, guider, told);
    let value = |node: Node<'_>, names: &[&str]| {
        names.iter().find_map(|name| graph.value(node, name)).unwrap_or_default()
    };
    let named = value(part("sampler"), &["sampler_name"]);
    let fields = [
        ("Steps", value(sigmas, &["steps"])),
        ("Sampler", named),
        ("Schedule type", schedule(&value(sigmas, &["scheduler"]), sigmas.kind)),
        ("CFG scale", value(guider, &["cfg"])),
        ("Seed", value(noise, &["seed", "noise_seed"])),
    ];
    for (name, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
        told.parameters.push(name, text);
    }
    size(graph, sampler, told);
    texts::clip_skip(graph, guider, told);
    models::read(graph, guider, told);
    models::vae(graph, sampler, told);
    partial(graph, sampler, sigmas, told);
}

/// The schedule by its name, or by the node that is one.
fn schedule(name: &str, kind: &str) -> String {
    match kind {
        _ if !name.is_empty() => name.to_owned(),
        "KarrasScheduler" => "karras".to_owned(),
        "ExponentialScheduler" => "exponential".to_owned(),
        "BetaSamplingScheduler" => "beta".to_owned(),
        "AlignYourStepsScheduler" => "Align Your Steps".to_owned(),
        "GITSScheduler" => "GITS".to_owned(),
        "SDTurboScheduler" => "Turbo".to_owned(),
        _ => String::new(),
    }
}

fn size(graph: &Graph<'_>, sampler: Node<'_>, told: &mut Told) {
    let sides = |node: Node<'_>, width: &str, height: &str| {
        graph.value(node, width).zip(graph.value(node, height))
    };
    let mut nodes = graph.chain(sampler, &LATENTS);
    nodes.retain(|node| !is_sampler(node));
    let found = nodes.iter().find_map(|node| {
        let own = sides(*node, "width", "height");
        own.or_else(|| sides(*node, "empty_latent_width", "empty_latent_height"))
    });
    match found {
        Some((width, height)) => told.parameters.push("Size", format!("{width}x{height}")),
        None => told.ignore("the picture that it began with"),
    }
}

/// Names what is only a part of a run: another picture's latents, some of the steps, a second pass.
fn partial(graph: &Graph<'_>, sampler: Node<'_>, sigmas: Node<'_>, told: &mut Told) {
    let denoise = graph.number(sigmas, "denoise");
    if denoise.is_some_and(|part| part < 1.0) {
        told.ignore("denoise");
    }
    let steps = graph.number(sampler, "steps").unwrap_or(f64::INFINITY);
    let end = graph.number(sampler, "end_at_step").unwrap_or(f64::INFINITY);
    let start = graph.number(sampler, "start_at_step").unwrap_or(0.0);
    if start > 0.0 || end < steps {
        told.ignore("start_at_step and end_at_step");
    }
    let passes = graph.nodes().filter(is_sampler);
    let follows = |node: &Node<'_>| graph.chain(*node, &LATENTS).iter().any(|n| n.id == sampler.id);
    if passes.into_iter().any(|node| follows(&node)) {
        told.ignore("a second pass");
    }
}
