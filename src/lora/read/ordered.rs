//! cloneofsimo's files, which number their tensors in the order of the original modules.
//!
//! # Source
//! `lora_diffusion` 0.1: its loops over ancestors of a UNet of diffusers 0.11, whose transformer blocks
//! registered the feed-forward before the second attention. Proven by the shapes of real files.

use crate::error::{Error, Result};
use crate::lora::factor::Factor;
use crate::lora::read::dictionary::Dictionary;
use crate::weights::CheckpointFile;
use std::collections::BTreeMap;
use std::path::Path;

/// One pair and its module.
#[derive(Debug)]
pub(in crate::lora) struct Pair {
    pub(in crate::lora) module: String,
    pub(in crate::lora) down: Factor,
    pub(in crate::lora) up: Factor,
}

/// Linear layers of a transformer block, in the orders that are tried: the old one first.
const BLOCKS: [&[&str]; 4] = [
    &[
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ff.net.0.proj",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
    ],
    &[
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
        "ff.net.0.proj",
    ],
    &[
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
    ],
    &["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"],
];
/// Projections of a CLIP layer in the order of registration.
const LAYER: [&str; 4] = ["k_proj", "v_proj", "q_proj", "out_proj"];

/// Whether `key` is `component:index:up` or `…:down`.
pub(in crate::lora) fn is_key(key: &str) -> bool {
    parse(key).is_some()
}

fn parse(key: &str) -> Option<(&str, usize, bool)> {
    let mut parts = key.split(':');
    let (component, index, side) = (parts.next()?, parts.next()?, parts.next()?);
    let up = match side {
        "up" => true,
        "down" => false,
        _ => return None,
    };
    let known = ["unet", "text_encoder"].contains(&component);
    (known && parts.next().is_none()).then_some((component, index.parse().ok()?, up))
}

/// The pairs of a safetensors file with numbered keys.
pub(in crate::lora) fn read(file: &CheckpointFile, dictionary: &Dictionary) -> Result<Vec<Pair>> {
    let mut parts: BTreeMap<&str, BTreeMap<usize, [Option<Factor>; 2]>> = BTreeMap::new();
    for key in file.names() {
        let Some((component, index, up)) = parse(key) else { continue };
        let slot = parts.entry(component).or_default().entry(index).or_default();
        slot[usize::from(up)] = Factor::new(file, key);
    }
    let mut pairs = Vec::new();
    for (component, slots) in parts {
        let mut factors = Vec::new();
        for (expected, (index, slot)) in slots.into_iter().enumerate() {
            let [Some(down), Some(up)] = slot else {
                return Err(missing(file.path(), component, index));
            };
            if index != expected {
                return Err(missing(file.path(), component, expected));
            }
            factors.push((down, up));
        }
        pairs.extend(assign(component, factors, dictionary, file.path())?);
    }
    Ok(pairs)
}

/// The pairs of a pickled list `up, down, up, down, …`.
pub(in crate::lora) fn read_list(
    file: &CheckpointFile,
    component: &str,
    dictionary: &Dictionary,
) -> Result<Vec<Pair>> {
    let tensor = |index: usize| Factor::new(file, &index.to_string());
    let count = file.len();
    if !count.is_multiple_of(2) || (0..count).any(|index| tensor(index).is_none()) {
        return Err(missing(file.path(), component, count / 2));
    }
    let pair = |i: usize| Some((tensor(2 * i + 1)?, tensor(2 * i)?));
    let factors = (0..count / 2).filter_map(pair).collect();
    assign(component, factors, dictionary, file.path())
}

fn missing(path: &Path, component: &str, index: usize) -> Error {
    let why = format!("the pair `{component}:{index}` is missing; its tensors have only an order");
    Error::corrupt(path, why)
}

