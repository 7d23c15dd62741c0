//! Self-attention guidance.

use crate::error::{Error, Result};
use crate::written::{Settings, as_text};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// Self-attention guidance: away from an estimate of latents that are blurred where the network looks, Hong et al.
/// (2023). One evaluation more a step.
///
/// Written `0.75`, or `0.5:blur=2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sag {
    /// Strength: diffusers' default is 0.75, ComfyUI's 0.5.
    pub scale: f64,
    /// Deviation of the blur, in latent cells: 1 in diffusers, 2 in ComfyUI.
    pub blur: f64,
}

const FIELD: &str = "sag";
/// Cells on each side of the blur's middle.
const REACH: usize = 4;
/// A token is blurred that is looked at more than the mean.
const LOOKED_AT: f64 = 1.0;

impl Sag {
    /// Estimates `x0`, `[B, C, h, w]`, blurred where the network looks; `map`: `[B, h', w']`, of which 1 is the mean.
    pub(in crate::pipeline) fn degraded(&self, x0: &Tensor, map: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x0.dims4()?;
        let mask = map.gt(LOOKED_AT)?.to_dtype(x0.dtype())?.unsqueeze(1)?;
        let mask = nearest(&mask, height, width)?;
        let change = (self.blurred(x0)? - x0)?;
        Ok((x0 + change.broadcast_mul(&mask)?)?)
    }

    /// A Gaussian blur of 9×9 cells, with mirrored edges.
    fn blurred(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let matrix = |length: usize| -> Result<Tensor> {
            let weights: Vec<f64> = (0..=2 * REACH)
                .map(|i| (-0.5 * ((i as f64 - REACH as f64) / self.blur).powi(2)).exp())
                .collect();
            let sum: f64 = weights.iter().sum();
            let mut entries = vec![0f32; length * length];
            for to in 0..length {
                for (i, weight) in weights.iter().enumerate() {
                    let from = mirrored(to as isize + i as isize - REACH as isize, length);
                    entries[to * length + from] += (weight / sum) as f32;
                }
            }
            let matrix = Tensor::from_vec(entries, (length, length), x.device())?;
            Ok(matrix.to_dtype(DType::F32)?)
        };
        let y = x.to_dtype(DType::F32)?.broadcast_matmul(&matrix(width)?.t()?.contiguous()?)?;
        Ok(matrix(height)?.broadcast_matmul(&y)?.to_dtype(x.dtype())?)
    }
}

/// The place of `i` in a line that is mirrored at its ends, whose own numbers come once.
fn mirrored(i: isize, length: usize) -> usize {
    let last = length as isize - 1;
    if last == 0 {
        return 0;
    }
    let i = i.rem_euclid(2 * last);
    i.min(2 * last - i) as usize
}

/// Each cell of `[B, 1, h', w']` for those of a larger picture, as torch has it.
fn nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, from_height, from_width) = x.dims4()?;
    let places = |from: usize, to: usize| {
        let places: Vec<u32> = (0..to).map(|i| (i * from / to) as u32).collect();
        Tensor::new(places, x.device())
    };
    let rows = x.index_select(&places(from_height, height)?, 2)?;
    Ok(rows.index_select(&places(from_width, width)?, 3)?)
}

impl std::str::FromStr for Sag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let settings = Settings::read(FIELD, text, &["blur"])?;
        let blur = settings.number("blur", 1.0, 0.05, 10.0)?;
        Ok(Self { scale: settings.first(0.0, 10.0)?, blur })
    }
}

impl std::fmt::Display for Sag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.scale)?;
        if (self.blur - 1.0).abs() > 0.0 { write!(f, ":blur={}", self.blur) } else { Ok(()) }
    }
}

as_text!(Sag);

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn texts_come_back() {
        for text in ["0.75", "0.5:blur=2"] {
            assert_eq!(text.parse::<Sag>().unwrap().to_string(), text);
        }
        assert!("0.5:blur=0".parse::<Sag>().is_err());
    }

    #[test]
    fn only_what_is_looked_at_is_blurred() {
        let sag: Sag = "1".parse().unwrap();
        let numbers: Vec<f32> = (0..64).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let x = Tensor::from_vec(numbers.clone(), (1, 1, 8, 8), &Device::Cpu).unwrap();
        let map = Tensor::new(&[[[2f32, 0.5], [0.5, 1.0]]], &Device::Cpu).unwrap();
        let out = sag.degraded(&x, &map).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (i, (after, before)) in out.iter().zip(&numbers).enumerate() {
            let seen = i / 8 < 4 && i % 8 < 4;
            assert_eq!(seen, (after - before).abs() > 0.5, "{i}: {before} {after}");
        }
        assert_eq!([-2, 0, 7, 8, 9].map(|i| mirrored(i, 8)), [2, 0, 7, 6, 5]);
        assert_eq!(mirrored(-3, 1), 0);
    }
}
