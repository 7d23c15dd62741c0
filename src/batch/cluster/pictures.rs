//! The pictures of a list in a shared place: each under the name of its job, never replaced by another.

use super::objects::{Objects, Owner, Patient};
use crate::batch::storage::Storage;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A shared place as [`Work`](crate::batch::Work) needs it.
#[derive(Debug, Clone)]
pub struct SharedPictures {
    objects: Arc<Patient<dyn Objects>>,
    is_out_of_reach: Arc<AtomicBool>,
}

impl SharedPictures {
    /// The pictures in a shared place.
    pub fn new(objects: Arc<Patient<dyn Objects>>) -> Self {
        Self { objects, is_out_of_reach: Arc::default() }
    }

    /// Whether a picture could not be written since this was last asked, although that was tried for a while.
    pub(super) fn was_out_of_reach(&self) -> bool {
        self.is_out_of_reach.swap(false, Ordering::Relaxed)
    }
}

impl Storage for SharedPictures {
    fn list(&self) -> Result<HashMap<String, u64>> {
        let is_picture = |name: &str| Path::new(name).extension().is_some_and(|e| e == "png");
        let items = self.objects.list("")?.into_iter().filter(|item| is_picture(&item.name));
        Ok(items.map(|item| (item.name, item.bytes)).collect())
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        self.objects.length(name)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let gone = || Error::io(self.path(name), std::io::ErrorKind::NotFound.into());
        self.objects.get(name)?.ok_or_else(gone)
    }

    fn end(&self, name: &str, most: usize) -> Result<Vec<u8>> {
        let bytes = self.read(name)?;
        Ok(bytes.get(bytes.len().saturating_sub(most)..).unwrap_or_default().to_vec())
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<()> {
        match self.objects.create(name, bytes) {
            Ok(Owner::Us) => Ok(()),
            Ok(Owner::Other(_)) => Err(Error::Exists { path: self.path(name) }),
            Err(error) => {
                self.is_out_of_reach.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.objects.put(name, bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.objects.title(name).into()
    }
}
