//! How much memory a plan takes at least, before its first step.
//!
//! Counted is what is surely there at one time: packed weights, by the policy of [`Memory`], and the feature maps that
//! layers hold. What runs takes more: buffers that wait for their next use, pages of files, adapters. So a plan
//! that is refused would not have run, but for memory that others give back meanwhile.

use super::{Memory, Pipeline, Plan};
use crate::error::{Error, Result};
use crate::hint::{Hint, Saving, SavingWay};
use crate::models::{Tiling, UNetConfig, VaeConfig};
use crate::room;
use crate::weights::{Component, Precision, Products, Site, WeightSource};
use std::collections::HashMap;

/// Bytes of memory that the stages of a plan take at least, all that is kept meanwhile included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Encoding the texts.
    pub encode: u64,
    /// Sampling.
    pub sample: u64,
    /// Decoding.
    pub decode: u64,
}

impl Budget {
    /// What the most expensive stage takes.
    pub fn peak(&self) -> u64 {
        self.encode.max(self.sample).max(self.decode)
    }
}

/// What of a plan decides about its memory.
#[derive(Debug, Clone, Copy)]
struct Wish {
    memory: Memory,
    tile: bool,
}

impl Pipeline {
    /// What `plan` takes at least; nothing where networks are on a GPU.
    pub fn budget(&self, plan: &Plan) -> Option<Budget> {
        self.budget_of(plan, Wish { memory: self.model.residency.memory(), tile: plan.tile })
    }

    /// Finds out whether there is enough memory for `plan` in a process that did nothing before.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when it would surely run out; never where it is not known how much is free.
    pub fn check_memory(&self, plan: &Plan) -> Result<()> {
        let (Some(budget), Some(free)) = (self.budget(plan), room::free()) else { return Ok(()) };
        self.compare(plan, budget.peak(), free)
    }

    fn compare(&self, plan: &Plan, needed: u64, free: u64) -> Result<()> {
        if needed <= free {
            return Ok(());
        }
        let what = format!("{}x{}", plan.width, plan.height);
        Err(Error::NoRoom { what, needed, free, how: self.savers(plan, needed) })
    }

    /// What takes less than `needed`, and how much.
    fn savers(&self, plan: &Plan, needed: u64) -> Hint {
        let (low, tile) = (Memory::Low, true);
        let memory = self.model.residency.memory();
        let ways = [
            (SavingWay::LowMemory, Wish { memory: low, tile: plan.tile }, memory != low),
            (SavingWay::Tile, Wish { memory, tile }, !plan.tile),
            (SavingWay::Both, Wish { memory: low, tile }, memory != low && !plan.tile),
        ];
        let mut less = needed;
        let mut savings = Vec::new();
        for (way, wish, _) in ways.into_iter().filter(|(.., open)| *open) {
            let takes = self.budget_of(plan, wish).map_or(needed, |budget| budget.peak());
            // Both together are worth a word only when they beat each.
            if takes < less || (way == SavingWay::Tile && takes < needed) {
                savings.push(Saving { way, bytes: takes });
            }
            less = less.min(takes);
        }
        Hint::TakeLess(savings)
    }

    fn budget_of(&self, plan: &Plan, wish: Wish) -> Option<Budget> {
        self.precision()?;
        let parts = &self.model.parts;
        let source = &*parts.source;
        let factor = parts.vae.factor();
        let latent = (plan.height / factor, plan.width / factor);
        let streamed = wish.memory == Memory::Low;
        let text = weights(source, |site| site.component().is_text());
        let decoder = weights(source, decodes);
        let unet = if streamed { largest_part(source) } else { weights(source, of_unet) };
        let walk = Walk::of_unet(source, &parts.unet, plan, self.model.batch);
        let steps = walk.through_unet(&parts.unet, latent);
        let decode = decoding(&parts.vae, latent, wish.tile);
        Some(match wish.memory {
            Memory::Resident => {
                let all = text + unet + decoder;
                Budget { encode: text, sample: text + unet + steps, decode: all + decode }
            }
            // The UNet waits for the next picture, and so does the decoder.
            Memory::OneShot if plan.count > 1 || plan.preview > 0 => {
                let both = unet + decoder;
                Budget { encode: text, sample: unet + steps, decode: both + decode }
            }
            Memory::OneShot | Memory::Low => {
                Budget { encode: text, sample: unet + steps, decode: decoder + decode }
            }
        })
    }
}

