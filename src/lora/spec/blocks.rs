//! Factors by block of the network, as A1111's block-weight extension writes them.
//!
//! Blocks are counted as in the original code: `IN00` is `input_blocks.0`, `M00` the middle, `OUT00`
//! is `output_blocks.0`, `BASE` all text encoders.

use crate::error::{Error, Result};
use crate::suggest::did_you_mean;
use crate::weights::Component;
use crate::weights::names::UNetNames;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A block of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Block {
    /// The text encoders.
    Base,
    /// `input_blocks.N`.
    In(usize),
    /// `middle_block`.
    Mid,
    /// `output_blocks.N`.
    Out(usize),
}

impl Block {
    /// The block of a module or weight by its canonical name with its component, e.g.
    /// `unet.down_blocks.1.attentions.0.proj_in`.
    ///
    /// `None` for what lies in no block: time embedding, output convolution, autoencoder.
    pub fn of(module: &str, names: &UNetNames) -> Option<Self> {
        let (component, rest) = Component::split(module);
        if component.is_text() {
            return Some(Self::Base);
        }
        let ldm = names.to_ldm(rest).filter(|_| component == Component::UNet)?;
        let mut parts = ldm.split('.');
        let (side, index) = (parts.next()?, parts.next()?.parse().ok()?);
        match side {
            "input_blocks" => Some(Self::In(index)),
            "middle_block" => Some(Self::Mid),
            "output_blocks" => Some(Self::Out(index)),
            _ => None,
        }
    }
}

/// How many blocks a UNet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// SD 1.x and 2.x: 12 on the way down, 12 up.
    Sd,
    /// SDXL: 9 down, 9 up.
    Sdxl,
}

impl Layout {
    /// The layout of a UNet; `None` for one with another number of blocks.
    pub fn of(names: &UNetNames) -> Option<Self> {
        match names.layers().iter().map(|layers| layers + 1).sum() {
            12 => Some(Self::Sd),
            9 => Some(Self::Sdxl),
            _ => None,
        }
    }

    /// Blocks on the way down, and as many up.
    pub fn side(self) -> usize {
        if self == Self::Sd { 12 } else { 9 }
    }

    /// Lengths of the full and of the short list.
    fn lengths(self) -> (usize, usize) {
        if self == Self::Sd { (26, 17) } else { (20, 12) }
    }

    /// The blocks of the short list: those with attention, on the way up without the others.
    fn short(self) -> Vec<Block> {
        let (down, up): (&[usize], _) = match self {
            Self::Sd => (&[1, 2, 4, 5, 7, 8], 3..12),
            Self::Sdxl => (&[4, 5, 7, 8], 0..6),
        };
        order(down.iter().copied(), up)
    }

    /// The blocks of a list of `length` in its order; `None` when no list of this layout is so long.
    fn blocks(self, length: usize) -> Option<Vec<Block>> {
        let (full, short) = self.lengths();
        if length == full {
            Some(order(0..self.side(), 0..self.side()))
        } else {
            (length == short).then(|| self.short())
        }
    }
}

/// BASE, the blocks on the way down, the middle, the blocks on the way up.
fn order(down: impl IntoIterator<Item = usize>, up: impl IntoIterator<Item = usize>) -> Vec<Block> {
    let down = down.into_iter().map(Block::In);
    let up = up.into_iter().map(Block::Out);
    [Block::Base].into_iter().chain(down).chain([Block::Mid]).chain(up).collect()
}

/// The presets: name, factors of SD's short list, factors of SDXL's.
///
/// The first are the extension's; the second are their like, because the extension has none: the
/// deep and the shallow half of each side. `NONE`, `ALL` and `ALL0.5` mean every block, also those
/// that the short lists leave out.
const PRESETS: [(&str, &str, &str); 10] = [
    ("NONE", "", ""),
    ("ALL", "", ""),
    ("INS", "11110000000000000", "111000000000"),
    ("IND", "10001110000000000", "100110000000"),
    ("INALL", "11111110000000000", "111110000000"),
    ("MIDD", "10001111111100000", "100111111000"),
    ("OUTD", "10000000111100000", "100000111000"),
    ("OUTS", "10000000000011111", "100000000111"),
    ("OUTALL", "10000000111111111", "100000111111"),
    ("ALL0.5", "", ""),
];

/// Whether `text` is the name of a preset, in capitals.
pub(super) fn is_preset(text: &str) -> bool {
    PRESETS.iter().any(|(name, ..)| *name == text)
}

