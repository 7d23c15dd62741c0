//! Where pictures lie: a folder, or what else can create a file that is not there yet.

use crate::atomic_file::{self, Care};
use crate::error::{Error, Result};
use crate::input;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Most bytes of a picture.
const LIMIT: u64 = 1 << 30;

/// Files by names with `/` between their parts. A folder is one ([`Folder`]); an object store is another.
///
/// Two workers may create the same name at the same moment: exactly one of them must succeed.
pub trait Storage: Debug + Send + Sync {
    /// The lengths of all pictures, by name.
    ///
    /// # Errors
    /// What listing gives.
    fn list(&self) -> Result<HashMap<String, u64>>;

    /// The length of a file; `None` when it is not there.
    ///
    /// # Errors
    /// What asking gives.
    fn length(&self, name: &str) -> Result<Option<u64>>;

    /// All bytes of a file.
    ///
    /// # Errors
    /// What reading gives.
    fn read(&self, name: &str) -> Result<Vec<u8>>;

    /// The last bytes of a file, at most `most`.
    ///
    /// # Errors
    /// What reading gives.
    fn end(&self, name: &str, most: usize) -> Result<Vec<u8>>;

    /// Creates a file, whole or not at all, and lasting when this returns.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one of this name; [`Error::Write`].
    fn create(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// As [`create`](Self::create), in the place of a file that is there.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// The file's path or address, to be shown.
    fn path(&self, name: &str) -> PathBuf;
}

/// A folder of the file system.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder `path`, which is made when it is not there.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn open(path: &Path) -> Result<Self> {
        atomic_file::make_folder(path)?;
        Ok(Self(path.to_path_buf()))
    }

    fn write(&self, name: &str, bytes: &[u8], force: bool) -> Result<()> {
        let path = self.0.join(name);
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            atomic_file::make_folder(folder)?;
        }
        atomic_file::write(&path, force, Care::Lasting, |file| {
            file.write_all(bytes).map_err(|error| Error::write(&path, error))
        })
    }

    /// Adds the pictures below `below`.
    fn collect(&self, below: &str, there: &mut HashMap<String, u64>) -> Result<()> {
        let at = self.0.join(below);
        let io = |error| Error::io(&at, error);
        for entry in std::fs::read_dir(&at).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let name = if below.is_empty() { name } else { format!("{below}/{name}") };
            let kind = entry.metadata().map_err(io)?;
            let is_picture = Path::new(&name).extension().is_some_and(|e| e == "png");
            if kind.is_file() && is_picture {
                there.insert(name, kind.len());
            } else if kind.is_dir() && below.matches('/').count() < DEPTH {
                self.collect(&name, there)?;
            }
        }
        Ok(())
    }
}

/// How deep folders of pictures are listed.
const DEPTH: usize = 4;

impl Storage for Folder {
    fn list(&self) -> Result<HashMap<String, u64>> {
        let mut there = HashMap::new();
        self.collect("", &mut there)?;
        Ok(there)
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        let path = self.0.join(name);
        match std::fs::metadata(&path) {
            Ok(kind) if kind.is_file() => Ok(Some(kind.len())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(path, error)),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        input::bytes(&self.0.join(name), LIMIT, "a picture")
    }

    fn end(&self, name: &str, most: usize) -> Result<Vec<u8>> {
        let path = self.0.join(name);
        let io = |error| Error::io(&path, error);
        let mut file = input::open(&path)?;
        let length = file.metadata().map_err(io)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most as u64))).map_err(io)?;
        let mut end = Vec::new();
        file.take(most as u64).read_to_end(&mut end).map_err(io)?;
        Ok(end)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, false)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, true)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_creates_a_name_once() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::open(&folder.path().join("out")).unwrap();
        assert!(storage.list().unwrap().is_empty());
        assert_eq!(storage.length("ab/x.png").unwrap(), None);
        storage.create("ab/x.png", b"first").unwrap();
        assert!(matches!(storage.create("ab/x.png", b"other"), Err(Error::Exists { .. })));
        assert_eq!(storage.read("ab/x.png").unwrap(), b"first");
        assert_eq!(storage.end("ab/x.png", 2).unwrap(), b"st");
        assert_eq!(storage.end("ab/x.png", 20).unwrap(), b"first");
        storage.replace("ab/x.png", b"second").unwrap();
        std::fs::write(storage.path("plan.json"), "").unwrap();
        std::fs::write(storage.path(".hidden.png"), "").unwrap();
        let there = storage.list().unwrap();
        assert_eq!((there.len(), there["ab/x.png"]), (1, 6));
    }
}
