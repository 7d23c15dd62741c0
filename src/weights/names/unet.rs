//! UNet: diffusers ↔ ldm/sgm.

use super::{after, index, join, rename, rename_back};

/// Modules outside of the blocks: diffusers, ldm.
const FIXED: [(&str, &str); 8] = [
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("time_embedding.cond_proj", "time_embed.cond_proj"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

/// Modules inside a residual block: diffusers, ldm.
const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("time_emb_proj", "emb_layers.1"),
    ("conv_shortcut", "skip_connection"),
];

/// Most levels of a UNet; real ones have three or four. Every name is looked for in all of them.
const MAX_LEVELS: usize = 8;

/// The names of one UNet, whatever its depth.
///
/// diffusers counts levels and the layers inside them; ldm counts all blocks through, so the
/// number of layers per level decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UNetNames {
    /// Residual blocks of each level on the way down; one more on the way up.
    layers: Vec<usize>,
    /// Whether each level on the way up (coarse to fine) has attention.
    up_attention: Vec<bool>,
}

impl UNetNames {
    /// `layers`: residual blocks of each level on the way down, fine to coarse.
    /// `up_attention`: whether each level on the way up has attention, coarse to fine; levels
    /// beyond its end have none.
    pub fn new(layers: Vec<usize>, up_attention: Vec<bool>) -> Self {
        Self { layers, up_attention }
    }

