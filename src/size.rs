//! Sizes of pictures and latents. The factor 8 lives only here.
//!
//! Floor 0.

use crate::error::{Error, Result};

/// Pixels per latent cell along one side: every Stable Diffusion VAE halves three times.
pub const VAE_FACTOR: usize = 8;

/// Longest side that is accepted, in pixels.
pub const MAX_SIDE: usize = 8192;

/// Largest picture that is accepted, in pixels: beyond it a UNet's activations take tens of GiB.
pub const MAX_PIXELS: usize = 4096 * 4096;

/// Width and height of a picture in pixels; both are multiples of [`VAE_FACTOR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

    /// Checks both sides: multiples of 8, from 8 to [`MAX_SIDE`] pixels, [`MAX_PIXELS`] in all.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a side that is zero or no multiple of 8, [`Error::Limit`] for one
    /// that is too long.
    pub fn new(width: usize, height: usize) -> Result<Self> {
        for (field, side) in [("width", width), ("height", height)] {
            if side > MAX_SIDE {
                return Err(Error::Limit {
                    what: "picture side in pixels",
                    allowed: MAX_SIDE as u64,
                    asked: side as u64,
                });
            }
            if side == 0 || side % VAE_FACTOR != 0 {
                let below = side / VAE_FACTOR * VAE_FACTOR;
                let above = below + VAE_FACTOR;
                let near =
                    if below == 0 { above.to_string() } else { format!("{below} or {above}") };
                return Err(Error::bad_request(
                    field,
                    side,
                    format!("must be a positive multiple of {VAE_FACTOR}; try {near}"),
                ));
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

    /// The latents that decode to this size.
    pub fn latent(self) -> LatentSize {
        LatentSize { width: self.width / VAE_FACTOR, height: self.height / VAE_FACTOR }
    }
}

impl std::fmt::Display for ImageSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_multiples_of_eight_only() {
        assert_eq!(
            "512x768".parse::<ImageSize>().unwrap().latent(),
            LatentSize { width: 64, height: 96 }
        );
        let error = ImageSize::new(510, 512).unwrap_err().to_string();
        assert!(error.contains("504 or 512"), "{error}");
        for side in [0, 7] {
            let error = ImageSize::new(side, 8).unwrap_err().to_string();
            assert!(error.ends_with("try 8"), "{error}");
        }
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
}