/// Gives every pair its module: the first order whose shapes all fit.
fn assign(
    component: &str,
    factors: Vec<(Factor, Factor)>,
    dictionary: &Dictionary,
    path: &Path,
) -> Result<Vec<Pair>> {
    let orders = match component {
        "unet" => unet_orders(dictionary),
        _ => vec![text_order(dictionary)],
    };
    let fits = |order: &&Vec<String>| {
        order.len() == factors.len()
            && order.iter().zip(&factors).all(|(module, (down, up))| {
                let shape = dictionary.shape(&format!("{module}.weight")).unwrap_or_default();
                let columns: usize = shape.iter().skip(1).product();
                let rank = down.dim(0);
                shape.first() == Some(&up.dim(0)) && columns == down.columns() && up.dim(1) == rank
            })
    };
    let Some(order) = orders.iter().find(fits) else {
        let lengths: Vec<usize> = orders.iter().map(Vec::len).collect();
        let why = format!(
            "this file names no modules, and its {} `{component}` pairs fit no known order by shape (orders with {lengths:?} pairs are known); it is for another model, or damaged",
            factors.len()
        );
        return Err(Error::corrupt(path, why));
    };
    let pair = |(module, (down, up)): (&String, _)| Pair { module: module.clone(), down, up };
    Ok(order.iter().zip(factors).map(pair).collect())
}

/// A transformer block or a residual block, by its place: side, block, whether residual, the numbers below.
type Place = (usize, usize, bool, Vec<usize>);

/// Layers of a residual block in the order of registration; the last is not in all of them.
const RESIDUAL: [&str; 4] = ["conv1", "time_emb_proj", "conv2", "conv_shortcut"];

/// Every order of the UNet's modules: blocks down, up, and mid at the end or in between; without residual
/// blocks, or ("extended" files) with those of a block behind its transformers.
fn unet_orders(dictionary: &Dictionary) -> Vec<Vec<String>> {
    let mut places: Vec<(Place, String)> = Vec::new();
    for module in dictionary.modules() {
        let transformer = module.strip_suffix(".attn1.to_q");
        let Some(path) = transformer.or_else(|| module.strip_suffix(".conv1")) else { continue };
        let mut numbers = path.split('.').filter_map(|part| part.parse().ok());
        let sides = ["unet.down", "unet.up", "unet.mid"];
        let Some(side) = sides.iter().position(|side| path.starts_with(side)) else { continue };
        // The middle is one block without a number.
        let block = if side == 2 { 0 } else { numbers.next().unwrap_or(0) };
        let place = (side, block, transformer.is_none(), numbers.collect());
        places.push((place, path.to_owned()));
    }
    let mut orders = Vec::new();
    for mid_last in [true, false] {
        let rank = |side: usize| if mid_last { side } else { [0, 2, 1][side] };
        places.sort_by(|(a, _), (b, _)| (rank(a.0), a).cmp(&(rank(b.0), b)));
        for extended in [false, true] {
            for block in BLOCKS {
                let layers = |(place, path): &(Place, String)| -> Vec<String> {
                    let names = if place.2 { &RESIDUAL[..] } else { block };
                    let names = names.iter().map(|name| format!("{path}.{name}"));
                    let exists = |name: &String| {
                        !place.2 || dictionary.shape(&format!("{name}.weight")).is_some()
                    };
                    names.filter(exists).collect()
                };
                let wanted = places.iter().filter(|(place, _)| extended || !place.2);
                orders.push(wanted.flat_map(layers).collect());
            }
        }
    }
    orders
}

fn text_order(dictionary: &Dictionary) -> Vec<String> {
    let prefix = "text_encoder.text_model.encoder.layers";
    let layer = |i: usize| format!("{prefix}.{i}.self_attn");
    let exists = |i: &usize| dictionary.shape(&format!("{}.k_proj.weight", layer(*i))).is_some();
    (0..4096)
        .take_while(exists)
        .flat_map(|i| LAYER.iter().map(move |name| format!("{}.{name}", layer(i))))
        .collect()
}
