//! Words on pictures: one font, lines that are broken at a width, nothing turned.

use crate::error::{Error, Result};
use crate::plain;
use ab_glyph::{Font, FontRef, Glyph, GlyphId, PxScale, ScaleFont, point};

/// DejaVu Sans 2.37: Latin, Greek, Cyrillic and more; its licence lies beside it.
static FONT: &[u8] = include_bytes!("DejaVuSans.ttf");
/// Characters behind which a line may be broken, beside spaces.
const BREAKS: &[char] = &[',', ';', ':', '/', '\\', '_', '-', '.', '|', '='];

/// The font at one size.
pub(super) struct Writer {
    font: FontRef<'static>,
    /// Pixels from the line above to the line below.
    size: f32,
}

/// Where a line is written.
pub(super) struct Spot {
    /// The left end, in pixels.
    pub(super) x: f32,
    /// The upper end, in pixels.
    pub(super) y: f32,
    /// Red, green and blue of the letters.
    pub(super) colour: [u8; 3],
}

impl Writer {
    /// The font with letters of `size` pixels.
    ///
    /// # Errors
    /// [`Error::Internal`] when the font that is compiled in cannot be read.
    pub(super) fn new(size: usize) -> Result<Self> {
        let font = FontRef::try_from_slice(FONT);
        let font = font.map_err(|error| Error::Internal(format!("the font: {error}")))?;
        Ok(Self { font, size: size as f32 })
    }

    /// Pixels from one line to the next.
    pub(super) fn line(&self) -> usize {
        (self.size * 1.25).ceil() as usize
    }

    fn scale(&self) -> PxScale {
        PxScale::from(self.size)
    }

    fn advance(&self, before: Option<GlyphId>, glyph: GlyphId) -> f32 {
        let font = self.font.as_scaled(self.scale());
        font.h_advance(glyph) + before.map_or(0.0, |before| font.kern(before, glyph))
    }

    /// The width of a text on one line, in pixels.
    pub(super) fn width(&self, text: &str) -> usize {
        let mut before = None;
        let mut width = 0.0;
        for c in text.chars() {
            let glyph = self.font.glyph_id(c);
            width += self.advance(before, glyph);
            before = Some(glyph);
        }
        width.ceil() as usize
    }

    /// The lines of a text, none of them wider than `width` pixels if a letter fits into it; at most `most`, the last
    /// with an ellipsis where something is left out.
    pub(super) fn lines(&self, text: &str, width: usize, most: usize) -> Vec<String> {
        let text = plain::value(text.trim());
        let mut lines = Vec::new();
        let mut line = String::new();
        for piece in pieces(&text) {
            if self.width(&(line.clone() + piece.trim_end())) <= width {
                line.push_str(piece);
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            // A piece that fits no line is broken between letters.
            for c in piece.chars() {
                if !line.is_empty()
                    && c != ' '
                    && self.width(&(line.clone() + c.encode_utf8(&mut [0; 4]))) > width
                {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
            // Nobody reads a text of thousands of lines here.
            if lines.len() > most {
                break;
            }
        }
        if !line.is_empty() {
            lines.push(line);
        }
        if lines.len() > most {
            lines.truncate(most);
            if let Some(last) = lines.last_mut() {
                while !last.is_empty() && self.width(&format!("{}…", last.trim_end())) > width {
                    last.pop();
                }
                *last = format!("{}…", last.trim_end());
            }
        }
        lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Writes one line into rows of RGB pixels, `across` in each; what lies outside is cut off.
    pub(super) fn write(&self, text: &str, spot: &Spot, pixels: &mut [u8], across: usize) {
        let font = self.font.as_scaled(self.scale());
        let mut x = spot.x;
        let mut before = None;
        for c in text.chars() {
            let id = self.font.glyph_id(c);
            x += before.map_or(0.0, |before| font.kern(before, id));
            let position = point(x, spot.y + font.ascent());
            self.glyph(
                id.with_scale_and_position(self.scale(), position),
                spot.colour,
                pixels,
                across,
            );
            x += font.h_advance(id);
            before = Some(id);
        }
    }

    fn glyph(&self, glyph: Glyph, colour: [u8; 3], pixels: &mut [u8], across: usize) {
        let Some(outline) = self.font.outline_glyph(glyph) else { return };
        let corner = outline.px_bounds().min;
        outline.draw(|x, y, cover| {
            let (x, y) = (corner.x as i64 + i64::from(x), corner.y as i64 + i64::from(y));
            let inside = usize::try_from(x).ok().filter(|x| *x < across);
            let Some(at) = inside.zip(usize::try_from(y).ok()).map(|(x, y)| 3 * (y * across + x))
            else {
                return;
            };
            let cover = cover.clamp(0.0, 1.0);
            for (pixel, colour) in pixels.iter_mut().skip(at).take(3).zip(colour) {
                let (from, to) = (f32::from(*pixel), f32::from(colour));
                *pixel = (from + (to - from) * cover).round() as u8;
            }
        });
    }
}

/// The pieces of a text between which a line may be broken; spaces belong to the piece before them.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(|c: char| c == ' ' || BREAKS.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_they_may_be() {
        let writer = Writer::new(14).unwrap();
        let text =
            "a red fox in the snow, masterpiece, averyveryverylongwordwithoutanyspace, Ж Ω é";
        for width in [40, 80, 200, 2000] {
            let lines = writer.lines(text, width, 100);
            assert!(lines.iter().all(|line| writer.width(line) <= width), "{width}: {lines:?}");
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            assert_eq!(letters(&lines.concat()), letters(text), "nothing is lost");
        }
        assert_eq!(writer.lines(text, 2000, 100).len(), 1);
        let cut = writer.lines(text, 80, 2);
        assert!(cut.len() == 2 && cut[1].ends_with('…') && writer.width(&cut[1]) <= 80, "{cut:?}");
        assert_eq!(writer.lines("a\nb\u{202e}", 200, 9), ["a\\nb\\u{202e}"]);
        assert!(writer.lines("", 10, 3).is_empty());
        assert!(writer.lines("wide", 1, 9).len() == 4);
    }

    #[test]
    fn letters_of_every_script_of_the_font_are_drawn_inside() {
        let writer = Writer::new(20).unwrap();
        let mut pixels = vec![255; 3 * 60 * 30];
        let spot = Spot { x: -4.0, y: -3.0, colour: [0, 0, 0] };
        writer.write("Aж猫 wide wide wide", &spot, &mut pixels, 60);
        assert!(pixels.contains(&0));
        assert!(pixels.contains(&255));
    }
}
