//! The pictures of a gallery as one picture with labels.

use super::gallery::{Gallery, Legend, Shown, replace};
use super::table::LETTERS;
use crate::error::Result;
use crate::picture::sheet::{Cell, Sheet, webp};
use crate::picture::{Parameters, Picture, png};
use std::path::{Path, PathBuf};

/// How grids are drawn.
#[derive(Debug, Clone, Default)]
pub struct GridOptions {
    /// Whether there is a WebP file beside each PNG.
    pub webp: bool,
    /// Pictures beside each other in a gallery without axes; `None`: about as many as below each other.
    pub columns: Option<usize>,
    /// Longest side that a cell is made smaller to, in pixels.
    pub cell: Option<usize>,
    /// The settings of the first picture, as programs exchange them; `None`: none are written.
    pub parameters: Option<Parameters>,
}

/// A grid that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Its file.
    pub path: PathBuf,
    /// How much its cells were made smaller; 1 = not at all.
    pub scale: f64,
}

/// The cells of one grid.
struct Page<'a> {
    columns: usize,
    /// By rows, full rows of them.
    cells: Vec<Option<&'a Shown>>,
}

impl Gallery {
    /// Draws the gallery into `NAME.png`, one file for each value of the third axis (`NAME-1.png`, …); files that are
    /// there are replaced.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) for too many pictures; what writing gives. Pictures that cannot be read
    /// are grey fields.
    pub fn draw(&self, folder: &Path, name: &str, options: &GridOptions) -> Result<Vec<Written>> {
        let pages = self.side(2);
        let mut written = Vec::new();
        for page in 0..pages {
            let of_page = self.cells_of(page, options.columns);
            let sheet = self.sheet(page, &of_page, options.cell);
            let scale = sheet.scale()?;
            let grid = sheet.draw(&mut |number| {
                let shown = of_page.cells.get(number).copied().flatten();
                Ok(shown.map_or(Cell::Empty, |shown| cell(folder, shown)))
            })?;
            let stem = if pages == 1 { name.to_owned() } else { format!("{name}-{}", page + 1) };
            let texts = png::Texts { parameters: self.parameters(options), colora: None };
            let path = folder.join(format!("{stem}.png"));
            replace(&path, &png::encode(&grid, &texts)?)?;
            written.push(Written { path, scale });
            if options.webp {
                let path = folder.join(format!("{stem}.webp"));
                replace(&path, &webp(&grid)?)?;
                written.push(Written { path, scale });
            }
        }
        Ok(written)
    }

    /// The cells of the page `page`; `columns` for a gallery without axes.
    fn cells_of(&self, page: usize, columns: Option<usize>) -> Page<'_> {
        if self.axes.is_empty() {
            let count = self.cells.len();
            let columns = columns.unwrap_or_else(|| (count as f64).sqrt().ceil() as usize);
            let columns = columns.clamp(1, count.max(1));
            let full = count.div_ceil(columns) * columns;
            let cells = (0..full).map(|number| self.cells.get(number)).collect();
            return Page { columns, cells };
        }
        let (columns, rows) = (self.side(0), self.side(1));
        let first = page * rows * columns;
        let cells = (first..first + rows * columns).map(|number| self.cells.get(number)).collect();
        Page { columns, cells }
    }

    /// The words and sizes of a page; `most`: the longest side of a picture.
    fn sheet(&self, page: usize, of_page: &Page<'_>, most: Option<usize>) -> Sheet {
        let Page { columns, cells } = of_page;
        let labels = |axis: usize| self.axes.get(axis).map_or(&[][..], |axis| &axis.labels);
        // What cannot be made is as large as the others.
        let usual = cells.iter().flatten().map(|cell| (cell.width, cell.height));
        let usual = usual.filter(|size| size.0 > 0).max().unwrap_or((128, 128));
        let size = |cell: Option<&Shown>| {
            let whole = match cell {
                Some(cell) if cell.width > 0 && cell.height > 0 => (cell.width, cell.height),
                _ => usual,
            };
            most.map_or(whole, |most| within(whole.0, whole.1, most))
        };
        let columns = match labels(0) {
            [] => vec![String::new(); *columns],
            labels => labels.to_vec(),
        };
        let caption =
            |cell: Option<&Shown>| cell.map_or_else(String::new, |cell| cell.caption.clone());
        let title = labels(2).get(page).cloned();
        Sheet {
            title: title.unwrap_or_else(|| {
                if self.axes.is_empty() { self.title.clone() } else { String::new() }
            }),
            columns,
            rows: labels(1).to_vec(),
            captions: if self.axes.is_empty() {
                cells.iter().copied().map(caption).collect()
            } else {
                Vec::new()
            },
            sizes: cells.iter().copied().map(size).collect(),
        }
    }

    /// The settings of the first picture and the axes, as AUTOMATIC1111 writes them into its grids.
    ///
    /// # Source
    /// stable-diffusion-webui 1.10 `scripts/xyz_grid.py`: `Script`, `X Type`, `X Values`, `Fixed X Values` for seeds.
    fn parameters(&self, options: &GridOptions) -> Option<String> {
        let mut parameters = options.parameters.clone()?;
        if !self.axes.is_empty() {
            parameters.push("Script", "X/Y/Z plot");
        }
        for (letter, axis) in LETTERS.iter().map(|letter| letter.to_uppercase()).zip(&self.axes) {
            parameters.push(format!("{letter} Type"), theirs(axis));
            parameters.push(format!("{letter} Values"), list(&axis.values));
            if axis.title == "Seed" && axis.values.iter().any(|value| value.starts_with('-')) {
                let fixed: Vec<String> = axis
                    .values
                    .iter()
                    .map(|value| match (value.starts_with('-'), self.seed) {
                        (true, Some(seed)) => seed.to_string(),
                        _ => value.clone(),
                    })
                    .collect();
                parameters.push(format!("Fixed {letter} Values"), list(&fixed));
            }
        }
        Some(parameters.render())
    }
}

