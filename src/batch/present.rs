//! Which pictures of a list are there already. One listing tells it, not a question for every job.

use super::manifest::{Logged, Status};
use super::names::Names;
use super::ready::Ready;
use super::storage::Storage;
use crate::app::record;
use crate::error::{Error, Result};
use crate::plain::hex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The end of every whole PNG: the chunk IEND and its sum.
const END: [u8; 8] = [b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];

/// What there is of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Absent,
    /// All of it, and the log says so.
    Done,
    /// All of it, but the log says nothing: a crash came between the two, or another program made it.
    Unlogged {
        /// The SHA-256 of the file.
        sha256: String,
        /// Its length.
        bytes: u64,
    },
    /// A file that is cut short or, when it was looked at, has other contents than the log says.
    Damaged,
}

/// The pictures of a list, where they lie.
#[derive(Debug)]
pub struct Pictures {
    storage: Arc<dyn Storage>,
    names: Names,
    /// The length of each picture by its name.
    there: HashMap<String, u64>,
}

impl Pictures {
    /// Lists the pictures in `storage`.
    ///
    /// # Errors
    /// What listing gives.
    pub fn list(storage: Arc<dyn Storage>, names: Names) -> Result<Self> {
        let there = storage.list()?;
        Ok(Self { storage, names, there })
    }

    /// The name of a job's picture; that of the file that is there already, when there is one.
    pub fn name(&self, job: &Ready) -> String {
        let (name, other) = self.names.of(job);
        match other.filter(|other| self.there.contains_key(other)) {
            Some(other) if !self.there.contains_key(&name) => other,
            _ => name,
        }
    }

    /// The file of a job's picture, to be shown.
    pub fn path(&self, job: &Ready) -> PathBuf {
        self.storage.path(&self.name(job))
    }

    /// Where the pictures lie.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// What there is of the picture of `job` by the listing; `verify`: whether its contents are compared with the
    /// log's.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when another picture has the name of the job's; what reading gives.
    pub fn look(&self, job: &Ready, logged: Option<&Logged>, verify: bool) -> Result<Presence> {
        match self.there.get(&self.name(job)) {
            None => Ok(Presence::Absent),
            Some(length) => self.look_at(job, *length, logged, verify),
        }
    }

    /// As [`look`](Self::look), but asks for this one now: another worker may have made it since the listing.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub fn look_again(&mut self, job: &Ready, logged: Option<&Logged>) -> Result<Presence> {
        let name = self.name(job);
        let Some(length) = self.storage.length(&name)? else {
            self.there.remove(&name);
            return Ok(Presence::Absent);
        };
        self.there.insert(name, length);
        self.look_at(job, length, logged, false)
    }

    fn look_at(
        &self,
        job: &Ready,
        length: u64,
        logged: Option<&Logged>,
        verify: bool,
    ) -> Result<Presence> {
        let name = self.name(job);
        if self.storage.end(&name, END.len())? != END {
            return Ok(Presence::Damaged);
        }
        let logged = logged.filter(|logged| logged.status == Status::Done);
        let logged = logged.filter(|logged| logged.sha256.is_some() && is_of(logged, job));
        let Some(logged) = logged else {
            let bytes = self.storage.read(&name)?;
            // A name that comes from the contents, and nothing else, says what the picture is.
            let own = !job.is_named() && self.names.are_ids();
            if !own && record::job_in(&bytes).as_deref() != Some(&*job.content) {
                let path = self.storage.path(&name);
                let why =
                    format!("{} is another picture; choose another id or folder", path.display());
                return Err(Error::bad_request("id", &job.id, why));
            }
            let sha256 = hex(&Sha256::digest(&bytes));
            return Ok(Presence::Unlogged { sha256, bytes: bytes.len() as u64 });
        };
        let same_length = logged.bytes.is_none_or(|bytes| bytes == length);
        let is_same = || -> Result<bool> {
            let sha256 = hex(&Sha256::digest(self.storage.read(&name)?));
            Ok(logged.sha256.as_deref() == Some(&sha256))
        };
        if same_length && (!verify || is_same()?) {
            Ok(Presence::Done)
        } else {
            Ok(Presence::Damaged)
        }
    }
}

/// Whether a line of the log is about this job, not about another of its name.
fn is_of(logged: &Logged, job: &Ready) -> bool {
    let content = logged.content.as_deref();
    content.is_none_or(|content| content == job.content) && content.is_some() == job.is_named()
}

#[cfg(test)]
mod tests {
    use super::super::storage::Folder;
    use super::*;

    #[test]
    fn pictures_are_found_flat_and_nested() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("abc.png"), "").unwrap();
        std::fs::create_dir(folder.path().join("de")).unwrap();
        std::fs::write(folder.path().join("de/def.png"), "").unwrap();
        let list = |jobs: usize| {
            let storage = Folder::open(folder.path()).unwrap();
            Pictures::list(Arc::new(storage), Names::of_ids(jobs)).unwrap()
        };
        let named = |id: &str| Ready { id: id.into(), ..Ready::sample(1, "", "", 64) };
        let (few, many) = (list(3), list(10_001));
        for list in [&few, &many] {
            assert_eq!(list.name(&named("abc")), "abc.png");
            assert_eq!(list.name(&named("def")), "de/def.png");
        }
        assert_eq!(few.name(&named("xyz")), "xyz.png");
        assert_eq!(many.name(&named("xyz")), "xy/xyz.png");
    }

    #[test]
    fn a_whole_png_has_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Folder::open(folder.path()).unwrap();
        let job = Ready::sample(7, "", "", 64);
        for (bytes, whole) in
            [(&b""[..], false), (b"IEND", false), (b"..IEND\xae\x42\x60\x82", true)]
        {
            std::fs::write(folder.path().join("7.png"), bytes).unwrap();
            let mut list = Pictures::list(Arc::new(storage.clone()), Names::of_ids(1)).unwrap();
            let found = list.look(&job, None, false).unwrap();
            assert_eq!(found != Presence::Damaged, whole);
            assert_eq!(list.look_again(&job, None).unwrap(), found);
        }
    }
}
