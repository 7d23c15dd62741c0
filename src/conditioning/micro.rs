//! The numbers that SDXL takes beside the text: sizes and crops of the pictures that it was trained on, and what the
//! refiner's training called beautiful.

use crate::error::{Error, Result};
use crate::size::ImageSize;
use crate::written::as_text;
use serde::{Deserialize, Serialize};

/// A size that a network is told, in pixels; written `1024x768`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToldSize {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// Where the picture is said to begin in the one that it was cut from; written `TOP,LEFT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Crop {
    /// Pixels that were cut off above.
    pub top: u32,
    /// Pixels that were cut off at the left.
    pub left: u32,
}

/// Largest number that may be told.
const MOST: u32 = 1 << 16;

fn pair(text: &str, by: &[char]) -> Option<(u32, u32)> {
    let (a, b) = text.split_once(by)?;
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number <= MOST);
    Some((number(a)?, number(b)?))
}

impl std::str::FromStr for ToldSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = "expected WIDTHxHEIGHT in pixels, such as 1024x1024";
        let found = pair(text, &['x', 'X', '×']);
        let (width, height) = found.ok_or_else(|| Error::bad_request("", text, why))?;
        Ok(Self { width, height })
    }
}

impl std::fmt::Display for ToldSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

as_text!(ToldSize);

impl std::str::FromStr for Crop {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = "expected TOP,LEFT in pixels, such as 0,0";
        let found = pair(text, &[',']);
        let (top, left) = found.ok_or_else(|| Error::bad_request("", text, why))?;
        Ok(Self { top, left })
    }
}

impl std::fmt::Display for Crop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.top, self.left)
    }
}

as_text!(Crop);

/// What one text's picture is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Told {
    /// The size of the picture that it was cut from; `None`: that of the picture.
    pub original: Option<ToldSize>,
    /// Where it was cut.
    pub crop: Option<Crop>,
    /// Its size; `None`: that of the picture.
    pub target: Option<ToldSize>,
    /// How beautiful it is, for the refiner.
    pub score: Option<f64>,
}

/// What prompt and negative prompt are told.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Micro {
    /// The prompt.
    pub prompt: Told,
    /// The negative prompt; what is left open is the prompt's, but for the score.
    pub negative: Told,
}

/// Scores that diffusers' SDXL refiner pipelines use: asked for, and to be avoided.
const AESTHETIC_SCORE: f64 = 6.0;
const NEGATIVE_AESTHETIC_SCORE: f64 = 2.5;

impl Micro {
    /// The numbers of the negative prompt, or of the prompt, for a picture of `size`: original size, crop, and target
    /// size, or for the refiner (`aesthetic`) the score.
    pub(super) fn row(&self, negative: bool, size: ImageSize, aesthetic: bool) -> Vec<f32> {
        let (own, usual) = if negative {
            (self.negative, NEGATIVE_AESTHETIC_SCORE)
        } else {
            (self.prompt, AESTHETIC_SCORE)
        };
        let whole = ToldSize { width: size.width() as u32, height: size.height() as u32 };
        let original = own.original.or(self.prompt.original).unwrap_or(whole);
        let crop = own.crop.or(self.prompt.crop).unwrap_or_default();
        let target = own.target.or(self.prompt.target).unwrap_or(whole);
        let mut row = vec![original.height, original.width, crop.top, crop.left];
        if !aesthetic {
            row.extend([target.height, target.width]);
        }
        let mut row: Vec<f32> = row.into_iter().map(|number| number as f32).collect();
        if aesthetic {
            row.push(own.score.unwrap_or(usual) as f32);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_the_pictures() {
        let size = ImageSize::new(64, 96).unwrap();
        let micro = Micro::default();
        assert_eq!(micro.row(false, size, false), [96.0, 64.0, 0.0, 0.0, 96.0, 64.0]);
        assert_eq!(micro.row(true, size, true), [96.0, 64.0, 0.0, 0.0, 2.5]);
        let prompt =
            Told { original: "32x48".parse().ok(), crop: "5,7".parse().ok(), ..Told::default() };
        let negative = Told { target: "8x16".parse().ok(), score: Some(1.0), ..Told::default() };
        let micro = Micro { prompt, negative };
        assert_eq!(micro.row(false, size, false), [48.0, 32.0, 5.0, 7.0, 96.0, 64.0]);
        assert_eq!(micro.row(true, size, false), [48.0, 32.0, 5.0, 7.0, 16.0, 8.0]);
        assert_eq!(micro.row(true, size, true), [48.0, 32.0, 5.0, 7.0, 1.0]);
    }

    #[test]
    fn texts_come_back() {
        assert_eq!("1024X768".parse::<ToldSize>().unwrap().to_string(), "1024x768");
        assert_eq!("3, 4".parse::<Crop>().unwrap().to_string(), "3,4");
        for text in ["1024", "ax2", "99999999x1", "-1x2"] {
            assert!(text.parse::<ToldSize>().is_err(), "{text}");
        }
        assert!("3x4".parse::<Crop>().is_err());
    }
}
