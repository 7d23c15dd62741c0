//! Autoencoder: diffusers ↔ ldm, and the older diffusers names of its attention.

use super::{after, index, join, rename, rename_back};

/// Modules of encoder and decoder outside of the levels: diffusers, ldm.
const FIXED: [(&str, &str); 5] = [
    ("conv_in", "conv_in"),
    ("conv_norm_out", "norm_out"),
    ("conv_out", "conv_out"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
];

/// The attention of the middle block: diffusers, ldm. ldm has 1×1 convolutions for linear layers.
const ATTENTION: [(&str, &str); 5] =
    [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")];

/// The attention of the middle block: diffusers now and before version 0.16.
const OLD_ATTENTION: [(&str, &str); 4] =
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// The only module inside a residual block that is named differently: diffusers, ldm.
const SHORTCUT: [(&str, &str); 1] = [("conv_shortcut", "nin_shortcut")];

const MIDDLE: (&str, &str) = ("mid_block.attentions.0", "mid.attn_1");

/// The present diffusers name of a diffusers autoencoder weight.
pub fn modern_vae_name(name: &str) -> String {
    let old = |half: &str| {
        let rest = name.strip_prefix(half)?.strip_prefix(MIDDLE.0)?.strip_prefix('.')?;
        Some(format!("{half}{}.{}", MIDDLE.0, rename_back(rest, &OLD_ATTENTION)?))
    };
    old("encoder.").or_else(|| old("decoder.")).unwrap_or_else(|| name.to_owned())
}

/// The names of one autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaeNames {
    /// Number of levels; the decoder counts them in the other direction.
    levels: usize,
}

impl VaeNames {
    /// The names of an autoencoder with that many levels.
    pub fn new(levels: usize) -> Self {
        Self { levels }
    }

    /// Derives the number of levels from ldm names (without prefix); `None` without any.
    pub fn from_ldm<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let level = |name: &str| {
            let rest = name.strip_prefix("decoder.up.").or(name.strip_prefix("encoder.down."))?;
            Some(index(rest)?.0 + 1)
        };
        names.into_iter().filter_map(level).max().map(Self::new)
    }

    /// Number of levels.
    pub fn levels(self) -> usize {
        self.levels
    }

    /// The ldm name of a diffusers name; `None` when there is no such module.
    pub fn to_ldm(self, name: &str) -> Option<String> {
        let name = modern_vae_name(name);
        if quantiser(&name) {
            return Some(name);
        }
        let (half, rest) = name.split_once('.')?;
        if !matches!(half, "encoder" | "decoder") {
            return None;
        }
        let inner = match rename(rest, &FIXED) {
            Some(inner) if rest.starts_with("mid_block") => resnet_to_ldm(&inner),
            Some(inner) => inner,
            None => match after(rest, MIDDLE.0) {
                Some(rest) => {
                    format!("{}.{}", MIDDLE.1, rename(rest.strip_prefix('.')?, &ATTENTION)?)
                }
                None => self.level_to_ldm(half, rest)?,
            },
        };
        Some(format!("{half}.{inner}"))
    }

    fn level_to_ldm(self, half: &str, rest: &str) -> Option<String> {
        let (blocks, side) =
            if half == "encoder" { ("down_blocks.", "down") } else { ("up_blocks.", "up") };
        let (i, rest) = index(rest.strip_prefix(blocks)?)?;
        let level = self.mirror(half, i)?;
        if let Some(rest) = rest.strip_prefix(side) {
            let rest = after(rest.strip_prefix("samplers.0.")?, "conv")?;
            return Some(format!("{side}.{level}.{side}sample.conv{rest}"));
        }
        let (j, rest) = index(rest.strip_prefix("resnets.")?)?;
        Some(resnet_to_ldm(&join(&format!("{side}.{level}.block.{j}"), rest)))
    }

    /// The diffusers name of an ldm name; `None` when there is no such module.
    pub fn to_diffusers(self, name: &str) -> Option<String> {
        if quantiser(name) {
            return Some(name.to_owned());
        }
        let (half, rest) = name.split_once('.')?;
        if !matches!(half, "encoder" | "decoder") {
            return None;
        }
        let inner = match rename_back(rest, &FIXED) {
            Some(inner) if rest.starts_with("mid.") => resnet_to_diffusers(&inner),
            Some(inner) => inner,
            None => match after(rest, MIDDLE.1) {
                Some(rest) => {
                    format!("{}.{}", MIDDLE.0, rename_back(rest.strip_prefix('.')?, &ATTENTION)?)
                }
                None => self.level_to_diffusers(half, rest)?,
            },
        };
        Some(format!("{half}.{inner}"))
    }

    fn level_to_diffusers(self, half: &str, rest: &str) -> Option<String> {
        let side = if half == "encoder" { "down" } else { "up" };
        let (level, rest) = index(rest.strip_prefix(side)?.strip_prefix('.')?)?;
        let i = self.mirror(half, level)?;
        if let Some(rest) = rest.strip_prefix(side) {
            let rest = after(rest.strip_prefix("sample.")?, "conv")?;
            return Some(format!("{side}_blocks.{i}.{side}samplers.0.conv{rest}"));
        }
        let (j, rest) = index(rest.strip_prefix("block.")?)?;
        Some(resnet_to_diffusers(&join(&format!("{side}_blocks.{i}.resnets.{j}"), rest)))
    }

    /// diffusers counts the decoder's levels from the coarsest, ldm from the finest.
    fn mirror(self, half: &str, level: usize) -> Option<usize> {
        let last = self.levels.checked_sub(1)?;
        if half == "encoder" { (level <= last).then_some(level) } else { last.checked_sub(level) }
    }
}