/// The picture of a cell, or why there is none.
fn cell(folder: &Path, cell: &Shown) -> Cell {
    if let Some(error) = &cell.error {
        return Cell::Missing(error.clone());
    }
    match cell.path(folder).map(Picture::open) {
        Some(Ok(picture)) => Cell::Picture(picture),
        Some(Err(error)) => Cell::Missing(error.to_string()),
        None => Cell::Missing("not made yet".into()),
    }
}

/// A size whose longer side is at most `most`.
fn within(width: usize, height: usize, most: usize) -> (usize, usize) {
    let longest = width.max(height);
    if longest <= most {
        return (width, height);
    }
    let small = |side: usize| (side * most).div_ceil(longest).max(1);
    (small(width), small(height))
}

/// The name that AUTOMATIC1111 has for an axis, ours where it has none.
fn theirs(axis: &Legend) -> &str {
    match axis.title.as_str() {
        "CFG scale" => "CFG Scale",
        "Seed" | "Steps" | "Sampler" | "Schedule type" | "Size" | "Clip skip" | "Prompt S/R"
        | "Prompt order" | "Checkpoint name" | "VAE" | "Nothing" | "Eta" => &axis.title,
        _ => &axis.name,
    }
}

/// Values between commas; those with commas, quotes or spaces at their ends in quotes.
fn list(values: &[String]) -> String {
    let written = values.iter().map(|value| {
        if value.contains([',', '"', '\n']) || value.trim() != value {
            format!("\"{}\"", value.replace('"', "\"\""))
        } else {
            value.clone()
        }
    });
    written.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legend(title: &str, values: &[&str]) -> Legend {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let labels = values.iter().map(|value| format!("{title}: {value}")).collect();
        Legend { name: title.to_lowercase(), title: title.into(), labels, values }
    }

    /// A gallery of 2 x 3 x 2 cells, of which one failed and one is not there.
    fn gallery(folder: &Path) -> Gallery {
        let mut gallery = Gallery::new("a fox");
        gallery.seed = Some(9);
        gallery.axes = vec![
            legend("Steps", &["2", "3"]),
            legend("Seed", &["-1", "1", "2"]),
            legend("LoRA", &["a, b", "c"]),
        ];
        for number in 0..12 {
            let file = format!("{number}.png");
            let colour = [number as u8, 77, 5].repeat(32 * 32);
            Picture::new(32, 32, colour).unwrap().save(folder.join(&file), false).unwrap();
            let at = vec![number % 2, number / 2 % 3, number / 6];
            gallery.cells.push(Shown {
                at,
                file: Some(file),
                width: 32,
                height: 32,
                ..Shown::default()
            });
        }
        gallery.cells[0].error = Some("steps = 0".into());
        gallery.cells[1].file = Some("../1.png".into());
        gallery
    }

    #[test]
    fn pages_hold_their_cells_and_say_how_they_were_made() {
        let folder = tempfile::tempdir().unwrap();
        let gallery = gallery(folder.path());
        let mut parameters = Parameters { prompt: "a fox".into(), ..Parameters::default() };
        parameters.push("Steps", 2);
        parameters.push("Seed", 9);
        parameters.push("Size", "32x32");
        let options =
            GridOptions { webp: true, parameters: Some(parameters), ..GridOptions::default() };
        let written = gallery.draw(folder.path(), "sweep", &options).unwrap();
        let names: Vec<_> =
            written.iter().map(|w| w.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["sweep-1.png", "sweep-1.webp", "sweep-2.png", "sweep-2.webp"]);
        let count = |path: &Path, colour: [u8; 3]| {
            let grid = Picture::open(path).unwrap();
            grid.bytes().chunks(3).filter(|pixel| *pixel == colour).count()
        };
        for number in 0..12 {
            let expected = if number < 2 { 0 } else { 32 * 32 };
            let page = &written[2 * (number / 6)].path;
            assert_eq!(count(page, [number as u8, 77, 5]), expected, "{number}");
        }
        let texts = png::read_texts(&written[0].path).unwrap();
        let read = Parameters::parse(&texts.parameters.unwrap());
        for (name, value) in [
            ("Script", "X/Y/Z plot"),
            ("X Type", "Steps"),
            ("X Values", "2,3"),
            ("Y Type", "Seed"),
            ("Y Values", "-1,1,2"),
            ("Fixed Y Values", "9,1,2"),
            ("Z Type", "lora"),
            ("Z Values", "\"a, b\",c"),
        ] {
            assert_eq!(read.get(name), Some(value), "{name}");
        }
        assert!(
            gallery.draw(folder.path(), "sweep", &GridOptions::default()).is_ok(),
            "it is replaced"
        );
    }

    #[test]
    fn a_folder_is_a_contact_sheet() {
        let folder = tempfile::tempdir().unwrap();
        let mut gallery = gallery(folder.path());
        gallery.axes.clear();
        gallery.cells.truncate(7);
        gallery.cells.iter_mut().for_each(|cell| cell.caption = "a fox in the snow".into());
        for (columns, expected) in [(None, 3), (Some(7), 7), (Some(99), 7)] {
            let options = GridOptions { columns, cell: Some(16), ..GridOptions::default() };
            let Page { columns: found, cells } = gallery.cells_of(0, options.columns);
            assert_eq!((found, cells.len() % found), (expected, 0));
            let written = gallery.draw(folder.path(), "sheet", &options).unwrap();
            assert_eq!(written.len(), 1);
        }
    }
}
