//! Pictures side by side with their labels: grids of a sweep, contact sheets of a folder.
//!
//! A [`Sheet`] holds the words and the sizes; [`Sheet::draw`] asks for one picture after the other, so that a sheet of
//! thousands needs no more memory than its own pixels.

mod layout;
mod text;

use super::Picture;
use crate::error::{Error, Result};
use crate::room;
use image::ExtendedColorType;
use image::codecs::webp::WebPEncoder;
use layout::Layout;
use text::{Spot, Writer};

/// Most pixels of a sheet, as of AUTOMATIC1111's grids.
pub const MAX_PIXELS: usize = 200_000_000;
/// Longest side of a sheet: WebP's.
pub const MAX_SIDE: usize = 16_383;

/// White, in every channel.
const PAPER: u8 = 255;
const INK: [u8; 3] = [17, 17, 17];
/// Behind the words of a picture that is missing.
const GREY: [u8; 3] = [208, 208, 208];

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// A picture.
    Picture(Picture),
    /// A picture that is not there, and why.
    Missing(String),
    /// Nothing.
    Empty,
}

/// Pictures in rows and columns.
///
/// # Examples
/// ```
/// use colora::picture::Picture;
/// use colora::picture::sheet::{Cell, Sheet};
///
/// let sheet = Sheet {
///     title: String::new(),
///     columns: vec!["Steps: 2".into(), "Steps: 4".into()],
///     rows: vec!["a fox".into()],
///     captions: Vec::new(),
///     sizes: vec![(64, 64); 2],
/// };
/// let grid = sheet.draw(&mut |cell| {
///     Ok(Cell::Picture(Picture::new(64, 64, vec![cell as u8 * 100; 3 * 64 * 64])?))
/// })?;
/// assert!(grid.width() > 128 && grid.height() > 64);
/// # Ok::<(), colora::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sheet {
    /// Words above everything; empty for none.
    pub title: String,
    /// Words above each column.
    pub columns: Vec<String>,
    /// Words left of each row.
    pub rows: Vec<String>,
    /// Words below each cell, by rows; none for a sheet without.
    pub captions: Vec<String>,
    /// Width and height of the picture of each cell, by rows.
    pub sizes: Vec<(usize, usize)>,
}

impl Sheet {
    /// How much cells are made smaller so that the sheet stays within its limits; 1 = not at all.
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    pub fn scale(&self) -> Result<f64> {
        Ok(Layout::fitting(self)?.scale)
    }

    /// Draws the sheet; `open` gives what stands in a cell, counted by rows from 0.
    ///
    /// # Errors
    /// [`Error::Limit`] for a sheet that is too large even with the smallest cells, what `open` gives.
    pub fn draw(&self, open: &mut dyn FnMut(usize) -> Result<Cell>) -> Result<Picture> {
        let layout = Layout::fitting(self)?;
        let writer = Writer::new(layout.letters)?;
        let (width, height) = (layout.width, layout.height);
        let mut pixels = room::reserve(3 * width * height, "a sheet of pictures")?;
        pixels.resize(3 * width * height, PAPER);
        let mut canvas = Canvas { writer, pixels, width, height };
        layout.words.iter().for_each(|words| canvas.words(words));
        for (number, frame) in layout.cells.iter().enumerate() {
            match open(number)? {
                Cell::Empty => {}
                Cell::Picture(picture) => {
                    let (wide, high) = (frame.width.max(1), frame.height.max(1));
                    if (picture.width(), picture.height()) == (wide, high) {
                        canvas.picture(&picture, frame.x, frame.y);
                    } else {
                        canvas.picture(&picture.stretched(wide, high)?, frame.x, frame.y);
                    }
                }
                Cell::Missing(why) => canvas.missing(&why, frame),
            }
        }
        Ok(Picture { width, height, bytes: canvas.pixels })
    }
}

/// The bytes of a lossless WebP file.
///
/// # Errors
/// [`Error::Limit`] for a side that WebP cannot hold.
pub fn webp(picture: &Picture) -> Result<Vec<u8>> {
    let longest = picture.width().max(picture.height());
    if longest > MAX_SIDE {
        let (what, allowed) = ("side of a WebP picture", MAX_SIDE as u64);
        return Err(Error::Limit { what, allowed, asked: longest as u64 });
    }
    let mut bytes = Vec::new();
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    let encoder = WebPEncoder::new_lossless(&mut bytes);
    let done = encoder.encode(picture.bytes(), width, height, ExtendedColorType::Rgb8);
    done.map_err(|error| Error::Internal(format!("a WebP picture: {error}")))?;
    Ok(bytes)
}

impl Picture {
    /// The picture at another size, which need not be one that models make.
    fn stretched(&self, width: usize, height: usize) -> Result<Self> {
        let pixels =
            image::RgbImage::from_raw(self.width as u32, self.height as u32, self.bytes.clone());
        let pixels =
            pixels.ok_or_else(|| Error::Internal("a picture with too few bytes".into()))?;
        let filter = image::imageops::FilterType::Triangle;
        let pixels = image::imageops::resize(&pixels, width as u32, height as u32, filter);
        Ok(Self { width, height, bytes: pixels.into_raw() })
    }
}

