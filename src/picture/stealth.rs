//! Texts that are hidden in the lowest bits of pixels, as NovelAI and "stealth pnginfo" write them.
//!
//! The bits go down the columns, from the left: of alpha alone, or of red, green and blue. First comes a word that
//! names the kind, then the number of bits of the text in 32 bits, then the text, UTF-8, perhaps gzipped.

use super::open_image;
use super::png::MAX_READ;
use crate::error::Result;
use flate2::read::GzDecoder;
use image::DynamicImage;
use std::io::Read;
use std::path::Path;

/// Length of the word that names the kind.
const WORD: usize = 15;

/// The text that is hidden in the pixels of the picture `path`; `None` when there is none, or it is broken.
///
/// # Errors
/// What decoding the picture gives.
pub fn hidden_text(path: &Path) -> Result<Option<String>> {
    let image = open_image(path)?;
    let alpha = image.color().has_alpha();
    Ok(alpha.then(|| in_alpha(&image)).flatten().or_else(|| in_colours(&image)))
}

fn in_alpha(image: &DynamicImage) -> Option<String> {
    let image = image.to_rgba8();
    let (width, height) = image.dimensions();
    let pixels = (0..width).flat_map(|x| (0..height).map(move |y| (x, y)));
    let mut bits = pixels.map(|(x, y)| image.get_pixel(x, y).0[3] & 1);
    text(&mut bits, [b"stealth_pnginfo", b"stealth_pngcomp"])
}

fn in_colours(image: &DynamicImage) -> Option<String> {
    let image = image.to_rgb8();
    let (width, height) = image.dimensions();
    let pixels = (0..width).flat_map(|x| (0..height).map(move |y| (x, y)));
    let mut bits = pixels.flat_map(|(x, y)| image.get_pixel(x, y).0.map(|byte| byte & 1));
    text(&mut bits, [b"stealth_rgbinfo", b"stealth_rgbcomp"])
}

/// The text of `bits`, whose first word must be one of `words`: for a plain text and for a gzipped one.
fn text(bits: &mut dyn Iterator<Item = u8>, words: [&[u8; WORD]; 2]) -> Option<String> {
    let word = bytes(bits, WORD)?;
    let kind = words.iter().position(|known| known[..] == word[..])?;
    let length = bytes(bits, 4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize / 8;
    let text = bytes(bits, Some(length).filter(|length| *length <= MAX_READ)?)?;
    if kind == 0 {
        return String::from_utf8(text).ok();
    }
    let mut inflated = Vec::new();
    GzDecoder::new(&text[..]).take(MAX_READ as u64 + 1).read_to_end(&mut inflated).ok()?;
    String::from_utf8(inflated).ok().filter(|text| text.len() <= MAX_READ)
}

/// So many bytes, the highest bit of each first; `None` when there are fewer.
fn bytes(bits: &mut dyn Iterator<Item = u8>, count: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let mut byte = 0;
        for _ in 0..8 {
            byte = byte << 1 | bits.next()?;
        }
        bytes.push(byte);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn bits(kind: &[u8], text: &[u8]) -> Vec<u8> {
        let length = (text.len() as u32 * 8).to_be_bytes();
        let all = [kind, &length, text].concat();
        all.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect()
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn texts_in_bits_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        let text = r#"{"Comment": "猫"}"#;
        let in_alpha = |bits: &[u8]| {
            let place = |x: u32, y: u32| bits.get((x * 40 + y) as usize).copied().unwrap_or(1);
            let pixel = |x, y| image::Rgba([9, 9, 9, 0xfe | place(x, y)]);
            image::RgbaImage::from_fn(40, 40, pixel).save(&path).unwrap();
            hidden_text(&path).unwrap()
        };
        let plain = bits(b"stealth_pnginfo", text.as_bytes());
        assert_eq!(in_alpha(&plain).as_deref(), Some(text));
        assert_eq!(in_alpha(&bits(b"stealth_pngcomp", &gzip(text))).as_deref(), Some(text));
        assert_eq!(in_alpha(&bits(b"stealth_pngcomp", b"no gzip")), None);
        assert_eq!(in_alpha(&bits(b"stealth_pnginfo", &[0xff])), None);
        let mut cut = plain.clone();
        cut[15 * 8] = 1;
        assert_eq!(in_alpha(&cut), None, "longer than the picture");
        assert_eq!(in_alpha(&[]), None);
        let rgb = bits(b"stealth_rgbinfo", text.as_bytes());
        let place = |x: u32, y: u32, c: u32| rgb.get(((x * 40 + y) * 3 + c) as usize).copied();
        let byte = |x, y, c| 8 | place(x, y, c).unwrap_or_default();
        let pixel = |x, y| image::Rgb([byte(x, y, 0), byte(x, y, 1), byte(x, y, 2)]);
        image::RgbImage::from_fn(40, 40, pixel).save(&path).unwrap();
        assert_eq!(hidden_text(&path).unwrap().as_deref(), Some(text));
    }

    /// A short gzip stream that would fill the memory.
    #[test]
    fn what_inflates_too_far_is_no_text() {
        let bomb = gzip(&"x".repeat(MAX_READ + 1));
        let mut bits = bits(b"stealth_pngcomp", &bomb).into_iter();
        assert_eq!(super::text(&mut bits, [b"stealth_pnginfo", b"stealth_pngcomp"]), None);
    }
}
