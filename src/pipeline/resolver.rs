//! Where a pipeline finds the adapters that requests name.

use crate::error::{Error, Result};
use crate::lora::AdapterFile;
use std::path::{Path, PathBuf};

/// An adapter that a resolver found.
#[derive(Debug, Clone)]
pub struct ResolvedLora {
    /// The opened file.
    pub file: AdapterFile,
    /// The weight that its author recommends, for requests that name none.
    pub weight: Option<f32>,
}

/// Where a pipeline finds the adapters that requests name.
pub trait LoraResolver: Send + Sync + std::fmt::Debug {
    /// The adapter called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or what opening the file gives.
    fn resolve(&self, name: &str) -> Result<ResolvedLora>;

    /// The words of textual inversions that prompts may call, with their files.
    fn embeddings(&self) -> Vec<(String, PathBuf)> {
        Vec::new()
    }
}

/// A resolver for which every name is a path.
#[derive(Debug, Clone, Copy, Default)]
pub struct PathResolver;

impl LoraResolver for PathResolver {
    fn resolve(&self, name: &str) -> Result<ResolvedLora> {
        if !Path::new(name).exists() {
            let hint = "; expected the path of a file or folder".to_owned();
            return Err(Error::NotFound { what: "LoRA", name: name.to_owned(), hint, how: None });
        }
        Ok(ResolvedLora { file: AdapterFile::open(name)?, weight: None })
    }
}