/// The pixels of a sheet.
struct Canvas {
    writer: Writer,
    pixels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Canvas {
    /// Writes lines one below the other.
    fn words(&mut self, words: &layout::Words) {
        for (number, line) in words.lines.iter().enumerate() {
            let wide = self.writer.width(line);
            let x = if words.centred {
                words.x + words.width.saturating_sub(wide) / 2
            } else {
                words.x
            };
            let y = words.y + number * self.writer.line();
            let spot = Spot { x: x as f32, y: y as f32, colour: INK };
            self.writer.write(line, &spot, &mut self.pixels, self.width);
        }
    }

    fn picture(&mut self, picture: &Picture, x: usize, y: usize) {
        let wide = picture.width().min(self.width.saturating_sub(x));
        for row in 0..picture.height().min(self.height.saturating_sub(y)) {
            let from = 3 * row * picture.width();
            let to = 3 * ((y + row) * self.width + x);
            self.pixels[to..to + 3 * wide].copy_from_slice(&picture.bytes()[from..from + 3 * wide]);
        }
    }

    /// A grey field with the first words of what went wrong.
    fn missing(&mut self, why: &str, frame: &layout::Frame) {
        let grey = GREY.repeat(frame.width * frame.height);
        let field = Picture { width: frame.width, height: frame.height, bytes: grey };
        self.picture(&field, frame.x, frame.y);
        let inner = frame.width.saturating_sub(8);
        let most = frame.height.saturating_sub(8) / self.writer.line().max(1);
        if most == 0 {
            return;
        }
        let lines = self.writer.lines(why, inner, most);
        let (x, y) = (frame.x + 4, frame.y + 4);
        self.words(&layout::Words { x, y, width: inner, lines, centred: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::png;

    fn sheet(columns: usize, rows: usize, side: usize) -> Sheet {
        Sheet {
            title: "Seed: 7".into(),
            columns: (0..columns).map(|n| format!("Steps: {n}")).collect(),
            rows: (0..rows)
                .map(|n| format!("a very long prompt about a fox, number {n}"))
                .collect(),
            captions: Vec::new(),
            sizes: vec![(side, side); columns * rows],
        }
    }

    fn flat(side: usize, colour: [u8; 3]) -> Picture {
        Picture::new(side, side, colour.repeat(side * side)).unwrap()
    }

    fn count(picture: &Picture, colour: [u8; 3]) -> usize {
        picture.bytes().chunks(3).filter(|pixel| *pixel == colour).count()
    }

    #[test]
    fn every_pixel_of_every_picture_is_there() {
        for (side, columns, rows) in [(16, 3, 2), (64, 2, 2), (512, 2, 1)] {
            let sheet = sheet(columns, rows, side);
            let colour = |cell: usize| [cell as u8, 200, 3];
            let grid = sheet.draw(&mut |cell| Ok(Cell::Picture(flat(side, colour(cell))))).unwrap();
            for cell in 0..columns * rows {
                assert_eq!(count(&grid, colour(cell)), side * side, "{side}: {cell}");
            }
            assert!(count(&grid, INK) > 20, "there are words");
            assert_eq!(sheet.scale().unwrap(), 1.0);
        }
    }

    #[test]
    fn missing_pictures_are_grey_and_say_why() {
        let sheet = Sheet { captions: vec!["one".into(); 4], ..sheet(2, 2, 128) };
        let grid = sheet
            .draw(&mut |cell| {
                Ok(match cell {
                    0 => Cell::Missing("steps = 0: at least 1 is needed".into()),
                    1 => Cell::Empty,
                    _ => Cell::Picture(flat(64, [1, 2, 3])),
                })
            })
            .unwrap();
        let grey = count(&grid, GREY);
        assert!((128 * 100..128 * 128).contains(&grey), "{grey}");
        assert_eq!(
            count(&grid, [1, 2, 3]),
            2 * 128 * 128,
            "pictures of another size are stretched"
        );
    }

    #[test]
    fn large_sheets_get_smaller_cells() {
        let large = sheet(40, 40, 1024);
        let scale = large.scale().unwrap();
        assert!(scale < 0.4, "{scale}");
        let layout = Layout::fitting(&large).unwrap();
        assert!(layout.width * layout.height <= MAX_PIXELS);
        assert!(layout.width.max(layout.height) <= MAX_SIDE);
        assert!(matches!(sheet(1, 9000, 8).scale(), Err(Error::Limit { .. })));
        assert!(matches!(Sheet::default().scale(), Err(Error::BadRequest { .. })));
    }

    #[test]
    fn sheets_are_files_that_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let sheet = sheet(2, 2, 32);
        let grid = sheet.draw(&mut |_| Ok(Cell::Picture(flat(32, [9, 9, 9])))).unwrap();
        for (name, bytes) in [
            ("a.png", png::encode(&grid, &png::Texts::default()).unwrap()),
            ("a.webp", webp(&grid).unwrap()),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Picture::open(&path).unwrap(), grid, "{name}");
        }
        let long = Picture { width: MAX_SIDE + 1, height: 1, bytes: vec![0; 3 * (MAX_SIDE + 1)] };
        assert!(webp(&long).is_err());
    }
}
