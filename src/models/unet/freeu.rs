//! FreeU: Si et al. (2023). The features of the first levels on the way up are strengthened, and the low frequencies
//! of what the way down hands over are weakened.

use crate::error::{Error, Result};
use crate::nn::Feature;
use crate::weights::Products;
use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

/// FreeU with its four numbers.
///
/// Written `v2`, `v1` (ComfyUI's nodes `FreeU_V2` and `FreeU`) or `diffusers` (`enable_freeu`), with other numbers
/// `v2:b1=1.3,b2=1.4,s1=0.9,s2=0.2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FreeU {
    /// Whose rules.
    pub version: Version,
    /// Factors of half of the features, at the first stage and the second.
    pub backbone: [f64; 2],
    /// Factors of low frequencies of what the way down hands over.
    pub skip: [f64; 2],
}

/// Whose FreeU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Stages are found by their channels, factors are the same everywhere: ComfyUI's `FreeU`.
    V1,
    /// As the first; the factor follows the mean of the features at each place: ComfyUI's `FreeU_V2`.
    V2,
    /// The factors of the first version at the first two levels on the way up: diffusers.
    Diffusers,
}

impl Version {
    const ALL: [(Self, &'static str); 3] =
        [(Self::V2, "v2"), (Self::V1, "v1"), (Self::Diffusers, "diffusers")];

    /// b1, b2, s1, s2 of the nodes; of diffusers' documentation for SD 1.5.
    fn usual(self) -> [f64; 4] {
        match self {
            Self::V1 => [1.1, 1.2, 0.9, 0.2],
            Self::V2 => [1.3, 1.4, 0.9, 0.2],
            Self::Diffusers => [1.5, 1.6, 0.9, 0.2],
        }
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(version, _)| *version == self).map_or("", |(_, name)| name)
    }
}

/// A layer on the way up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rung {
    /// Its level, counted from the coarsest.
    pub level: usize,
    /// Channels of the finest level.
    pub base: usize,
}

impl FreeU {
    /// The stage of a layer, 0 or 1, whose features have `channels`.
    fn stage(&self, rung: Rung, channels: usize) -> Option<usize> {
        match self.version {
            Version::Diffusers => Some(rung.level).filter(|level| *level < 2),
            _ if channels == 4 * rung.base => Some(0),
            _ if channels == 2 * rung.base => Some(1),
            _ => None,
        }
    }

    /// The features `x` and what the way down hands over, `skip`, for a layer that takes both.
    pub(super) fn apply(
        &self,
        rung: Rung,
        x: Feature,
        skip: Feature,
        products: Products,
    ) -> Result<(Feature, Feature)> {
        let image = x.to_image()?;
        let channels = image.dim(1)?;
        let Some(stage) = self.stage(rung, channels) else { return Ok((x, skip)) };
        let half = channels / 2;
        let changed = image.narrow(1, 0, half)?.to_dtype(DType::F32)?;
        let changed = changed.broadcast_mul(&self.factor(&image, self.backbone[stage])?)?;
        let rest = image.narrow(1, half, channels - half)?;
        let image = Tensor::cat(&[&changed.to_dtype(image.dtype())?, &rest], 1)?;
        let skip = skip.to_image()?;
        let skip = weakened(&skip, self.skip[stage])?.to_dtype(skip.dtype())?;
        Ok((Feature::image(&image, products)?, Feature::image(&skip, products)?))
    }

    /// The factor of the first half of the channels, `[B | 1, 1, h | 1, w | 1]`.
    fn factor(&self, image: &Tensor, strength: f64) -> Result<Tensor> {
        if self.version != Version::V2 {
            return Ok(Tensor::full(strength as f32, (1, 1, 1, 1), image.device())?);
        }
        let mean = image.to_dtype(DType::F32)?.mean_keepdim(1)?; // [B, 1, h, w]
        let flat = mean.flatten_from(2)?;
        let (low, high) = (flat.min_keepdim(D::Minus1)?, flat.max_keepdim(D::Minus1)?);
        let (low, span) = (low.unsqueeze(3)?, (high - low)?.unsqueeze(3)?);
        let share = mean.broadcast_sub(&low)?.broadcast_div(&span)?;
        Ok(((share * (strength - 1.0))? + 1.0)?)
    }
}