    /// Derives the layout from the ldm names of a UNet (without prefix).
    ///
    /// `None` when the blocks on the way down and up do not mirror each other, or there are too many levels.
    pub fn from_ldm<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (mut downs, mut inputs, mut outputs) = (Vec::new(), 0, 0);
        let mut attentions = Vec::new();
        for name in names {
            if let Some((n, rest)) = name.strip_prefix("input_blocks.").and_then(index) {
                inputs = inputs.max(n);
                if after(rest, "0.op").is_some() {
                    downs.push(n);
                }
            } else if let Some((n, rest)) = name.strip_prefix("output_blocks.").and_then(index) {
                outputs = outputs.max(n + 1);
                if after(rest, "1.proj_in").is_some() {
                    attentions.push(n);
                }
            }
        }
        downs.sort_unstable();
        downs.dedup();
        if downs.len() >= MAX_LEVELS {
            return None;
        }
        // Each level ends with its downsampler; the coarsest ends with the last block.
        downs.push(inputs + 1);
        let starts = std::iter::once(0).chain(downs.iter().copied());
        let layers: Option<Vec<usize>> = starts
            .zip(&downs)
            .map(|(before, end)| end.checked_sub(before + 1).filter(|&n| n > 0))
            .collect();
        let mut names = Self::new(layers?, Vec::new());
        let levels = names.levels();
        if names.output_start(levels) != outputs {
            return None;
        }
        names.up_attention = (0..levels)
            .map(|i| {
                let blocks = names.output_start(i)..names.output_start(i + 1);
                attentions.iter().any(|n| blocks.contains(n))
            })
            .collect();
        Some(names)
    }

    /// Derives the layout from the diffusers names of a UNet (without prefix).
    ///
    /// `None` when there are no levels, or too many, or one has no residual block.
    pub fn from_diffusers<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (mut layers, mut up_attention) = (Vec::new(), Vec::new());
        for name in names {
            if let Some((i, rest)) = name.strip_prefix("down_blocks.").and_then(index) {
                layers.resize(layers.len().max(i + 1), 0);
                if let Some((j, _)) = rest.strip_prefix("resnets.").and_then(index) {
                    layers[i] = layers[i].max(j + 1);
                }
            } else if let Some((i, rest)) = name.strip_prefix("up_blocks.").and_then(index) {
                up_attention.resize(up_attention.len().max(i + 1), false);
                up_attention[i] |= rest.starts_with("attentions.");
            }
        }
        let sound = (1..=MAX_LEVELS).contains(&layers.len()) && layers.iter().all(|&n| n > 0);
        sound.then(|| Self::new(layers, up_attention))
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.layers.len()
    }

    /// Residual blocks of each level on the way down, fine to coarse.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// Residual blocks of level `index` on the way up, coarse to fine; 0 beyond the last.
    pub fn up_layers(&self, index: usize) -> usize {
        let level = self.layers.len().checked_sub(index + 1);
        level.and_then(|level| self.layers.get(level)).map_or(0, |layers| layers + 1)
    }

    /// Index of the first ldm input block of `level`.
    fn input_start(&self, level: usize) -> usize {
        1 + self.layers.iter().take(level).map(|n| n + 1).sum::<usize>()
    }

    /// Index of the first ldm output block of level `index` on the way up.
    fn output_start(&self, index: usize) -> usize {
        (0..index).map(|i| self.up_layers(i)).sum()
    }

    /// Place of the upsampler in its ldm output block: behind the attention, if any.
    fn upsampler_place(&self, index: usize) -> usize {
        if self.up_attention.get(index) == Some(&true) { 2 } else { 1 }
    }

    /// The ldm name of a diffusers name; `None` when the layout has no such module.
    pub fn to_ldm(&self, name: &str) -> Option<String> {
        if let Some(fixed) = rename(name, &FIXED) {
            return Some(fixed);
        }
        let (block, rest) = name.split_once('.')?;
        if block == "mid_block" {
            return match rest.split_once('.')? {
                ("resnets", rest) => {
                    let (j, rest) = index(rest)?;
                    let inner = rename(rest, &RESNET)?;
                    Some(format!("middle_block.{}.{inner}", 2 * j))
                }
                ("attentions", rest) => {
                    let (j, rest) = index(rest)?;
                    Some(join(&format!("middle_block.{}", 2 * j + 1), rest))
                }
                _ => None,
            };
        }
        let (i, rest) = index(rest)?;
        let (kind, rest) = rest.split_once('.')?;
        let (j, rest) = index(rest)?;
        match block {
            "down_blocks" => self.down_to_ldm(i, kind, j, rest),
            "up_blocks" => self.up_to_ldm(i, kind, j, rest),
            _ => None,
        }
    }

    fn down_to_ldm(&self, i: usize, kind: &str, j: usize, rest: &str) -> Option<String> {
        let layers = *self.layers.get(i)?;
        let start = self.input_start(i);
        match kind {
            "resnets" if j < layers => {
                Some(format!("input_blocks.{}.0.{}", start + j, rename(rest, &RESNET)?))
            }
            "attentions" if j < layers => {
                Some(join(&format!("input_blocks.{}.1", start + j), rest))
            }
            "downsamplers" if j == 0 && i + 1 < self.levels() => {
                let rest = after(rest, "conv")?;
                Some(format!("input_blocks.{}.0.op{rest}", start + layers))
            }
            _ => None,
        }
    }

    fn up_to_ldm(&self, i: usize, kind: &str, j: usize, rest: &str) -> Option<String> {
        let (start, layers) = (self.output_start(i), self.up_layers(i));
        match kind {
            "resnets" if j < layers => {
                Some(format!("output_blocks.{}.0.{}", start + j, rename(rest, &RESNET)?))
            }
            "attentions" if j < layers => {
                Some(join(&format!("output_blocks.{}.1", start + j), rest))
            }
            "upsamplers" if j == 0 && i + 1 < self.levels() => {
                let (block, place) = (start + layers - 1, self.upsampler_place(i));
                Some(format!("output_blocks.{block}.{place}.conv{}", after(rest, "conv")?))
            }
            _ => None,
        }
    }

    /// The diffusers name of an ldm name; `None` when the layout has no such module.
    pub fn to_diffusers(&self, name: &str) -> Option<String> {
        if let Some(fixed) = rename_back(name, &FIXED) {
            return Some(fixed);
        }
        let (side, rest) = name.split_once('.')?;
        let (n, rest) = index(rest)?;
        if side == "middle_block" {
            return if n.is_multiple_of(2) {
                let inner = rename_back(rest, &RESNET)?;
                Some(format!("mid_block.resnets.{}.{inner}", n / 2))
            } else {
                Some(join(&format!("mid_block.attentions.{}", n / 2), rest))
            };
        }
        let (place, rest) = index(rest)?;
        match side {
            "input_blocks" => self.input_to_diffusers(n, place, rest),
            "output_blocks" => self.output_to_diffusers(n, place, rest),
            _ => None,
        }
    }

    fn input_to_diffusers(&self, n: usize, place: usize, rest: &str) -> Option<String> {
        let i = (0..self.levels()).find(|&i| n < self.input_start(i + 1))?;
        let j = n.checked_sub(self.input_start(i))?;
        let layers = *self.layers.get(i)?;
        match place {
            0 if j < layers => {
                let inner = rename_back(rest, &RESNET)?;
                Some(format!("down_blocks.{i}.resnets.{j}.{inner}"))
            }
            1 if j < layers => Some(join(&format!("down_blocks.{i}.attentions.{j}"), rest)),
            0 if j == layers && i + 1 < self.levels() => {
                Some(format!("down_blocks.{i}.downsamplers.0.conv{}", after(rest, "op")?))
            }
            _ => None,
        }
    }

    fn output_to_diffusers(&self, n: usize, place: usize, rest: &str) -> Option<String> {
        let i = (0..self.levels()).find(|&i| n < self.output_start(i + 1))?;
        let j = n.checked_sub(self.output_start(i))?;
        if place == 0 {
            let inner = rename_back(rest, &RESNET)?;
            return Some(format!("up_blocks.{i}.resnets.{j}.{inner}"));
        }
        // The upsampler stands in the attention's place where a level has no attention.
        if let Some(rest) = after(rest, "conv") {
            let last = j + 1 == self.up_layers(i) && i + 1 < self.levels();
            return (last && place == self.upsampler_place(i))
                .then(|| format!("up_blocks.{i}.upsamplers.0.conv{rest}"));
        }
        (place == 1).then(|| join(&format!("up_blocks.{i}.attentions.{j}"), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sd1() -> UNetNames {
        UNetNames::new(vec![2; 4], vec![false, true, true, true])
    }

    #[test]
    fn known_names() {
        let pairs = [
            ("conv_in.weight", "input_blocks.0.0.weight"),
            ("down_blocks.0.resnets.1.conv1.bias", "input_blocks.2.0.in_layers.2.bias"),
            ("down_blocks.2.downsamplers.0.conv.weight", "input_blocks.9.0.op.weight"),
            ("down_blocks.3.resnets.1.time_emb_proj", "input_blocks.11.0.emb_layers.1"),
            ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
            ("mid_block.resnets.1.norm2.weight", "middle_block.2.out_layers.0.weight"),
            ("up_blocks.0.upsamplers.0.conv.bias", "output_blocks.2.1.conv.bias"),
            ("up_blocks.1.upsamplers.0.conv.bias", "output_blocks.5.2.conv.bias"),
            ("up_blocks.3.attentions.2.norm.bias", "output_blocks.11.1.norm.bias"),
            ("add_embedding.linear_2.weight", "label_emb.0.2.weight"),
        ];
        for (diffusers, ldm) in pairs {
            assert_eq!(sd1().to_ldm(diffusers).as_deref(), Some(ldm));
            assert_eq!(sd1().to_diffusers(ldm).as_deref(), Some(diffusers));
        }
    }

    #[test]
    fn impossible_names_have_no_partner() {
        for name in [
            "input_blocks.12.0.op.weight",
            "input_blocks.01.0.in_layers.0.weight",
            "input_blocks.3.1.norm.weight",
            "output_blocks.12.0.in_layers.0.weight",
            "output_blocks.1.1.conv.weight",
            "output_blocks.5.1.conv.weight",
            "output_blocks.3.3.norm.weight",
            "middle_block.+1.norm.weight",
            "input_blocks.99999999999999999999.0.op.weight",
            "input_blocks..0",
            "",
        ] {
            assert_eq!(sd1().to_diffusers(name), None, "{name}");
        }
        for name in [
            "down_blocks.3.downsamplers.0.conv.weight",
            "down_blocks.0.resnets.2.conv1",
            "up_blocks",
        ] {
            assert_eq!(sd1().to_ldm(name), None, "{name}");
        }
    }

    #[test]
    fn more_levels_than_a_unet_has_are_no_layout() {
        let downs: Vec<String> =
            (1..5000).map(|i| format!("input_blocks.{}.0.op.weight", 2 * i)).collect();
        let ends = ["input_blocks.9999.0.in_layers.0.weight", "output_blocks.9999.0.x"];
        let names = downs.iter().map(String::as_str).chain(ends);
        assert_eq!(UNetNames::from_ldm(names), None);
        assert_eq!(UNetNames::from_diffusers(["down_blocks.9999.resnets.0.conv1.weight"]), None);
        let deep: Vec<String> =
            (0..9).map(|i| format!("down_blocks.{i}.resnets.0.conv1.weight")).collect();
        assert_eq!(UNetNames::from_diffusers(deep.iter().map(String::as_str)), None);
        assert!(UNetNames::from_diffusers(deep[..8].iter().map(String::as_str)).is_some());
    }

    #[test]
    fn layouts_are_derived_from_either_side() {
        for names in [
            sd1(),
            UNetNames::new(vec![1, 3], vec![true, false]),
            UNetNames::new(vec![2], vec![true]),
        ] {
            let diffusers = all(&names);
            let ldm: Vec<String> = diffusers.iter().map(|n| names.to_ldm(n).unwrap()).collect();
            let back: Vec<String> = ldm.iter().map(|n| names.to_diffusers(n).unwrap()).collect();
            assert_eq!(back, diffusers, "one-to-one");
            let unique: std::collections::BTreeSet<&String> = ldm.iter().collect();
            assert_eq!(unique.len(), diffusers.len());
            assert_eq!(UNetNames::from_ldm(ldm.iter().map(String::as_str)), Some(names.clone()));
            assert_eq!(
                UNetNames::from_diffusers(diffusers.iter().map(String::as_str)),
                Some(names)
            );
        }
    }

    /// One name of every module.
    fn all(names: &UNetNames) -> Vec<String> {
        let mut all: Vec<String> = FIXED.iter().map(|(name, _)| format!("{name}.weight")).collect();
        let levels = names.levels();
        for (side, i) in (0..levels).flat_map(|i| [("down", i), ("up", i)]) {
            let layers = if side == "down" { names.layers[i] } else { names.up_layers(i) };
            let attention = side == "down" || names.up_attention[i];
            for j in 0..layers {
                for (inner, _) in RESNET {
                    all.push(format!("{side}_blocks.{i}.resnets.{j}.{inner}.weight"));
                }
                if attention {
                    all.push(format!("{side}_blocks.{i}.attentions.{j}.proj_in.weight"));
                }
            }
            if i + 1 < levels {
                all.push(format!("{side}_blocks.{i}.{side}samplers.0.conv.weight"));
            }
        }
        all.push("mid_block.attentions.0.norm.bias".into());
        all
    }
}
