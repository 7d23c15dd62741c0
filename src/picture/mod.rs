//! Pictures: between tensors in -1..1 and files of 8-bit pixels.
//!
//! A [`Picture`] does not depend on latents, models or requests. The settings that a file holds
//! are text here ([`Texts`], [`Embedded`], [`Parameters`]); the pipeline interprets them.
//!
//! Floor 1.

mod embedded;
mod exif;
mod find_texts;
mod format;
mod metadata;
pub mod png;
pub mod sheet;
mod stealth;
mod texts;

pub use embedded::{Embedded, Place};
pub use find_texts::read_texts;
pub use format::Format;
pub use metadata::Parameters;
pub use stealth::hidden_text;
pub use texts::Texts;

use crate::error::{Error, InFile, Result};
use crate::input;
use crate::room;
use crate::size::{ImageSize, MAX_SIDE};
use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use std::io::BufReader;
use std::path::Path;

/// Bytes that a decoder may allocate: the longest sides with four channels of 16 bits, twice.
const MAX_MEMORY: u64 = 2 * 8 * (MAX_SIDE * MAX_SIDE) as u64;

/// An RGB picture of 8 bits a channel, row by row from the top left.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Picture {
    /// A picture from its pixels.
    ///
    /// `width`, `height`: pixels, 1 to [`MAX_SIDE`]; no multiple of 8 is asked for.
    /// `bytes`: red, green, blue of each pixel, rows from the top, `3 · width · height` bytes.
    ///
    /// # Errors
    /// [`Error::Limit`] for a side that is too long, [`Error::BadRequest`] for one that is zero or
    /// for a number of bytes that does not fit.
    pub fn new(width: usize, height: usize, bytes: Vec<u8>) -> Result<Self> {
        for (field, side) in [("width", width), ("height", height)] {
            if side == 0 {
                return Err(Error::bad_request(field, side, "a picture has at least one pixel"));
            }
            check_side(side)?;
        }
        if bytes.len() != 3 * width * height {
            let why = format!("expected {} for {width}x{height} RGB", 3 * width * height);
            return Err(Error::bad_request("bytes", bytes.len(), why));
        }
        Ok(Self { width, height, bytes })
    }

    /// The picture that a decoder put into a tensor.
    ///
    /// `image`: [3, H, W] or [1, 3, H, W], any float dtype, in -1..1 (what lies outside is clamped),
    /// on any device.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the tensor holds NaN or infinity: a weight is none, or the network overflowed.
    /// [`Error::Internal`] for another shape, [`Error::Limit`] for a side over [`MAX_SIDE`],
    /// [`Error::Tensor`] when it cannot be copied from its device.
    ///
    /// # Source
    /// diffusers 0.42 `VaeImageProcessor` (`denormalize`, `pt_to_numpy`, `numpy_to_pil`): clamp,
    /// times 255 in f32, round half to even.
    pub fn from_tensor(image: &Tensor) -> Result<Self> {
        Self::with_bytes(image, rounded)
    }

    /// As [`from_tensor`](Self::from_tensor), with the digits of bytes cut off instead of rounded.
    ///
    /// # Errors
    /// As [`from_tensor`](Self::from_tensor).
    ///
    /// # Source
    /// A1111 1.10, `modules/processing.py`; ComfyUI 0.3.64, `nodes.py`, `SaveImage`.
    pub fn from_tensor_truncated(image: &Tensor) -> Result<Self> {
        Self::with_bytes(image, truncated)
    }

    fn with_bytes(image: &Tensor, byte: fn(f32) -> u8) -> Result<Self> {
        let (height, width) = match *image.dims() {
            [3, height, width] | [1, 3, height, width] => (height, width),
            ref other => {
                let why = format!("a picture has shape [3, H, W] or [1, 3, H, W], not {other:?}");
                return Err(Error::Internal(why));
            }
        };
        let planes = image.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let planes = planes.to_vec1::<f32>()?; // [3·H·W]
        let count = planes.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(Error::NotFinite { count, of: planes.len() });
        }
        Self::new(width, height, interleave(&planes, width * height, byte)?)
    }

    /// The picture as a network takes it: [1, 3, H, W], f32, in -1..1, on `device`.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the device cannot hold it.
    ///
    /// # Source
    /// diffusers 0.42 `VaeImageProcessor.preprocess`: `2 · (x / 255) - 1` in f32.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let value = |&byte: &u8| 2.0 * (f32::from(byte) / 255.0) - 1.0;
        let planes: Vec<f32> = (0..3)
            .flat_map(|channel| self.bytes.iter().skip(channel).step_by(3).map(value))
            .collect();
        Ok(Tensor::from_vec(planes, (1, 3, self.height, self.width), device)?)
    }

    /// Reads a PNG, JPEG or WebP file; the content decides, not the name.
    ///
    /// The orientation that a camera noted is applied. Transparency is dropped (not blended), 16-bit
    /// channels are narrowed, grey becomes RGB and colour profiles are ignored.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Limit`] for a side over [`MAX_SIDE`],
    /// [`Error::Corrupt`] for anything that does not decode.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of_image(open_image(path)?, path)
    }

    /// As [`open`](Self::open), from the bytes of a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn decode(bytes: Vec<u8>) -> Result<Self> {
        let path = Path::new("a picture in memory");
        Self::of_image(decode(std::io::Cursor::new(bytes), path)?, path)
    }

    fn of_image(image: DynamicImage, path: &Path) -> Result<Self> {
        let image = image.into_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self::new(width, height, image.into_raw())
            .map_err(|e| Error::corrupt(path, format!("not a usable picture: {e}")))
    }

    /// Width and height of a PNG, JPEG or WebP file, without decoding its pixels.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn size_of(path: impl AsRef<Path>) -> Result<(usize, usize)> {
        let path = path.as_ref();
        let reader = ImageReader::new(BufReader::new(input::open(path)?));
        let reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
        let (width, height) = reader.into_dimensions().map_err(|e| unreadable(path, e))?;
        check_side(width.max(height) as usize).in_file(path)?;
        Ok((width as usize, height as usize))
    }

    /// The picture stretched to `size` with a Lanczos filter of three lobes.
    ///
    /// # Errors
    /// [`Error::Internal`] when the pixels do not fit the size, which [`Picture::new`] excludes.
    pub fn resize(&self, size: ImageSize) -> Result<Self> {
        if (size.width(), size.height()) == (self.width, self.height) {
            return Ok(self.clone());
        }
        let side = |pixels: usize| {
            u32::try_from(pixels).map_err(|_| Error::Internal(format!("a side of {pixels} pixels")))
        };
        let pixels =
            image::RgbImage::from_raw(side(self.width)?, side(self.height)?, self.bytes.clone())
                .ok_or_else(|| Error::Internal("a picture with too few bytes".into()))?;
        let filter = image::imageops::FilterType::Lanczos3;
        let pixels =
            image::imageops::resize(&pixels, side(size.width())?, side(size.height())?, filter);
        Self::new(size.width(), size.height(), pixels.into_raw())
    }

    /// Writes a PNG file without settings, whole or not at all.
    ///
    /// # Errors
    /// As [`png::save`]: [`Error::Exists`] for a file that is there, unless `force`.
    pub fn save(&self, path: impl AsRef<Path>, force: bool) -> Result<()> {
        png::save(&png::encode(self, &png::Texts::default())?, path, force)
    }

    /// Pixels across.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Red, green, blue of each pixel, rows from the top: `3 · width · height` bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

