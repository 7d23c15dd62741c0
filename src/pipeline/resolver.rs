//! Where a pipeline finds the adapters that requests name.

use super::Pipeline;
use crate::error::{Error, Result};
use crate::lora::AdapterFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// The file or folder of the model called `name`, which a request asks for beside its own: a refiner. Every name is
    /// a path unless the resolver knows better.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn model(&self, name: &str) -> Result<PathBuf> {
        if Path::new(name).exists() {
            return Ok(PathBuf::from(name));
        }
        let hint = "; expected the path of a file or folder".to_owned();
        Err(Error::NotFound { what: "model", name: name.to_owned(), hint, how: None })
    }
}

/// Opens the model of a path.
type Open = dyn Fn(&Path) -> Result<Pipeline> + Send + Sync;

/// Opens another model as a pipeline's own was opened.
#[derive(Clone)]
pub(super) struct Opener(pub(super) Arc<Open>);

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
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
