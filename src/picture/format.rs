//! The formats in which pictures are written.

use super::{Picture, Texts, exif, png};
use crate::error::{Error, Result};
use image::codecs::{jpeg::JpegEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder};
use std::path::Path;

/// The quality of JPEG, 1 to 100: differences are hardly seen.
const QUALITY: u8 = 95;
/// Bytes of EXIF that a JPEG file holds: a segment, without its length and its mark.
const MOST_EXIF: usize = 65_535 - 2 - 6;

/// A format of picture files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Without loss.
    #[default]
    Png,
    /// With loss, the quality 95 of 100.
    Jpeg,
    /// Without loss.
    WebP,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::WebP];

    /// The extensions that mean it, the usual one first.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Png => &["png"],
            Self::Jpeg => &["jpg", "jpeg"],
            Self::WebP => &["webp"],
        }
    }

    /// The format that the extension of `path` means, in any case; `None` for another one.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_lowercase();
        Self::ALL.into_iter().find(|format| format.extensions().contains(&&*extension))
    }

    /// The bytes of a file with the pixels of `picture` and with `texts`.
    ///
    /// PNG keeps texts in chunks, see [`png::encode`]; JPEG and WebP in EXIF.
    ///
    /// # Errors
    /// [`Error::Limit`] for texts that the format does not hold: a JPEG file has room for 64 KB.
    pub fn encode(self, picture: &Picture, texts: &Texts) -> Result<Vec<u8>> {
        self.check(texts)?;
        let mut bytes = Vec::new();
        match self {
            Self::Png => return png::encode(picture, texts),
            Self::Jpeg => {
                write(JpegEncoder::new_with_quality(&mut bytes, QUALITY), picture, texts)?;
            }
            Self::WebP => write(WebPEncoder::new_lossless(&mut bytes), picture, texts)?,
        }
        Ok(bytes)
    }

    /// Refuses texts that the format does not hold.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn check(self, texts: &Texts) -> Result<()> {
        if self == Self::Png {
            return Ok(());
        }
        let (what, allowed) = match self {
            Self::Jpeg => ("bytes of settings in a JPEG file", MOST_EXIF),
            _ => ("bytes of settings in a WebP file", png::MAX_TEXT),
        };
        let asked = exif::block(texts).len();
        if asked <= allowed {
            return Ok(());
        }
        Err(Error::Limit { what, allowed: allowed as u64, asked: asked as u64 })
    }
}

fn write(mut encoder: impl ImageEncoder, picture: &Picture, texts: &Texts) -> Result<()> {
    let internal = |error: &dyn std::fmt::Display| {
        Error::Internal(format!("a picture file could not be encoded: {error}"))
    };
    if *texts != Texts::default() {
        encoder.set_exif_metadata(exif::block(texts)).map_err(|e| internal(&e))?;
    }
    let side = |pixels: usize| u32::try_from(pixels).map_err(|_| internal(&pixels));
    let (width, height) = (side(picture.width())?, side(picture.height())?);
    let pixels = picture.bytes();
    encoder.write_image(pixels, width, height, ExtendedColorType::Rgb8).map_err(|e| internal(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Place, read_texts};

    #[test]
    fn every_format_carries_texts_and_pixels() {
        let picture = Picture::new(24, 16, (0..24 * 16 * 3).map(|i| (i / 9) as u8).collect());
        let picture = picture.unwrap();
        let texts = Texts {
            parameters: Some("a café, 猫\nSteps: 1".into()),
            colora: Some("{\"prompt\":\"猫 😀\"}".into()),
        };
        let folder = tempfile::tempdir().unwrap();
        for format in Format::ALL {
            let path = folder.path().join(format!("x.{}", format.extensions()[0]));
            assert_eq!(Format::of(&path), Some(format));
            std::fs::write(&path, format.encode(&picture, &texts).unwrap()).unwrap();
            let found = read_texts(&path).unwrap();
            let parameters = found.keyword("parameters").or(found.get(&Place::UserComment));
            assert_eq!(parameters, texts.parameters.as_deref(), "{format:?}");
            assert_eq!(found.get(&Place::Colora), texts.colora.as_deref(), "{format:?}");
            assert_eq!(found.size(), Some((24, 16)));
            let pixels = Picture::open(&path).unwrap();
            let bare = format.encode(&picture, &Texts::default()).unwrap();
            std::fs::write(&path, bare).unwrap();
            assert_eq!(Picture::open(&path).unwrap(), pixels, "texts change no pixel");
            assert!(read_texts(&path).unwrap().is_empty());
            if format != Format::Jpeg {
                assert_eq!(pixels, picture, "{format:?}");
            }
        }
    }

    #[test]
    fn a_jpeg_file_holds_64_kilobytes() {
        let texts = |n: usize| Texts { parameters: None, colora: Some("x".repeat(n)) };
        let picture = Picture::new(8, 8, vec![9; 192]).unwrap();
        assert!(matches!(Format::Jpeg.encode(&picture, &texts(65_535)), Err(Error::Limit { .. })));
        assert!(Format::Jpeg.encode(&picture, &texts(65_000)).is_ok());
        assert!(Format::WebP.encode(&picture, &texts(200_000)).is_ok());
    }
}
