//! Files and folders that take their names together, or none of them does.

use super::list::{Act, TemporaryFile};
use super::part::{Part, hidden, rename, sync_folder};
use super::place::{Place, folder, make_folder, refuse_folder};
use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Files and folders that take their names together: on any error all that was there before is there again.
///
/// They are made in a hidden folder beside their places, under their own names, so that they can be tried
/// there. A killed program leaves at most that folder, which the next writer clears.
#[derive(Debug)]
pub(crate) struct Together {
    beside: PathBuf,
    force: bool,
    hidden: Option<(TemporaryFile, Option<File>)>,
    members: Vec<Member>,
}

/// What becomes of one name.
#[derive(Debug)]
struct Member {
    target: PathBuf,
    /// `None` when the name is to be free.
    staged: Option<PathBuf>,
}

/// What was done, and how it is undone.
#[derive(Debug)]
struct Done {
    target: PathBuf,
    staged: Option<PathBuf>,
    /// Where that lies which had the name.
    old: Option<PathBuf>,
}

impl Together {
    /// Files that will lie in the folder of `path`; with `force` they replace what is there.
    ///
    /// # Errors
    /// [`Error::Write`] when that folder cannot be made.
    pub(crate) fn beside(path: &Path, force: bool) -> Result<Self> {
        let beside = folder(path).to_path_buf();
        make_folder(&beside)?;
        super::leftovers::clear(&beside);
        Ok(Self { beside, force, hidden: None, members: Vec::new() })
    }

    /// Lets `fill` write what will be the file `target`, and returns where it lies meanwhile.
    ///
    /// # Errors
    /// [`Error::Exists`] without force, [`Error::BadRequest`] for pipes and devices, [`Error::Write`], what
    /// `fill` gives.
    pub(crate) fn file<T>(
        &mut self,
        target: &Path,
        fill: impl FnOnce(&mut File) -> Result<T>,
    ) -> Result<(PathBuf, T)> {
        self.check(target, false)?;
        let wrong = |e| Error::write(target, e);
        let mut part = Part::begin(&self.beside).map_err(wrong)?;
        let filled = fill(part.file())?;
        part.sync().map_err(wrong)?;
        let staged = self.stage(target)?;
        part.call(&staged, false).map_err(wrong)?;
        Ok((staged, filled))
    }

