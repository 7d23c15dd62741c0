//! Weights that are NaN or infinite: looked for when something came out wrong, not while files are opened.

use super::{Checkpoint, CheckpointFile};
use crate::error::Result;
use crate::weights::{Component, TensorInfo, WeightSource};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor with numbers that are NaN or infinite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFinite {
    /// The file that holds it.
    pub path: PathBuf,
    /// Its name in the file.
    pub tensor: String,
    /// How many of its numbers are NaN or infinite.
    pub count: usize,
    /// How many numbers it has.
    pub of: usize,
    /// How many more tensors of the component are like that.
    pub others: usize,
}

impl Checkpoint {
    /// The first tensor of `component` with numbers that are NaN or infinite; every weight is read for it.
    ///
    /// # Errors
    /// What reading the files gives.
    pub fn not_finite(&self, component: Component) -> Result<Option<NotFinite>> {
        // Fused projections are several weights in one tensor.
        let mut found: BTreeMap<(&Path, &str), (usize, usize)> = BTreeMap::new();
        for (site, piece) in self.pieces.iter().filter(|(site, _)| site.component() == component) {
            let count = piece.numbers()?.iter().filter(|value| !value.is_finite()).count();
            self.forget(site);
            if count > 0 {
                let all = piece.file.info(&piece.name).map_or(0, TensorInfo::elements);
                let tensor = found.entry((piece.file.path(), &piece.name)).or_default();
                *tensor = (tensor.0 + count, all);
            }
        }
        let others = found.len().saturating_sub(1);
        let first = found.into_iter().next();
        Ok(first.map(|((path, tensor), (count, of))| NotFinite {
            path: path.to_path_buf(),
            tensor: tensor.to_owned(),
            count,
            of,
            others,
        }))
    }

    /// A file of `component` that was written to since it was opened: what was read may be parts of two files.
    pub fn rewritten(&self, component: Component) -> Option<&Path> {
        let pieces = self.pieces.iter().filter(|(site, _)| site.component() == component);
        let mut last = None;
        let mut files = pieces.map(|(_, piece)| &piece.file).filter(|file| {
            // Neighbours lie in one file as a rule.
            last.replace(file.path()) != Some(file.path())
        });
        files.find(|file| file.was_rewritten()).map(CheckpointFile::path)
    }
}
