//! Where everything on a sheet stands.

use super::text::Writer;
use super::{MAX_PIXELS, MAX_SIDE, Sheet};
use crate::error::{Error, Result};

/// Smallest and largest letters, in pixels; between them a letter is a part of a cell.
const LETTERS: (usize, usize) = (14, 48);
const PART: usize = 24;
/// Smallest cell that pictures are shrunk to, in pixels of the longer side.
const LEAST: f64 = 16.0;
/// Most lines above a column or beside a row, and below a cell.
const MOST_LINES: usize = 12;
const MOST_CAPTION: usize = 4;
/// Letters that at least fit beside each other in a column, and at most beside a row.
const NARROW: usize = 6;
const WIDE: usize = 16;

/// A field for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// Lines of words, one below the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) x: usize,
    pub(super) y: usize,
    /// The room that they stand in.
    pub(super) width: usize,
    pub(super) lines: Vec<String>,
    /// Whether each line stands in the middle of the room.
    pub(super) centred: bool,
}

/// The places of everything.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) width: usize,
    pub(super) height: usize,
    /// The height of letters.
    pub(super) letters: usize,
    /// How much pictures are shrunk.
    pub(super) scale: f64,
    /// By rows.
    pub(super) cells: Vec<Frame>,
    pub(super) words: Vec<Words>,
}

impl Layout {
    /// The layout with the largest cells that fit into the limits.
    pub(super) fn fitting(sheet: &Sheet) -> Result<Self> {
        let columns = sheet.columns.len();
        let rows = sheet.sizes.len().checked_div(columns).unwrap_or(0);
        if rows == 0 || rows * columns != sheet.sizes.len() {
            let why = "expected at least one column and full rows of pictures";
            return Err(Error::bad_request("sheet", sheet.sizes.len(), why));
        }
        let longest = sheet.sizes.iter().map(|(w, h)| *w.max(h)).max().unwrap_or(1).max(1);
        let mut scale = 1.0;
        loop {
            let layout = Self::scaled(sheet, columns, scale)?;
            let pixels = layout.width.saturating_mul(layout.height);
            let over = (pixels as f64 / MAX_PIXELS as f64).sqrt();
            let over = over.max(layout.width.max(layout.height) as f64 / MAX_SIDE as f64);
            if over <= 1.0 {
                return Ok(layout);
            }
            if longest as f64 * scale <= LEAST {
                let (what, allowed) = ("pixels of a sheet", MAX_PIXELS as u64);
                return Err(Error::Limit { what, allowed, asked: pixels as u64 });
            }
            scale = (scale / over.max(1.02)).max(LEAST / longest as f64);
        }
    }

    fn scaled(sheet: &Sheet, columns: usize, scale: f64) -> Result<Self> {
        let small = |side: usize| ((side as f64 * scale).round() as usize).max(1);
        let sizes: Vec<(usize, usize)> =
            sheet.sizes.iter().map(|(width, height)| (small(*width), small(*height))).collect();
        let cell = sizes.iter().map(|(width, _)| *width).max().unwrap_or(1);
        let letters = (cell / PART).clamp(LETTERS.0, LETTERS.1);
        let writer = Writer::new(letters)?;
        let gap = (letters / 2).max(4);
        let widest = |column: usize| {
            let widths = sizes.iter().skip(column).step_by(columns).map(|(width, _)| *width);
            widths.max().unwrap_or(1).max(NARROW * letters)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let side = beside(sheet, &writer, letters, cell);
        let left = if side == 0 { gap } else { side + 2 * gap };
        let width = left + widths.iter().map(|width| width + gap).sum::<usize>();
        let mut layout =
            Self { width, height: gap, letters, scale, cells: Vec::new(), words: Vec::new() };
        layout.title(sheet, &writer, gap);
        layout.heads(sheet, &writer, &widths, left, gap);
        for (row, sizes) in sizes.chunks(columns).enumerate() {
            let height = sizes.iter().map(|(_, height)| *height).max().unwrap_or(1);
            let top = layout.height;
            let mut x = left;
            let mut below = 0;
            for (column, (size, room)) in sizes.iter().zip(&widths).enumerate() {
                let (width, own) = *size;
                let at = x + (room - width) / 2;
                layout.cells.push(Frame { x: at, y: top, width, height: own });
                if let Some(caption) = sheet.captions.get(row * columns + column) {
                    let lines = writer.lines(caption, *room, MOST_CAPTION);
                    below = below.max(lines.len() * writer.line());
                    let y = top + height + gap / 2;
                    layout.words.push(Words { x, y, width: *room, lines, centred: true });
                }
                x += room + gap;
            }
            let lines = sheet.rows.get(row).map(|label| writer.lines(label, side, MOST_LINES));
            let lines = lines.unwrap_or_default();
            let own = lines.len() * writer.line();
            let y = top + height.saturating_sub(own) / 2;
            layout.words.push(Words { x: gap, y, width: side, lines, centred: false });
            let below = if below == 0 { 0 } else { below + gap / 2 };
            layout.height = top + (height + below).max(own) + gap;
        }
        Ok(layout)
    }

    /// The words above everything.
    fn title(&mut self, sheet: &Sheet, writer: &Writer, gap: usize) {
        let width = self.width.saturating_sub(2 * gap);
        let lines = writer.lines(&sheet.title, width, MOST_LINES);
        if !lines.is_empty() {
            let (y, high) = (self.height, lines.len() * writer.line());
            self.words.push(Words { x: gap, y, width, lines, centred: true });
            self.height = y + high + gap;
        }
    }

    /// The words above the columns.
    fn heads(&mut self, sheet: &Sheet, writer: &Writer, widths: &[usize], left: usize, gap: usize) {
        let (y, mut x, mut high) = (self.height, left, 0);
        for (label, room) in sheet.columns.iter().zip(widths) {
            let lines = writer.lines(label, *room, MOST_LINES);
            high = high.max(lines.len() * writer.line());
            self.words.push(Words { x, y, width: *room, lines, centred: true });
            x += room + gap;
        }
        if high > 0 {
            self.height = y + high + gap;
        }
    }
}

/// The width of the words beside the rows: what the longest takes, up to a cell or some letters.
fn beside(sheet: &Sheet, writer: &Writer, letters: usize, cell: usize) -> usize {
    let longest = sheet.rows.iter().map(|label| writer.width(label.trim())).max().unwrap_or(0);
    longest.min(cell.max(WIDE * letters))
}