    /// Makes what will be `target`, a link to `to`.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub(crate) fn link(&mut self, target: &Path, to: &Path) -> Result<()> {
        self.check(target, false)?;
        let staged = self.stage(target)?;
        symlink(to, &staged).map_err(|e| Error::write(target, e))
    }

    /// Makes what will be the folder `target`, and returns where it lies meanwhile, to be filled by
    /// [`put`](Self::put).
    ///
    /// # Errors
    /// As [`file`](Self::file).
    #[cfg(any(feature = "cli", test))]
    pub(crate) fn folder(&mut self, target: &Path) -> Result<PathBuf> {
        self.check(target, true)?;
        let staged = self.stage(target)?;
        fs::create_dir(&staged).map_err(|e| Error::write(target, e))?;
        Ok(staged)
    }

    /// Frees the name `target`.
    pub(crate) fn remove(&mut self, target: &Path) {
        self.members.push(Member { target: target.to_path_buf(), staged: None });
    }

    /// Gives all of them their names, in the order in which they were made.
    ///
    /// # Errors
    /// [`Error::Exists`] without force, [`Error::Write`]; then every name is what it was.
    pub(crate) fn commit(mut self) -> Result<()> {
        let members = std::mem::take(&mut self.members);
        for staged in members.iter().filter_map(|member| member.staged.as_ref()) {
            sync_folders(staged).map_err(|e| Error::write(staged, e))?;
        }
        // The end of the program waits: half of it would be worse than all or nothing.
        let act = Act::begin();
        let mut done = Vec::new();
        for (at, member) in members.into_iter().enumerate() {
            let target = member.target.clone();
            if let Err(e) = self.replace(member, at, &mut done) {
                return Err(self.undo(done, &target, e));
            }
        }
        drop(act);
        sync_folder(&self.beside).map_err(|e| Error::write(&self.beside, e))
    }

    /// Refuses places that `target`, a folder or a file, cannot have.
    ///
    /// # Errors
    /// [`Error::Exists`] without force, [`Error::BadRequest`].
    pub(crate) fn check(&self, target: &Path, is_folder: bool) -> Result<()> {
        let refuse = |why: &str| Err(Error::bad_request("output", target.display(), why));
        match (Place::of(target)?, is_folder) {
            (Place::Free, _) => Ok(()),
            (Place::Stream { .. }, _) => {
                refuse("several files are written together; a pipe or a device holds one")
            }
            (Place::Folder, false) => Err(refuse_folder(target)),
            (Place::Taken, true) => refuse("this is a file; a folder of this name is needed"),
            _ if self.force => Ok(()),
            _ => Err(Error::Exists { path: target.to_path_buf() }),
        }
    }

    /// Where `target` lies until all is there.
    fn stage(&mut self, target: &Path) -> Result<PathBuf> {
        let staged = self.hidden()?.join(target.file_name().unwrap_or_default());
        self.members.push(Member { target: target.to_path_buf(), staged: Some(staged.clone()) });
        Ok(staged)
    }

    /// The hidden folder, which is made when the first file is whole.
    fn hidden(&mut self) -> Result<&Path> {
        if self.hidden.is_none() {
            let made = hidden(&self.beside, |path| fs::create_dir(path));
            let (path, ()) = made.map_err(|e| Error::write(&self.beside, e))?;
            let lock = File::options().read(true).open(path.path()).ok();
            if let Some(lock) = &lock {
                // Without locks leftovers are not removed.
                let _ = lock.try_lock();
            }
            self.hidden = Some((path, lock));
        }
        let hidden = self.hidden.as_ref().map(|(path, _)| path.path());
        hidden.ok_or_else(|| Error::Internal("a hidden folder that was not made".into()))
    }

    /// Puts one of them in place.
    fn replace(&mut self, member: Member, at: usize, done: &mut Vec<Done>) -> io::Result<()> {
        let Member { target, staged } = member;
        let kind = fs::symlink_metadata(&target).ok();
        let taken = kind.is_some();
        if taken && !self.force && staged.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if taken && staged.as_ref().is_some_and(|staged| staged.is_dir() != target.is_dir()) {
            return Err(io::Error::other(
                "a folder has the name of a file, or a file that of a folder",
            ));
        }
        let hidden = self.hidden().map_err(|e| io::Error::other(e.to_string()))?;
        let old = taken.then(|| hidden.join(format!("old-{at}")));
        let mut away = false;
        if let Some(old) = &old {
            // A file keeps its name until the new one has it.
            let same = kind.is_some_and(|kind| kind.is_file()) && staged.is_some();
            let linked = same && fs::hard_link(&target, old).is_ok();
            if !linked {
                rename(&target, old, true)?;
                away = true;
            }
        }
        let placed = match &staged {
            Some(staged) => rename(staged, &target, self.force && !away),
            None => Ok(()),
        };
        match placed {
            Ok(()) => done.push(Done { target, staged, old }),
            Err(e) => {
                // What was moved away comes back with the rest.
                if away {
                    done.push(Done { target, staged: None, old });
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// Gives every name back, the last first; the error for `target`.
    fn undo(&mut self, done: Vec<Done>, target: &Path, error: io::Error) -> Error {
        for Done { target, staged, old } in done.into_iter().rev() {
            let is_folder = fs::symlink_metadata(&target).is_ok_and(|kind| kind.is_dir());
            let freed = match &staged {
                // A file is replaced by the old one.
                Some(staged) if is_folder || old.is_none() => rename(&target, staged, true),
                _ => Ok(()),
            };
            let back = old.map_or(Ok(()), |old| rename(&old, &target, true));
            let Err(e) = freed.and(back) else { continue };
            // What was there before lies in the hidden folder, which then has to stay.
            if let Some((hidden, _)) = self.hidden.take() {
                let path = hidden.path().to_path_buf();
                hidden.keep();
                return Error::write(path, e);
            }
        }
        match error.kind() {
            io::ErrorKind::AlreadyExists if !self.force => {
                Error::Exists { path: target.to_path_buf() }
            }
            _ => Error::write(target, error),
        }
    }
}

/// Writes the names in a folder and below to the disk; their files are there already.
fn sync_folders(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir()) {
        return Ok(());
    }
    for item in fs::read_dir(path)? {
        sync_folders(&item?.path())?;
    }
    sync_folder(path)
}

/// Writes a file of a folder that will get its name with others.
///
/// # Errors
/// [`Error::Write`].
#[cfg(any(feature = "cli", test))]
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let above = folder(path);
    fs::create_dir_all(above).map_err(|e| Error::write(above, e))?;
    let written = File::create(path).and_then(|mut file| {
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(|e| Error::write(path, e))
}

#[cfg(unix)]
pub(super) fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
pub(super) fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    // Symbolic links ask for a privilege that users lack.
    fs::hard_link(target, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    /// A file and a folder under way, with `text` in both.
    fn pair(file: &Path, text: &str, force: bool) -> Result<Together> {
        let mut both = Together::beside(file, force)?;
        let (staged, ()) = both.file(file, |to| {
            to.write_all(text.as_bytes()).unwrap();
            Ok(())
        })?;
        let target = file.with_extension("config");
        let inside = both.folder(&target)?;
        assert_eq!(inside, staged.with_extension("config"), "under their own names");
        put(&inside.join("sub/x"), text.as_bytes())?;
        Ok(both)
    }

    #[test]
    fn both_or_neither() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.safetensors");
        let inside = folder.path().join("m.config/sub/x");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        pair(&file, "one", false).unwrap().commit().unwrap();
        assert_eq!((text(&file), text(&inside), names()), ("one".into(), "one".into(), 2));
        assert!(matches!(pair(&file, "two", false), Err(Error::Exists { .. })));
        drop(pair(&file, "two", true).unwrap());
        assert_eq!((text(&file), text(&inside), names()), ("one".into(), "one".into(), 2));
        pair(&file, "two", true).unwrap().commit().unwrap();
        assert_eq!((text(&file), text(&inside), names()), ("two".into(), "two".into(), 2));
        // The last of them fails: a folder lies where its file should.
        let mut three = pair(&file, "three", true).unwrap();
        let target = folder.path().join("late");
        three.file(&target, |_| Ok(())).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("x"), "").unwrap();
        assert!(three.commit().is_err());
        assert_eq!((text(&file), text(&inside), names()), ("two".into(), "two".into(), 3));
        let mut gone = Together::beside(&file, true).unwrap();
        gone.file(&file, |_| Ok(())).unwrap();
        gone.remove(&file.with_extension("config"));
        gone.commit().unwrap();
        assert_eq!((text(&file), names()), (String::new(), 2));
    }

    #[test]
    fn what_fails_late_is_undone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.safetensors");
        let inside = folder.path().join("m.config/sub/x");
        pair(&file, "one", false).unwrap().commit().unwrap();
        let mut two = pair(&file, "two", true).unwrap();
        // A member that was never made.
        let staged = two.stage(&folder.path().join("none")).unwrap();
        assert!(!staged.exists());
        assert!(matches!(two.commit(), Err(Error::Write { .. })));
        assert_eq!((text(&file), text(&inside)), ("one".into(), "one".into()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
