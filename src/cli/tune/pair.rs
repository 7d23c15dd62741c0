//! Two stacks side by side in one picture.

use crate::error::Result;
use crate::picture::Picture;
use crate::picture::sheet::{Cell, Sheet};
use crate::tune::Question;
use std::path::Path;

/// The pictures of both stacks, a row for each of `rows`, under 1 and 2: weights would sway who chooses.
///
/// # Errors
/// What reading the pictures gives, and as [`Sheet::draw`].
pub(super) fn pair(question: &Question, rows: &[String]) -> Result<Picture> {
    let (first, second) = (&question.first.pictures, &question.second.pictures);
    let files: Vec<&Path> = first.iter().zip(second).flat_map(|(a, b)| [&**a, &**b]).collect();
    let pictures = files.iter().map(Picture::open).collect::<Result<Vec<_>>>()?;
    let sheet = Sheet {
        columns: vec!["1".to_owned(), "2".to_owned()],
        rows: rows.to_vec(),
        sizes: pictures.iter().map(|picture| (picture.width(), picture.height())).collect(),
        ..Sheet::default()
    };
    let mut pictures = pictures.into_iter();
    sheet.draw(&mut |_| Ok(pictures.next().map_or(Cell::Empty, Cell::Picture)))
}
