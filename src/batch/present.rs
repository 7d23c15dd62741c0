//! Which pictures of a list are there already. One listing of the folder tells it, not a question for every job.

use super::check::Ready;
use super::manifest::{Entry, Status};
use crate::app::record;
use crate::error::{Error, Result};
use crate::input;
use crate::pipeline::Cancel;
use crate::store::sha256;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Jobs above which pictures lie in folders of their own, by the first two letters of their names.
const FLAT: usize = 10_000;
/// The end of every whole PNG: the chunk IEND and its sum.
const END: [u8; 8] = [b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];

/// What there is of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Absent,
    /// All of it, and the log says so.
    Done,
    /// All of it, but the log says nothing: a crash came between the two.
    Unlogged {
        /// The SHA-256 of the file.
        sha256: String,
        /// Its length.
        bytes: u64,
    },
    /// A file that is cut short or, when it was looked at, has other contents than the log says.
    Damaged,
}

/// The folder of a list's pictures.
#[derive(Debug)]
pub struct Pictures {
    folder: PathBuf,
    nested: bool,
    /// Length of each picture by its place below the folder.
    there: HashMap<PathBuf, u64>,
}

impl Pictures {
    /// Lists the pictures in `folder` for a list of `jobs` jobs.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that cannot be listed; one that is not there has no pictures.
    pub fn list(folder: &Path, jobs: usize) -> Result<Self> {
        let mut there = HashMap::new();
        if folder.exists() {
            collect(folder, Path::new(""), &mut there)?;
        }
        Ok(Self { folder: folder.to_path_buf(), nested: jobs > FLAT, there })
    }

    /// The place of a job's picture below the folder; where it lies when it is there already.
    pub fn place(&self, id: &str) -> PathBuf {
        let flat = PathBuf::from(format!("{id}.png"));
        let prefix: String = id.chars().take(2).collect();
        let nested = Path::new(&prefix).join(&flat);
        match (self.there.contains_key(&flat), self.there.contains_key(&nested)) {
            (true, _) => flat,
            (_, true) => nested,
            _ if self.nested => nested,
            _ => flat,
        }
    }

    /// The file of a job's picture.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.join(self.place(id))
    }

    /// What there is of the picture of `job`; `verify`: whether its contents are compared with the log's.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when another picture has the name that the user gave to the job; what reading gives.
    pub fn look(&self, job: &Ready, entry: Option<&Entry>, verify: bool) -> Result<Presence> {
        let Some(length) = self.there.get(&self.place(&job.id)).copied() else {
            return Ok(Presence::Absent);
        };
        let path = self.path(&job.id);
        if !is_whole(&path)? {
            return Ok(Presence::Damaged);
        }
        if job.named && !is_of(&path, job) {
            let why = format!("{} is another picture; choose another id or folder", path.display());
            return Err(Error::bad_request("id", &job.id, why));
        }
        let entry = entry.filter(|entry| entry.status == Status::Done && entry.sha256.is_some());
        let Some(entry) = entry else {
            return Ok(Presence::Unlogged {
                sha256: sha256(&path, &Cancel::new())?,
                bytes: length,
            });
        };
        let same_length = entry.bytes.is_none_or(|bytes| bytes == length);
        if !same_length || verify && entry.sha256.as_ref() != Some(&sha256(&path, &Cancel::new())?)
        {
            return Ok(Presence::Damaged);
        }
        Ok(Presence::Done)
    }
}

/// Whether the file ends as a PNG does.
fn is_whole(path: &Path) -> Result<bool> {
    let io = |error| Error::io(path, error);
    let mut file = input::open(path)?;
    if file.metadata().map_err(io)?.len() < END.len() as u64 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-(END.len() as i64))).map_err(io)?;
    let mut end = [0; END.len()];
    file.read_exact(&mut end).map_err(io)?;
    Ok(end == END)
}

/// Whether the record in a picture is that of `job`.
fn is_of(path: &Path, job: &Ready) -> bool {
    record::read(path).is_ok_and(|record| {
        record.request == job.plan.request_for(0) && record.made_with == Some(job.job.choice())
    })
}

/// Adds the pictures in `folder` and in the folders of two letters in it.
fn collect(folder: &Path, below: &Path, there: &mut HashMap<PathBuf, u64>) -> Result<()> {
    let at = folder.join(below);
    let io = |error| Error::io(&at, error);
    for entry in std::fs::read_dir(&at).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = PathBuf::from(entry.file_name());
        let kind = entry.metadata().map_err(io)?;
        if kind.is_file() && name.extension().is_some_and(|extension| extension == "png") {
            there.insert(below.join(name), kind.len());
        } else if kind.is_dir() && below.as_os_str().is_empty() && name.as_os_str().len() == 2 {
            collect(folder, &name, there)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_flat_and_nested() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("abc.png"), "").unwrap();
        std::fs::create_dir(folder.path().join("de")).unwrap();
        std::fs::write(folder.path().join("de/def.png"), "").unwrap();
        let few = Pictures::list(folder.path(), 3).unwrap();
        let many = Pictures::list(folder.path(), FLAT + 1).unwrap();
        for list in [&few, &many] {
            assert_eq!(list.place("abc"), Path::new("abc.png"));
            assert_eq!(list.place("def"), Path::new("de/def.png"));
        }
        assert_eq!(few.place("xyz"), Path::new("xyz.png"));
        assert_eq!(many.place("xyz"), Path::new("xy/xyz.png"));
        assert!(Pictures::list(&folder.path().join("none"), 1).unwrap().there.is_empty());
    }

    #[test]
    fn a_whole_png_has_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        for (bytes, whole) in
            [(&b""[..], false), (b"IEND", false), (b"..IEND\xae\x42\x60\x82", true)]
        {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(is_whole(&path).unwrap(), whole);
        }
    }
}
