//! A shared place that is a folder: on this machine, or on a network's file server.

use super::objects::{Creation, Item, Objects};
use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
use crate::input;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Most bytes of an object.
const LIMIT: u64 = 4 << 30;

/// A folder that workers share.
#[derive(Debug)]
pub struct SharedFolder(PathBuf);

impl SharedFolder {
    /// The folder `path`, which is made when it is not there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn open(path: &Path) -> Result<Self> {
        atomic_file::make_folder(path)?;
        Ok(Self(path.to_path_buf()))
    }

    fn write(&self, name: &str, force: bool, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            atomic_file::make_folder(folder)?;
        }
        let care = if force { Care::Usual } else { Care::Lasting };
        atomic_file::write(&path, force, care, |file| {
            file.write_all(bytes).map_err(|error| Error::write(&path, error))
        })
    }

    fn collect(&self, below: &Path, items: &mut Vec<Item>) -> Result<()> {
        let at = self.0.join(below);
        let io = |error| Error::io(&at, error);
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        };
        for entry in entries {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            // Files at work have hidden names, and may be gone by now.
            let Some(text) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let Ok(kind) = entry.metadata() else { continue };
            let path = below.join(text);
            if kind.is_dir() {
                self.collect(&path, items)?;
            } else if kind.is_file() {
                let name = path.to_string_lossy().replace('\\', "/");
                items.push(Item { name, bytes: kind.len() });
            }
        }
        Ok(())
    }
}

impl Objects for SharedFolder {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Creation> {
        match self.write(name, false, bytes) {
            Ok(()) => Ok(Creation::Made),
            Err(Error::Exists { .. }) => Ok(Creation::Taken),
            Err(error) => Err(error),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, true, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        input::bytes_if_there(&self.0.join(name), LIMIT, "an object of a batch")
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        let path = self.0.join(name);
        match std::fs::metadata(&path) {
            Ok(kind) => Ok(kind.is_file().then_some(kind.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path, error)),
        }
    }

    fn list(&self, below: &str) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        self.collect(Path::new(below), &mut items)?;
        Ok(items)
    }

    fn title(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}
