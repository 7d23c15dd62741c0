//! From a picture file to the texts in it.

use super::embedded::{Embedded, Place};
use super::{exif, png, unreadable};
use crate::error::{Error, InFile, Result};
use crate::input;
use image::{ImageDecoder, ImageFormat, ImageReader};
use std::io::BufReader;
use std::path::Path;

/// Longest XMP that is read, in bytes.
const MAX_XMP: usize = 4 << 20;

/// The texts of a PNG, JPEG or WebP file; the content decides which it is, not the name. Pixels are not decoded.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Corrupt`] when it is none of these, or when a text does
/// not inflate to at most [`MAX_READ`](png::MAX_READ) bytes.
pub fn read_texts(path: impl AsRef<Path>) -> Result<Embedded> {
    let path = path.as_ref();
    let reader = ImageReader::new(BufReader::new(input::open(path)?));
    let reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
    match reader.format() {
        Some(ImageFormat::Png) => png::texts(path).in_file(path),
        Some(ImageFormat::Jpeg | ImageFormat::WebP) => {
            let mut decoder = reader.into_decoder().map_err(|e| unreadable(path, e))?;
            let mut found = Embedded::default();
            found.set_size(decoder.dimensions());
            if let Some(block) = decoder.exif_metadata().map_err(|e| unreadable(path, e))? {
                exif::read(block, &mut found);
            }
            let xmp = decoder.xmp_metadata().map_err(|e| unreadable(path, e))?;
            if let Some(xmp) = xmp.filter(|xmp| xmp.len() <= MAX_XMP) {
                found.put(Place::Xmp, String::from_utf8_lossy(&xmp).into_owned());
            }
            Ok(found)
        }
        _ => Err(Error::corrupt(path, "expected a PNG, JPEG or WebP picture")),
    }
}
