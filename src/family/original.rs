//! A single file by the names of the original code, whatever training has put around them.

use crate::error::{Error, Result};
use crate::weights::names::{OriginalNames, Part, Place};
use crate::weights::{Checkpoint, CheckpointFile, Site, TensorInfo};
use std::path::Path;

/// A weight file whose tensors have the names of the original code.
#[derive(Debug)]
pub(super) struct Original<'a> {
    /// The file, with its own names.
    pub(super) file: &'a CheckpointFile,
    names: OriginalNames,
}

impl<'a> Original<'a> {
    pub(super) fn new(file: &'a CheckpointFile) -> Self {
        Self { file, names: OriginalNames::of(file.names()) }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Where the UNet lies.
    pub(super) fn place(&self) -> &Place {
        self.names.place()
    }

    /// All names, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter()
    }

    /// All names, for a loop that fills a checkpoint.
    pub(super) fn owned_names(&self) -> Vec<String> {
        self.names().map(str::to_owned).collect()
    }

    /// Whether a name begins so.
    pub(super) fn has(&self, start: &str) -> bool {
        self.names().any(|name| name.starts_with(start))
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.file.info(self.names.stored(name)?)
    }

    /// The numbers of a small tensor.
    pub(super) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        const MOST: usize = 64;
        let Some(stored) = self.names.stored(name) else { return Ok(None) };
        let count = self.file.info(stored).map_or(0, |info| info.shape.iter().product());
        if count > MOST {
            let why = format!("`{name}` has {count} numbers; expected {MOST} at most");
            return Err(Error::corrupt(self.path(), why));
        }
        let numbers = self.file.read_f32(stored, None)?;
        Ok(Some(numbers.into_iter().map(f64::from).collect()))
    }

    /// Adds `part` of the tensor `name` to `checkpoint`.
    pub(super) fn insert(
        &self,
        checkpoint: &mut Checkpoint,
        site: Site,
        name: &str,
        part: Part,
    ) -> Result<()> {
        checkpoint.insert(site, self.file, self.names.stored(name).unwrap_or(name), part)
    }
}