/// The format of a picture file by its content; `None` for one that is not read.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn format_of(path: &Path) -> Result<Option<Format>> {
    let reader = ImageReader::new(BufReader::new(input::open(path)?));
    let reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
    Ok(match reader.format() {
        Some(image::ImageFormat::Png) => Some(Format::Png),
        Some(image::ImageFormat::Jpeg) => Some(Format::Jpeg),
        Some(image::ImageFormat::WebP) => Some(Format::WebP),
        _ => None,
    })
}

/// The pixels of a PNG, JPEG or WebP file, as a camera held it, with their transparency.
fn open_image(path: &Path) -> Result<DynamicImage> {
    decode(BufReader::new(input::open(path)?), path)
}

fn decode(source: impl std::io::BufRead + std::io::Seek, path: &Path) -> Result<DynamicImage> {
    let reader = ImageReader::new(source);
    let mut reader = reader.with_guessed_format().map_err(|e| Error::io(path, e))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| unreadable(path, e))?;
    let (width, height) = decoder.dimensions();
    check_side(width.max(height) as usize).in_file(path)?;
    let orientation = decoder.orientation().map_err(|e| unreadable(path, e))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e))?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn check_side(side: usize) -> Result<()> {
    if side <= MAX_SIDE {
        return Ok(());
    }
    Err(Error::Limit {
        what: "picture side in pixels",
        allowed: MAX_SIDE as u64,
        asked: side as u64,
    })
}