/// `x` (`[B, C, h, w]`) with the four lowest frequencies of each channel times `scale`: what the references do to the
/// middle 2×2 of the shifted transform, whose real part they keep.
fn weakened(x: &Tensor, scale: f64) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    let (_, _, height, width) = x.dims4()?;
    let (rows, columns) = (Waves::new(height, x.device())?, Waves::new(width, x.device())?);
    let part = |rows: &Tensor, columns: &Tensor| -> Result<Tensor> {
        Ok(rows.broadcast_matmul(&x.broadcast_matmul(&columns.t()?.contiguous()?)?)?)
    };
    let low = (part(&rows.real, &columns.real)? - part(&rows.imaginary, &columns.imaginary)?)?;
    Ok((x + (low * (scale - 1.0))?)?)
}

/// What takes the frequencies 0 and −1 out of a line of numbers, `[n, n]`.
struct Waves {
    real: Tensor,
    imaginary: Tensor,
}

impl Waves {
    fn new(length: usize, device: &Device) -> Result<Self> {
        let n = length as f64;
        let of = |wave: fn(f64) -> f64, constant: f64| {
            let entry = |i: usize, j: usize| {
                let angle = -2.0 * std::f64::consts::PI * (i as f64 - j as f64) / n;
                // A single number has no other frequency.
                let other = if length > 1 { wave(angle) } else { 0.0 };
                ((constant + other) / n) as f32
            };
            let entries = (0..length).flat_map(|i| (0..length).map(move |j| (i, j)));
            let entries: Vec<f32> = entries.map(|(i, j)| entry(i, j)).collect();
            Ok::<_, Error>(Tensor::from_vec(entries, (length, length), device)?)
        };
        Ok(Self { real: of(f64::cos, 1.0)?, imaginary: of(f64::sin, 0.0)? })
    }
}

const FIELD: &str = "freeu";

impl std::str::FromStr for FreeU {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = ["b1", "b2", "s1", "s2"];
        let settings = crate::written::Settings::read(FIELD, text, &names)?;
        let known = Version::ALL.iter().find(|(_, name)| *name == settings.head);
        let Some((version, _)) = known else {
            let why = "expected v2, v1 or diffusers; with numbers: v2:b1=1.3,b2=1.4,s1=0.9,s2=0.2";
            return Err(Error::bad_request(FIELD, settings.head, why));
        };
        let usual = version.usual();
        let number = |i: usize| settings.number(names[i], usual[i], 0.0, 10.0);
        let (backbone, skip) = ([number(0)?, number(1)?], [number(2)?, number(3)?]);
        Ok(Self { version: *version, backbone, skip })
    }
}

impl std::fmt::Display for FreeU {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([b1, b2], [s1, s2]) = (self.backbone, self.skip);
        write!(f, "{}:b1={b1},b2={b2},s1={s1},s2={s2}", self.version.name())
    }
}

crate::written::as_text!(FreeU);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        let plain: FreeU = "v2".parse().unwrap();
        assert_eq!(plain.to_string(), "v2:b1=1.3,b2=1.4,s1=0.9,s2=0.2");
        let other: FreeU = "diffusers:s2=0.4,b1=1.1".parse().unwrap();
        assert_eq!(other.to_string().parse::<FreeU>().unwrap(), other);
        assert_eq!((other.backbone, other.skip), ([1.1, 1.6], [0.9, 0.4]));
        assert!("v3".parse::<FreeU>().is_err() && "v2:b3=1".parse::<FreeU>().is_err());
    }

    /// Waves of the frequencies 0 and −1 are scaled, others stay; the real part of −1 is half of a wave and its mirror.
    #[test]
    fn low_frequencies_are_weakened() {
        let (n, pi) = (8usize, std::f64::consts::PI);
        let wave = |k: f64| -> Tensor {
            let value = |i: usize| (2.0 * pi * k * (i % n) as f64 / n as f64).cos() as f32;
            Tensor::from_vec((0..n * n).map(value).collect::<Vec<_>>(), (1, 1, n, n), &Device::Cpu)
                .unwrap()
        };
        let gap = |k: f64, factor: f64| {
            let found = weakened(&wave(k), 0.2).unwrap();
            let gap = (found - (wave(k) * factor).unwrap()).unwrap().abs().unwrap();
            gap.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        assert!(gap(0.0, 0.2) < 1e-5 && gap(1.0, 0.6) < 1e-5 && gap(2.0, 1.0) < 1e-5);
        let one = Tensor::full(3f32, (1, 1, 1, 1), &Device::Cpu).unwrap();
        let one = weakened(&one, 0.5).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(one, [1.5]);
    }
}