/// Factors by block: a preset's name, or a list of 26 or 17 numbers for SD 1.x and 2.x, of 20 or 12
/// for SDXL.
///
/// | length | order |
/// |---|---|
/// | 26 | BASE, IN00–IN11, M00, OUT00–OUT11 |
/// | 17 | BASE, IN01, 02, 04, 05, 07, 08, M00, OUT03–OUT11 |
/// | 20 | BASE, IN00–IN08, M00, OUT00–OUT08 |
/// | 12 | BASE, IN04, 05, 07, 08, M00, OUT00–OUT05 |
///
/// Blocks that a short list leaves out get 0. Presets: `NONE`, `ALL`, `ALL0.5` (all blocks alike),
/// and, with BASE always on, `INS`, `IND`, `INALL` (the way down: shallow half, deep half, all),
/// `OUTS`, `OUTD`, `OUTALL` (the way up), `MIDD` (the deep halves and the middle). For SDXL, where
/// the extension defines none, they are the same halves of its short list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockWeights(Form);

#[derive(Debug, Clone, PartialEq)]
enum Form {
    /// A name in [`PRESETS`].
    Preset(&'static str),
    /// Factors in the order of one of the lists, and as many.
    List(Vec<f32>),
}

impl BlockWeights {
    /// Reads a list of 26, 20, 17 or 12 factors.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for another length or a factor that is no weight.
    pub fn list(factors: Vec<f32>) -> Result<Self> {
        if [Layout::Sd, Layout::Sdxl].iter().all(|l| l.blocks(factors.len()).is_none()) {
            let found = format!("{} values", factors.len());
            let why = "expected 26 or 17 values for SD 1.x and 2.x, 20 or 12 for SDXL";
            return Err(Error::bad_request("blocks", found, why));
        }
        factors.iter().try_for_each(|factor| super::check_weight(*factor).map(drop))?;
        Ok(Self(Form::List(factors)))
    }

    /// Whether these weights fit a model of this layout.
    ///
    /// # Errors
    /// [`Error::BadRequest`] that names the lengths that would fit.
    pub fn check(&self, layout: Layout) -> Result<()> {
        self.factors(layout).map(drop)
    }

    /// The factors in a model of this layout.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn factors(&self, layout: Layout) -> Result<BlockFactors> {
        match &self.0 {
            Form::Preset(name) => Ok(preset(name, layout)),
            Form::List(list) => match layout.blocks(list.len()) {
                Some(blocks) => {
                    Ok(BlockFactors::new(blocks.into_iter().zip(list.iter().copied()), 0.0))
                }
                None => Err(misfit(list.len(), layout)),
            },
        }
    }
}

fn misfit(length: usize, layout: Layout) -> Error {
    let (full, short) = layout.lengths();
    let (this, other) = match layout {
        Layout::Sd => ("SD 1.x or 2.x", "SDXL"),
        Layout::Sdxl => ("SDXL", "SD 1.x and 2.x"),
    };
    let why = format!(
        "these are block weights for {other}, the model is {this}: expected {full} or {short} \
         values, or a preset such as MIDD"
    );
    Error::bad_request("blocks", format!("{length} values"), why)
}

fn preset(name: &str, layout: Layout) -> BlockFactors {
    let found = PRESETS.iter().find(|(preset, ..)| *preset == name);
    let digits = found.map_or("", |(_, sd, xl)| if layout == Layout::Sd { sd } else { xl });
    let listed = digits.bytes().map(|digit| f32::from(digit == b'1'));
    let rest = match name {
        "ALL" => 1.0,
        "ALL0.5" => 0.5,
        _ => 0.0,
    };
    BlockFactors::new(layout.short().into_iter().zip(listed), rest)
}

/// The factors of all blocks of one layout.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockFactors {
    listed: Vec<(Block, f32)>,
    /// The factor of blocks that are not listed.
    rest: f32,
}

impl BlockFactors {
    fn new(listed: impl Iterator<Item = (Block, f32)>, rest: f32) -> Self {
        Self { listed: listed.collect(), rest }
    }

    /// The factor of a block; 1 for `None`, which is what [`Block::of`] gives outside of all blocks.
    pub fn factor(&self, block: Option<Block>) -> f32 {
        let Some(block) = block else { return 1.0 };
        self.listed.iter().find(|(listed, _)| *listed == block).map_or(self.rest, |(_, f)| *f)
    }
}

impl FromStr for BlockWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some((name, ..)) = PRESETS.iter().find(|(name, ..)| name.eq_ignore_ascii_case(text))
        {
            return Ok(Self(Form::Preset(name)));
        }
        if !text.contains(',') && text.parse::<f32>().is_err() {
            let names = PRESETS.map(|(name, ..)| name);
            let near = did_you_mean(text, names);
            let why = format!("expected a list of numbers or one of {}{near}", names.join(", "));
            return Err(Error::bad_request("blocks", text, why));
        }
        let number = |word: &str| {
            let why = "expected a number; A1111's random R, U and X are not supported";
            word.trim().parse().map_err(|_| Error::bad_request("blocks", word.trim(), why))
        };
        Self::list(text.split(',').map(number).collect::<Result<_>>()?)
    }
}