/// Whether both layouts have this name: the 1×1 convolutions around the latents.
fn quantiser(name: &str) -> bool {
    after(name, "quant_conv").is_some() || after(name, "post_quant_conv").is_some()
}

fn resnet_to_ldm(name: &str) -> String {
    replace_module(name, SHORTCUT[0].0, SHORTCUT[0].1)
}

fn resnet_to_diffusers(name: &str) -> String {
    replace_module(name, SHORTCUT[0].1, SHORTCUT[0].0)
}

fn replace_module(name: &str, from: &str, to: &str) -> String {
    let parts: Vec<&str> =
        name.split('.').map(|part| if part == from { to } else { part }).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_to_one() {
        let names = VaeNames::new(4);
        let mut all = vec!["quant_conv.weight".to_owned(), "post_quant_conv.bias".to_owned()];
        for (half, side, layers) in [("encoder", "down", 2), ("decoder", "up", 3)] {
            all.extend(FIXED[..3].iter().map(|(name, _)| format!("{half}.{name}.weight")));
            all.extend(ATTENTION.map(|(name, _)| format!("{half}.{}.{name}.weight", MIDDLE.0)));
            for inner in ["norm1", "conv1", "norm2", "conv2", "conv_shortcut"] {
                all.extend((0..2).map(|j| format!("{half}.mid_block.resnets.{j}.{inner}.bias")));
                for i in 0..4 {
                    all.extend(
                        (0..layers)
                            .map(|j| format!("{half}.{side}_blocks.{i}.resnets.{j}.{inner}.bias")),
                    );
                }
            }
            all.extend(
                (0..3).map(|i| format!("{half}.{side}_blocks.{i}.{side}samplers.0.conv.weight")),
            );
        }
        let ldm: Vec<String> = all.iter().map(|name| names.to_ldm(name).unwrap()).collect();
        let back: Vec<String> = ldm.iter().map(|name| names.to_diffusers(name).unwrap()).collect();
        assert_eq!(back, all);
        assert_eq!(ldm.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(VaeNames::from_ldm(ldm.iter().map(String::as_str)), Some(names));
    }

    #[test]
    fn known_names() {
        let pairs = [
            ("decoder.up_blocks.0.resnets.2.conv1.weight", "decoder.up.3.block.2.conv1.weight"),
            (
                "decoder.up_blocks.2.resnets.0.conv_shortcut.bias",
                "decoder.up.1.block.0.nin_shortcut.bias",
            ),
            ("decoder.up_blocks.1.upsamplers.0.conv.bias", "decoder.up.2.upsample.conv.bias"),
            (
                "encoder.down_blocks.1.downsamplers.0.conv.bias",
                "encoder.down.1.downsample.conv.bias",
            ),
            (
                "encoder.mid_block.attentions.0.to_out.0.weight",
                "encoder.mid.attn_1.proj_out.weight",
            ),
        ];
        for (diffusers, ldm) in pairs {
            assert_eq!(VaeNames::new(4).to_ldm(diffusers).as_deref(), Some(ldm));
            assert_eq!(VaeNames::new(4).to_diffusers(ldm).as_deref(), Some(diffusers));
        }
        for name in [
            "decoder.up.4.block.0.conv1.weight",
            "loss.x",
            "decoder.up.x",
            "encoder",
            "encoder.up.0.block.0.conv1",
        ] {
            assert_eq!(VaeNames::new(4).to_diffusers(name), None, "{name}");
        }
        assert_eq!(
            modern_vae_name("decoder.mid_block.attentions.0.proj_attn.bias"),
            "decoder.mid_block.attentions.0.to_out.0.bias"
        );
        assert_eq!(modern_vae_name("decoder.conv_in.bias"), "decoder.conv_in.bias");
    }
}