/// Samples that the UNet sees at once for each image, at least at some step.
fn samples(config: &UNetConfig, plan: &Plan) -> u64 {
    let surely = plan.guided() && plan.guidance_interval.is_none();
    if surely && config.time_cond_proj_dim.is_none() { 2 } else { 1 }
}

fn of_unet(site: &Site) -> bool {
    site.component() == Component::UNet
}

/// Whether a weight belongs to the half of the autoencoder that decodes.
fn decodes(site: &Site) -> bool {
    let half = ["decoder.", "post_quant_conv."].iter().any(|half| site.path().starts_with(half));
    half && site.component() == Component::Vae
}

/// Bytes of the packed weights that `wanted` chooses.
fn weights(source: &dyn WeightSource, wanted: impl Fn(&Site) -> bool) -> u64 {
    source.sites().iter().filter(|site| wanted(site)).map(|site| packed(source, site)).sum()
}

/// The largest part of a UNet whose parts are built for every use, and what stays beside it.
fn largest_part(source: &dyn WeightSource) -> u64 {
    const PARTS: [&str; 4] =
        [".transformer_blocks.", ".resnets.", ".downsamplers.", ".upsamplers."];
    let (mut staying, mut parts) = (0, HashMap::<String, u64>::new());
    for site in source.sites().into_iter().filter(of_unet) {
        let name = site.as_str();
        let bytes = packed(source, &site);
        let part = PARTS.iter().find_map(|part| {
            let behind = name.find(part)? + part.len();
            let number = name[behind..].find('.')?;
            Some(&name[..behind + number])
        });
        match part {
            Some(part) => *parts.entry(part.to_owned()).or_default() += bytes,
            // The frame of a transformer goes with it.
            None if name.contains(".attentions.") => {}
            None => staying += bytes,
        }
    }
    staying + parts.values().max().copied().unwrap_or(0)
}

/// Bytes of the weight at `site` as layers keep it at least; none for what is no factor of a product.
fn packed(source: &dyn WeightSource, site: &Site) -> u64 {
    let Products::Packed(precision) = source.products(site.component()) else { return 0 };
    let (name, shape) = (site.as_str(), source.shape(site).unwrap_or_default());
    let numbers: u64 = shape.iter().map(|side| *side as u64).product();
    if shape.len() < 2 || name.contains("embedding") || !name.ends_with(".weight") {
        return 0;
    }
    if let Some(kind) = source.quantised(site) {
        return numbers / crate::kernels::GROUP as u64 * kind.block_bytes() as u64;
    }
    numbers * number_bytes(precision)
}