/// The byte of a value in -1..1, as diffusers rounds it.
fn rounded(x: f32) -> u8 {
    ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// The byte of a value in -1..1, as A1111 and ComfyUI cut its digits off.
fn truncated(x: f32) -> u8 {
    ((0.5 * (x + 1.0)).clamp(0.0, 1.0) * 255.0) as u8
}

/// Three planes of `area` values in -1..1 to bytes, pixel by pixel.
fn interleave(planes: &[f32], area: usize, byte: fn(f32) -> u8) -> Result<Vec<u8>> {
    let (red, rest) = planes.split_at(area.min(planes.len()));
    let (green, blue) = rest.split_at(area.min(rest.len()));
    let pixels = red.iter().zip(green).zip(blue);
    let mut bytes = room::reserve(3 * area, "a picture")?;
    bytes.extend(pixels.flat_map(|((&r, &g), &b)| [byte(r), byte(g), byte(b)]));
    Ok(bytes)
}

/// Says of a file that the decoder gave up on whether the disk or the content is to blame.
fn unreadable(path: &Path, error: ImageError) -> Error {
    match error {
        ImageError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::io(path, e)
        }
        ImageError::Unsupported(_) => {
            Error::corrupt(path, "expected a PNG, JPEG or WebP picture, found something else")
        }
        other => Error::corrupt(path, format!("the picture does not decode: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: usize, height: usize) -> Picture {
        let bytes = (0..3 * width * height).map(|i| (i * 7 % 256) as u8).collect();
        Picture::new(width, height, bytes).unwrap()
    }

    #[test]
    fn tensors_and_pixels_are_inverse() {
        let picture = gradient(24, 16);
        let tensor = picture.to_tensor(&Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [1, 3, 16, 24]);
        assert_eq!(Picture::from_tensor(&tensor).unwrap(), picture);
        assert_eq!(Picture::from_tensor(&tensor.squeeze(0).unwrap()).unwrap(), picture);
    }

    #[test]
    fn rounds_half_to_even_and_clamps() {
        // 64.5 and 127.5 of 255: numpy rounds to 64 and 128.
        let values = [-0.494_117_65, 0.0, 9.0, -9.0, 1.0, f32::MAX];
        let tensor = Tensor::from_slice(&values, (3, 1, 2), &Device::Cpu).unwrap();
        let picture = Picture::from_tensor(&tensor).unwrap();
        assert_eq!(picture.bytes(), [64, 255, 255, 128, 0, 255]);
    }

    /// An infinite bias of the last layer drew a white picture.
    #[test]
    fn what_is_no_number_is_no_picture() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let tensor = Tensor::full(bad, (3, 2, 2), &Device::Cpu).unwrap();
            let error = Picture::from_tensor(&tensor).unwrap_err();
            assert!(matches!(error, Error::NotFinite { count: 12, of: 12 }), "{error}");
        }
        let flat = Tensor::zeros((4, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(Picture::from_tensor(&flat), Err(Error::Internal(_))));
    }

    #[test]
    fn refuses_sizes_and_files_that_do_not_fit() {
        assert!(Picture::new(2, 2, vec![0; 11]).is_err());
        assert!(Picture::new(0, 2, vec![]).is_err());
        assert!(matches!(Picture::new(MAX_SIDE + 1, 1, vec![]), Err(Error::Limit { .. })));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        assert!(matches!(Picture::open(&path), Err(Error::Io { .. })));
        for content in [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x10JFIF"] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(Picture::open(&path), Err(Error::Corrupt { .. })), "{content:?}");
        }
        assert!(matches!(Picture::open(folder.path()), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn the_content_decides_the_format() {
        use image::ImageFormat::{Jpeg, Png, WebP};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let grey = image::RgbImage::from_pixel(6, 4, image::Rgb([90, 90, 90]));
        for format in [Jpeg, Png, WebP] {
            grey.save_with_format(&path, format).unwrap();
            assert_eq!(Picture::open(&path).unwrap().bytes(), [90; 72], "{format:?}");
        }
        let clear = image::RgbaImage::from_pixel(2, 1, image::Rgba([1, 2, 3, 0]));
        clear.save_with_format(&path, Png).unwrap();
        assert_eq!(Picture::open(&path).unwrap().bytes(), [1, 2, 3, 1, 2, 3]);
        let long = image::GrayImage::new(MAX_SIDE as u32 + 1, 1);
        long.save_with_format(&path, Png).unwrap();
        assert!(matches!(Picture::open(&path).unwrap_err().inner(), Error::Limit { .. }));
    }

    #[test]
    fn resizes_to_the_size_asked() {
        let size = ImageSize::new(8, 16).unwrap();
        let grey = Picture::new(3, 5, vec![90; 45]).unwrap().resize(size).unwrap();
        assert_eq!((grey.width(), grey.height()), (8, 16));
        assert!(grey.bytes().iter().all(|&b| b == 90));
    }
}
