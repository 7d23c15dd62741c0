//! A place that all workers share: a folder, or a bucket of an object store. It needs to do little: make an object if
//! none has the name, replace one, read one, list names.

use super::chance;
use crate::error::{Error, Result};
use std::fmt::Debug;
use std::io::ErrorKind;
use std::time::Duration;

/// How often an act is tried that fails.
const TRIES: u32 = 8;
/// The wait before the second try; each other one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);

/// What came of making an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It is there now.
    Made,
    /// The place says that something has the name already. It may be what an earlier try made whose answer was lost.
    Taken,
}

/// An object's name and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name, with `/` between its parts.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The acts of a shared place. Names are parts of letters, digits, `.`, `_` and `-` with `/` between them.
pub trait Objects: Debug + Send + Sync {
    /// Makes an object, unless one has the name.
    ///
    /// # Errors
    /// When nobody knows whether it was made.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Creation>;

    /// Makes or replaces an object.
    ///
    /// # Errors
    /// What writing gives.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// The contents of an object, if there is one.
    ///
    /// # Errors
    /// What reading gives.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// The length of an object, if there is one.
    ///
    /// # Errors
    /// What asking gives.
    fn length(&self, name: &str) -> Result<Option<u64>>;

    /// The objects whose names begin with the folder `below`, which is empty or ends in `/`, also those in folders below it.
    ///
    /// # Errors
    /// What listing gives.
    fn list(&self, below: &str) -> Result<Vec<Item>>;

    /// What the user calls the object.
    fn title(&self, name: &str) -> String;
}

/// Who has a name after an attempt to take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The object holds what this worker wrote.
    Us,
    /// Another object with these contents.
    Other(Vec<u8>),
}

/// A shared place whose acts are tried again when they fail.
#[derive(Debug)]
pub struct Patient<O: ?Sized> {
    /// The wait before the second try.
    pub pause: Duration,
    objects: Box<O>,
}

impl Patient<dyn Objects> {
    /// The place `objects`.
    pub fn new(objects: Box<dyn Objects>) -> Self {
        Self { pause: PAUSE, objects }
    }

    /// Makes an object, and finds out whose it is: an answer may be lost after the object was made, and some stores
    /// answer "taken" while another write to the name is at work that comes to nothing.
    ///
    /// # Errors
    /// What the last try gives.
    pub fn create(&self, name: &str, bytes: &[u8]) -> Result<Owner> {
        self.patiently(|| {
            if self.objects.create(name, bytes)? == Creation::Made {
                return Ok(Some(Owner::Us));
            }
            let there = self.objects.get(name)?;
            Ok(there.map(|there| if there == bytes { Owner::Us } else { Owner::Other(there) }))
        })
    }

    /// Makes or replaces an object.
    ///
    /// # Errors
    /// What the last try gives.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.patiently(|| self.objects.put(name, bytes).map(Some))
    }

    /// The contents of an object, if there is one.
    ///
    /// # Errors
    /// What the last try gives.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.patiently(|| self.objects.get(name).map(Some))
    }

    /// The length of an object, if there is one.
    ///
    /// # Errors
    /// What the last try gives.
    pub fn length(&self, name: &str) -> Result<Option<u64>> {
        self.patiently(|| self.objects.length(name).map(Some))
    }

    /// The objects below a folder.
    ///
    /// # Errors
    /// What the last try gives.
    pub fn list(&self, below: &str) -> Result<Vec<Item>> {
        self.patiently(|| self.objects.list(below).map(Some))
    }

    /// What the user calls the object.
    pub fn title(&self, name: &str) -> String {
        self.objects.title(name)
    }

    /// Tries an act until it gives something.
    fn patiently<T>(&self, act: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let mut pause = self.pause;
        for _ in 1..TRIES {
            match act() {
                Ok(Some(done)) => return Ok(done),
                Err(error) if is_lasting(&error) => return Err(error),
                _ => {}
            }
            std::thread::sleep(pause.mul_f64(0.5 + chance::share()));
            pause *= 2;
        }
        act()?.ok_or_else(|| Error::Internal("a store has a name for nothing".into()))
    }
}

/// Whether another try would fail as well.
fn is_lasting(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } | Error::Write { source, .. } => matches!(
            source.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::NotFound
                | ErrorKind::Unsupported
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::ReadOnlyFilesystem
        ),
        _ => true,
    }
}