/// Bytes of a number in memory that packs them in this precision.
fn number_bytes(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// A walk through a network, which finds the most bytes of feature maps that live at once.
struct Walk {
    /// Pictures, times four bytes a number.
    numbers: u64,
    /// Bytes of prepared operands for four of f32.
    operands: (u64, u64),
    /// Whether attentions of the finest level see all of its tokens.
    merged: bool,
    /// Bytes that wait for the way up.
    skips: Vec<u64>,
    most: u64,
}

impl Walk {
    /// `images`: how many are evaluated at once at most.
    fn of_unet(source: &dyn WeightSource, config: &UNetConfig, plan: &Plan, images: usize) -> Self {
        let precision = match source.products(Component::UNet) {
            Products::Packed(precision) => precision,
            Products::Plain => Precision::F32,
        };
        Self {
            numbers: 4 * samples(config, plan) * images.min(plan.count) as u64,
            operands: (number_bytes(precision), 4),
            merged: plan.merge_tokens > 0.0,
            skips: Vec::new(),
            most: 0,
        }
    }

    fn new() -> Self {
        Self { numbers: 4, operands: (4, 4), merged: false, skips: Vec::new(), most: 0 }
    }

    /// Bytes of a map.
    fn map(&self, channels: usize, pixels: u64) -> u64 {
        self.numbers * channels as u64 * pixels
    }

    /// That maps of `bytes` live beside those that wait.
    fn note(&mut self, bytes: u64) {
        self.most = self.most.max(bytes + self.skips.iter().sum::<u64>());
    }

    /// A residual block, while `held` lives beside its own maps: what comes out.
    fn residual(&mut self, held: u64, from: usize, to: usize, pixels: u64) -> u64 {
        let out = self.map(to, pixels);
        // Between the convolutions, the sum, and the shortcut where the widths differ.
        self.note(held + if from == to { 2 * out } else { 3 * out });
        out
    }

    /// A transformer over `x`, while `held` lives beside it.
    fn attend(&mut self, held: u64, x: u64) {
        let (bytes, of) = self.operands;
        // What comes in, its tokens, queries, keys, values, and what comes out; the normed tokens, and keys and
        // values once more as the products read them.
        let inside = if self.merged { 2 * x } else { 6 * x + 3 * x * bytes / of };
        self.note(held + inside);
    }

    /// All of a UNet.
    fn through_unet(mut self, config: &UNetConfig, (height, width): (usize, usize)) -> u64 {
        let widths = &config.block_out_channels;
        let levels = widths.len();
        let half = |side: usize, level: usize| (0..level).fold(side, |side, _| side.div_ceil(2));
        let pixels = |level: usize| (half(height, level) * half(width, level)) as u64;
        let layers = |level: usize| config.layers_per_block.of(level).unwrap_or(2);
        let crossed = |kinds: &[String], index: usize| {
            kinds.get(index).is_some_and(|kind| kind.starts_with("CrossAttn"))
        };
        let Some(first) = widths.first() else { return 0 };
        self.skips.push(self.map(*first, pixels(0)));
        for (level, width) in widths.iter().enumerate() {
            for layer in 0..layers(level) {
                let from = if layer == 0 { widths[level.saturating_sub(1)] } else { *width };
                // What comes in waits for the way up already.
                let x = self.residual(0, from, *width, pixels(level));
                if crossed(&config.down_block_types, level) {
                    self.attend(0, x);
                }
                self.skips.push(x);
            }
            if level + 1 < levels {
                self.skips.push(self.map(*width, pixels(level + 1)));
            }
        }
        let mut x = self.map(widths[levels - 1], pixels(levels - 1));
        self.note(x);
        for index in 0..levels {
            let level = levels - 1 - index;
            for _ in 0..=layers(level) {
                // Both parts of what comes in live until the next layer; one of them is a skip yet.
                let out = self.residual(x, 0, widths[level], pixels(level));
                if crossed(&config.up_block_types, index) {
                    self.attend(x, out);
                }
                self.skips.pop();
                x = out;
            }
            if level > 0 {
                let grown = self.map(widths[level], pixels(level - 1));
                self.note(x + grown);
                x = grown;
            }
        }
        self.most
    }

    /// The half of an autoencoder that decodes.
    fn through_decoder(mut self, config: &VaeConfig, (height, width): (usize, usize)) -> u64 {
        let mut pixels = (height * width) as u64;
        let Some(mut before) = config.block_out_channels.last().copied() else { return 0 };
        let mut x = self.map(before, pixels);
        if config.mid_block_add_attention {
            self.attend(0, x);
        }
        for (index, width) in config.block_out_channels.iter().rev().enumerate() {
            for layer in 0..=config.layers_per_block {
                let from = if layer == 0 { before } else { *width };
                x = self.residual(x, from, *width, pixels);
            }
            if index + 1 < config.block_out_channels.len() {
                pixels *= 4;
                let grown = self.map(*width, pixels);
                self.note(x + grown);
                x = grown;
            }
            before = *width;
        }
        self.most
    }
}

/// Bytes beside the decoder's weights.
fn decoding(config: &VaeConfig, (height, width): (usize, usize), tile: bool) -> u64 {
    if !tile {
        return Walk::new().through_decoder(config, (height, width));
    }
    let side = Tiling::default().tile;
    let one = Walk::new().through_decoder(config, (height.min(side), width.min(side)));
    // Three planes of sums and one of weights.
    let pixels = height * width * config.factor() * config.factor();
    one + 4 * 4 * pixels as u64
}