impl TryFrom<String> for BlockWeights {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BlockWeights> for String {
    fn from(weights: BlockWeights) -> Self {
        weights.to_string()
    }
}

impl fmt::Display for BlockWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Preset(name) => f.write_str(name),
            Form::List(list) => {
                let words: Vec<String> = list.iter().map(ToString::to_string).collect();
                f.write_str(&words.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sd() -> UNetNames {
        UNetNames::new(vec![2; 4], vec![false, true, true, true])
    }

    fn xl() -> UNetNames {
        UNetNames::new(vec![2; 3], vec![true, true, false])
    }

    fn weights(text: &str) -> BlockWeights {
        text.parse().unwrap()
    }

    /// 1, 2, 3, … of this length.
    fn counted(length: usize) -> BlockWeights {
        BlockWeights::list((1..=length).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn modules_have_blocks() {
        for (module, block) in [
            ("text_encoder.text_model.encoder.layers.0.mlp.fc1", Some(Block::Base)),
            ("text_encoder_2.text_projection", Some(Block::Base)),
            ("unet.conv_in", Some(Block::In(0))),
            ("unet.down_blocks.1.attentions.0.proj_in", Some(Block::In(4))),
            ("unet.down_blocks.0.downsamplers.0.conv", Some(Block::In(3))),
            ("unet.mid_block.attentions.0.proj_out.weight", Some(Block::Mid)),
            ("unet.up_blocks.1.upsamplers.0.conv", Some(Block::Out(5))),
            ("unet.up_blocks.1.resnets.2.conv1.bias", Some(Block::Out(5))),
            ("unet.time_embedding.linear_1", None),
            ("unet.conv_out", None),
            ("vae.decoder.conv_in", None),
            ("vae.conv_in", None),
            ("unet", None),
        ] {
            assert_eq!(Block::of(module, &sd()), block, "{module}");
        }
        let last = Block::of("unet.up_blocks.2.resnets.2.conv2", &xl());
        assert_eq!(last, Some(Block::Out(8)));
        assert_eq!((Layout::of(&sd()), Layout::of(&xl())), (Some(Layout::Sd), Some(Layout::Sdxl)));
        assert_eq!(Layout::of(&UNetNames::new(vec![1], vec![])), None);
    }

    #[test]
    fn lists_follow_the_published_orders() {
        for (length, layout, expected) in [
            (26, Layout::Sd, [1.0, 2.0, 6.0, 14.0, 15.0, 20.0]),
            (17, Layout::Sd, [1.0, 0.0, 4.0, 8.0, 0.0, 11.0]),
            (20, Layout::Sdxl, [1.0, 2.0, 6.0, 11.0, 12.0, 17.0]),
            (12, Layout::Sdxl, [1.0, 0.0, 2.0, 6.0, 7.0, 12.0]),
        ] {
            let factors = counted(length).factors(layout).unwrap();
            let blocks =
                [Block::Base, Block::In(0), Block::In(4), Block::Mid, Block::Out(0), Block::Out(5)];
            assert_eq!(blocks.map(|b| factors.factor(Some(b))), expected, "{length}");
            assert_eq!(factors.factor(None), 1.0);
        }
    }

    #[test]
    fn presets_fit_both_layouts() {
        for (name, sd, xl) in PRESETS {
            assert!(sd.is_empty() && xl.is_empty() || (sd.len(), xl.len()) == (17, 12), "{name}");
            for layout in [Layout::Sd, Layout::Sdxl] {
                weights(&name.to_lowercase()).check(layout).unwrap();
            }
        }
        let factor =
            |name: &str, layout, block| weights(name).factors(layout).unwrap().factor(Some(block));
        assert_eq!(factor("ALL", Layout::Sd, Block::In(3)), 1.0);
        assert_eq!(factor("ALL0.5", Layout::Sdxl, Block::Out(8)), 0.5);
        assert_eq!(factor("NONE", Layout::Sd, Block::Base), 0.0);
        assert_eq!(factor("MIDD", Layout::Sd, Block::Out(6)), 1.0);
        assert_eq!(factor("MIDD", Layout::Sd, Block::Out(7)), 0.0);
        assert_eq!(factor("INS", Layout::Sd, Block::In(3)), 0.0);
        assert_eq!(factor("OUTD", Layout::Sdxl, Block::Out(2)), 1.0);
    }

    #[test]
    fn misfits_name_what_would_fit() {
        let message = counted(17).check(Layout::Sdxl).unwrap_err().to_string();
        assert!(message.contains("17 values") && message.contains("20 or 12"), "{message}");
        let message = counted(12).check(Layout::Sd).unwrap_err().to_string();
        assert!(message.contains("26 or 17") && message.contains("for SDXL"), "{message}");
        for (text, part) in [
            ("MID", "did you mean `MIDD`"),
            ("1,2,3", "26 or 17"),
            ("1", "26 or 17"),
            ("1,R,1", "random"),
            ("", "MIDD"),
            ("1,,1", "expected a number"),
            (&["nan"; 12].join(","), "finite"),
        ] {
            let message = text.parse::<BlockWeights>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
