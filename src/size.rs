//! Sizes of images and of their latents.
//!
//! How many pixels a latent cell has along one side is a property of the model's autoencoder
//! ([`VaeConfig::factor`](crate::models::VaeConfig::factor)): 8 in Stable Diffusion, 2 in tiny models for tests.
//!
//! Floor 0.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Pixels per latent cell along one side in every Stable Diffusion model: its autoencoder has four levels and
/// halves three times.
pub const SD_VAE_FACTOR: usize = 8;

/// Longest side that is accepted, in pixels.
pub const MAX_SIDE: usize = 8192;

/// Largest picture that is accepted, in pixels: beyond it a UNet's activations take tens of GiB.
pub const MAX_PIXELS: usize = 4096 * 4096;

/// Width and height of an image in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageSize {
    width: usize,
    height: usize,
}

/// Width and height of latents in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LatentSize {
    /// Cells across.
    pub width: usize,
    /// Cells down.
    pub height: usize,
}

impl ImageSize {
    /// The size that SD 1.x was trained at.
    pub const SD: ImageSize = ImageSize { width: 512, height: 512 };

    /// Checks both sides: from 1 to [`MAX_SIDE`] pixels, [`MAX_PIXELS`] in all. Whether a model can make an image
    /// of that size is checked by [`latent`](Self::latent).
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a side of zero, [`Error::Limit`] for one that is too long.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        for (field, side) in [("width", width), ("height", height)] {
            if side > MAX_SIDE {
                return Err(Error::Limit {
                    what: "picture side in pixels",
                    allowed: MAX_SIDE as u64,
                    asked: side as u64,
                });
            }
            if side == 0 {
                return Err(no_multiple(field, side, SD_VAE_FACTOR));
            }
        }
        if width * height > MAX_PIXELS {
            return Err(Error::Limit {
                what: "picture size in pixels",
                allowed: MAX_PIXELS as u64,
                asked: (width * height) as u64,
            });
        }
        Ok(Self { width, height })
    }

    /// Pixels across.
    pub fn width(self) -> usize {
        self.width
    }

    /// Pixels down.
    pub fn height(self) -> usize {
        self.height
    }

    /// The size of the latents that decode to this size.
    ///
    /// `factor`: pixels per latent cell along one side, as
    /// [`VaeConfig::factor`](crate::models::VaeConfig::factor) returns it; at least 1.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a side that is no multiple of `factor`.
    pub fn latent(self, factor: usize) -> Result<LatentSize> {
        for (field, side) in [("width", self.width), ("height", self.height)] {
            if !side.is_multiple_of(factor) {
                return Err(no_multiple(field, side, factor));
            }
        }
        Ok(LatentSize { width: self.width / factor, height: self.height / factor })
    }
}

/// The error for a side that is zero or no multiple of `factor`, with the nearest sides that are.
fn no_multiple(field: &'static str, side: usize, factor: usize) -> Error {
    let below = side / factor * factor;
    let above = below + factor;
    let near = if below == 0 { above.to_string() } else { format!("{below} or {above}") };
    let why = format!("must be a positive multiple of {factor}; try {near}");
    Error::bad_request(field, side, why)
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

crate::written::as_text!(ImageSize);

impl std::str::FromStr for ImageSize {
    type Err = Error;

    /// Parses `512x768` (width first), or `512` for a square.
    fn from_str(text: &str) -> Result<Self> {
        let why = "expected WIDTHxHEIGHT, for instance 512x768, or one number for a square";
        let bad = || Error::bad_request("size", text, why);
        let (w, h) = text.split_once(['x', 'X', '×']).unwrap_or((text, text));
        let side = |s: &str| s.trim().parse::<usize>().map_err(|_| bad());
        Self::new(side(w)?, side(h)?)
    }
}

/// The shape of a picture, written `2:3`: width to height.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Aspect {
    /// Parts across.
    pub width: u16,
    /// Parts down.
    pub height: u16,
}

/// Sides of trained sizes are multiples of this: NovelAI's and SDXL's buckets.
const BUCKET: usize = 64;

