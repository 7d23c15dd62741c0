//! Which attentions of a UNet a change acts on.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A half of the network, or its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// On the way down.
    Down,
    /// The middle block.
    Mid,
    /// On the way up.
    Up,
}

/// Where an attention stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Its half.
    pub side: Side,
    /// Its level, counted from where the half begins.
    pub level: usize,
    /// Its place in the level.
    pub index: usize,
}

/// Attentions of a UNet: `mid`, `down`, `up`, a level `up.1`, a single one `down.2.0`, or in the words of diffusers
/// `down_blocks.2.attentions.0`; several with `+`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Layers(Vec<Pattern>);

/// What a spot is compared with; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pattern {
    side: Side,
    level: Option<usize>,
    index: Option<usize>,
}

const WHY: &str = "expected mid, down, up, a level such as up.1, or one attention such as down.2.0; several with +";

impl Layers {
    /// The middle block.
    pub fn mid() -> Self {
        Self(vec![Pattern { side: Side::Mid, level: None, index: None }])
    }

    /// Whether the attention at `spot` is one of them.
    pub fn hold(&self, spot: Spot) -> bool {
        self.0.iter().any(|pattern| {
            pattern.side == spot.side
                && pattern.level.is_none_or(|level| level == spot.level)
                && pattern.index.is_none_or(|index| index == spot.index)
        })
    }
}

impl std::str::FromStr for Layers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::bad_request("layers", text, WHY);
        let pattern = |part: &str| {
            let plain =
                part.replace("_blocks", "").replace("_block", "").replace(".attentions", "");
            let mut words = plain.split('.');
            let side = match words.next() {
                Some("down") => Side::Down,
                Some("mid" | "middle") => Side::Mid,
                Some("up") => Side::Up,
                _ => return Err(bad()),
            };
            let number = |word: &str| word.parse::<usize>().map_err(|_| bad());
            let level = words.next().map(number).transpose()?;
            let index = words.next().map(number).transpose()?;
            match words.next() {
                None => Ok(Pattern { side, level, index }),
                Some(_) => Err(bad()),
            }
        };
        text.split('+').map(|part| pattern(part.trim())).collect::<Result<_>>().map(Self)
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Pattern { side, level, index }) in self.0.iter().enumerate() {
            let side = match side {
                Side::Down => "down",
                Side::Mid => "mid",
                Side::Up => "up",
            };
            write!(f, "{}{side}", if i > 0 { "+" } else { "" })?;
            for number in [level, index].into_iter().flatten() {
                write!(f, ".{number}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Layers {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Layers> for String {
    fn from(layers: Layers) -> String {
        layers.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spots_are_found_by_their_names() {
        let layers: Layers = "mid+up.1+down_blocks.2.attentions.0".parse().unwrap();
        assert_eq!(layers.to_string(), "mid+up.1+down.2.0");
        assert_eq!(layers.to_string().parse::<Layers>().unwrap(), layers);
        let hold = |side, level, index| layers.hold(Spot { side, level, index });
        assert!(hold(Side::Mid, 0, 0) && hold(Side::Up, 1, 2) && hold(Side::Down, 2, 0));
        assert!(!hold(Side::Up, 0, 0) && !hold(Side::Down, 2, 1) && !hold(Side::Down, 1, 0));
        for text in ["", "left", "up.x", "up.1.2.3", "mid+"] {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
    }
}
