//! Where a pipeline finds the adapters that requests name.
//!
//! Floor 5.

use crate::error::{Error, Result};
use crate::lora::AdapterFile;
use std::path::Path;

/// An adapter that a shelf found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The opened file.
    pub file: AdapterFile,
    /// The weight that its author recommends, for requests that name none.
    pub weight: Option<f32>,
}

/// Where a pipeline finds the adapters that requests name.
pub trait Shelf: Send + Sync + std::fmt::Debug {
    /// The adapter called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what opening the file gives.
    fn adapter(&self, name: &str) -> Result<Found>;
}

/// A shelf for which every name is a path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paths;

impl Shelf for Paths {
    fn adapter(&self, name: &str) -> Result<Found> {
        if !Path::new(name).exists() {
            let hint = "; expected the path of a file or folder".to_owned();
            return Err(Error::NotFound { what: "LoRA", name: name.to_owned(), hint, how: None });
        }
        Ok(Found { file: AdapterFile::open(name)?, weight: None })
    }
}