impl Aspect {
    /// The size of this shape that a model trained at `native` knows: of all with sides of whole buckets and no more
    /// pixels, the one whose shape is nearest.
    ///
    /// # Errors
    /// As [`ImageSize::new`].
    ///
    /// # Source
    /// Podell et al. (2023), SDXL, appendix I: 832×1216 is its 2:3.
    pub fn of(self, native: ImageSize) -> Result<ImageSize> {
        let area = native.width() * native.height();
        let wanted = (f64::from(self.width) / f64::from(self.height)).ln();
        let sides = (1..=area / BUCKET / BUCKET).map(|i| i * BUCKET);
        let sizes = sides.filter_map(|width| {
            let height = area / width / BUCKET * BUCKET;
            let gap = ((width as f64 / height.max(1) as f64).ln() - wanted).abs();
            (height > 0).then_some((gap, width, height))
        });
        let nearest = sizes.min_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((_, width, height)) => ImageSize::new(width, height),
            None => Ok(native),
        }
    }
}

impl std::str::FromStr for Aspect {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why =
            "expected WIDTH:HEIGHT, such as 2:3 or 16:9; the longer side at most 8 times the other";
        let bad = || Error::bad_request("aspect", text, why);
        let (width, height) = text.split_once([':', '/', 'x']).ok_or_else(bad)?;
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
        let (width, height) = (number(width)?, number(height)?);
        let (short, long) = (width.min(height), width.max(height));
        if short == 0 || long / short > 8 {
            return Err(bad());
        }
        Ok(Self { width, height })
    }
}

impl std::fmt::Display for Aspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.width, self.height)
    }
}

crate::written::as_text!(Aspect);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_multiples_of_the_factor() {
        let size = |width, height| ImageSize::new(width, height).unwrap();
        assert_eq!(size(512, 768).latent(8).unwrap(), LatentSize { width: 64, height: 96 });
        assert_eq!(size(34, 66).latent(2).unwrap(), LatentSize { width: 17, height: 33 });
        assert_eq!(size(7, 5).latent(1).unwrap(), LatentSize { width: 7, height: 5 });
        let error = size(510, 512).latent(8).unwrap_err().to_string();
        assert!(error.starts_with("width = 510") && error.contains("504 or 512"), "{error}");
        let error = size(512, 33).latent(2).unwrap_err().to_string();
        assert!(error.starts_with("height = 33") && error.contains("32 or 34"), "{error}");
        let seven = size(7, 8).latent(8).unwrap_err().to_string();
        let none = ImageSize::new(0, 8).unwrap_err().to_string();
        for error in [seven, none] {
            assert!(error.ends_with("multiple of 8; try 8"), "{error}");
        }
    }

    #[test]
    fn sides_have_limits() {
        assert!(matches!("99999".parse::<ImageSize>(), Err(Error::Limit { .. })));
        assert!(ImageSize::new(usize::MAX, 8).is_err());
        assert!(matches!(ImageSize::new(80_000, 8), Err(Error::Limit { .. })));
        assert!(matches!(ImageSize::new(8192, 8192), Err(Error::Limit { .. })));
        assert!(ImageSize::new(8192, 2048).is_ok());
        let square = ImageSize::new(512, 512).unwrap();
        assert_eq!("512".parse::<ImageSize>().unwrap(), square);
        assert!("x512".parse::<ImageSize>().is_err());
        assert!("512x".parse::<ImageSize>().is_err());
        assert!("-8x8".parse::<ImageSize>().is_err());
    }

    /// The sizes of SDXL's appendix that people use.
    #[test]
    fn shapes_become_trained_sizes() {
        let native = ImageSize::new(1024, 1024).unwrap();
        for (shape, size) in [
            ("1:1", "1024x1024"),
            ("2:3", "832x1216"),
            ("3:2", "1216x832"),
            ("4:3", "1152x896"),
            ("9:16", "768x1344"),
            ("21:9", "1536x640"),
        ] {
            let aspect: Aspect = shape.parse().unwrap();
            assert_eq!(aspect.of(native).unwrap().to_string(), size, "{shape}");
            assert_eq!(aspect.to_string(), shape);
        }
        let small = ImageSize::new(64, 64).unwrap();
        assert_eq!("2:3".parse::<Aspect>().unwrap().of(small).unwrap(), small);
        assert!("0:3".parse::<Aspect>().is_err() && "9:1".parse::<Aspect>().is_err());
    }
}
