//! Where pictures go: files that never overwrite, a stream, or the caller.

use super::choice::ModelChoice;
use super::clock::Moment;
use super::event::{Event, Observer, Saved};
use super::record;
use super::template::{DEFAULT, Facts, Template};
use super::used_files::UsedFiles;
use crate::atomic_file::{self, Place, is_stdout};
use crate::error::{Error, Result};
use crate::picture::{Format, Texts, png};
use crate::pipeline::{Generated, Plan};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where and how the pictures of a job are saved.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// Name or template of the pictures; `None` = date, seed and index in the current folder.
    pub name: Option<OsString>,
    /// Whether the caller takes the bytes of the pictures from [`Event::Saved`], and nothing is written.
    pub hand_over: bool,
    /// Whether files of that name are overwritten.
    pub force: bool,
    /// Whether the record is written into the pictures.
    pub metadata: bool,
    /// The name of the job by its contents, which the record keeps beside the settings.
    pub job: Option<String>,
    /// The date and time of day that names hold.
    pub now: Moment,
    /// The place of the job among others whose pictures belong together: they are named as those of one job.
    pub part: Option<Part>,
}

/// The place of a job in a series: jobs of one picture each, the seed of each one more than that of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The number of the job, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            name: None,
            hand_over: false,
            force: false,
            metadata: true,
            job: None,
            now: Moment::utc(),
            part: None,
        }
    }
}

impl SaveOptions {
    /// Saves under a name or template, without overwriting anything.
    pub fn new(name: impl Into<OsString>) -> Self {
        Self { name: Some(name.into()), ..Self::default() }
    }

    /// What the name stands for, given how many pictures there will be.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a bad template.
    pub fn target(&self, count: usize) -> Result<Target> {
        let count = self.part.map_or(count, |part| part.count);
        let Some(name) = self.name.as_deref().filter(|_| !self.hand_over) else {
            let files = || Template::new(DEFAULT, count).map(Files).map(Target::Files);
            return if self.hand_over { Ok(Target::Caller) } else { files() };
        };
        let path = Path::new(name);
        match Place::of(path) {
            Ok(Place::Stream { device }) if !is_stdout(path) => {
                Ok(Target::Stream { path: path.to_path_buf(), device })
            }
            // A template with folders that are not there yet, or a name that is refused later.
            _ => Template::new(name, count).map(Files).map(Target::Files),
        }
    }

    /// Finds out before a model is found, perhaps downloaded, whether pictures can be written. Folders that are
    /// not there yet may be named after the model; [`make_folders`] looks at them.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Limit`] for a record that the format does not hold, and as
    /// [`target`](Self::target).
    pub(super) fn check(&self, plan: &Plan) -> Result<()> {
        let template = match self.target(plan.count)? {
            Target::Caller => return Ok(()),
            Target::Stream { path, .. } => return atomic_file::prepare(&path).map(drop),
            Target::Files(Files(template)) => template,
        };
        let name = template.name(&self.facts(plan, ""), self.before());
        if self.metadata {
            let (choice, files) = (ModelChoice::default(), UsedFiles::default());
            format(Some(&name)).check(&record::texts(plan, 0, "", &choice, &files)?)?;
        }
        let there = name.parent().is_some_and(|p| p.as_os_str().is_empty() || p.exists());
        if there { atomic_file::prepare(&name).map(drop) } else { Ok(()) }
    }

    /// The names of all pictures of `plan`, one and the same for a device; empty when the caller takes them.
    ///
    /// A name that the user chose must be free; the default name gets a number until it is.
    ///
    /// # Errors
    /// [`Error::Exists`], and as [`target`](Self::target).
    pub(super) fn names(&self, plan: &Plan, model: &str) -> Result<Vec<PathBuf>> {
        let template = match self.target(plan.count)? {
            Target::Caller => return Ok(Vec::new()),
            Target::Stream { path, .. } => return Ok(vec![path; plan.count]),
            Target::Files(Files(template)) => template,
        };
        let facts = self.facts(plan, model);
        let name = |index| {
            let path = template.name(&facts, self.before() + index);
            match (Place::of(&path)?, self.name.is_some(), self.force) {
                (Place::Free, ..) | (Place::Taken | Place::Stream { .. }, true, true) => Ok(path),
                (_, false, _) => Ok(free(&path)),
                (_, true, _) => Err(Error::Exists { path }),
            }
        };
        (0..plan.count).map(name).collect()
    }

    /// Saves one picture, whole or not at all, and reports it; when someone took the chosen name meanwhile, under
    /// another, because work that is done is not thrown away. Returns the file.
    ///
    /// # Errors
    /// What encoding and saving give, and [`Error::Cancelled`] when the observer breaks.
    pub(super) fn save(
        &self,
        image: &Generated,
        name: Option<&Path>,
        made: &Made<'_>,
        observer: &dyn Observer,
    ) -> Result<Option<PathBuf>> {
        let Made { plan, model, choice, files } = *made;
        let texts = if self.metadata {
            let texts = record::texts(plan, image.index, model, choice, files)?;
            record::of_job(texts, self.job.as_deref())
        } else {
            Texts::default()
        };
        let bytes = format(name).encode(&image.picture, &texts)?;
        let path = name.map(|name| self.write(&bytes, name)).transpose()?;
        let path = path.as_deref();
        let taken = name.filter(|name| self.name.is_some() && path != Some(*name));
        let saved = Saved { path, taken, bytes: &bytes, image, plan, model };
        if observer.event(&Event::Saved(&saved)).is_break() {
            return Err(Error::Cancelled);
        }
        Ok(path.map(Path::to_path_buf))
    }

    /// Writes a file and returns its name, which is another when someone took it.
    fn write(&self, bytes: &[u8], path: &Path) -> Result<PathBuf> {
        let mut path = path.to_path_buf();
        loop {
            match png::save(bytes, &path, self.force && self.name.is_some()) {
                Err(Error::Exists { .. }) => path = free(&path),
                other => return other.map(|()| path),
            }
        }
    }

    /// How many pictures come before those of the job.
    fn before(&self) -> usize {
        self.part.map_or(0, |part| part.index)
    }

    fn facts(&self, plan: &Plan, model: &str) -> Facts {
        Facts {
            now: self.now.clone(),
            seed: plan.seed.wrapping_sub(self.before() as u64),
            model: model.to_owned(),
            prompt: plan.prompt.clone(),
        }
    }
}

/// How a picture was made, for its record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) plan: &'a Plan,
    /// The model's name.
    pub(super) model: &'a str,
    pub(super) choice: &'a ModelChoice,
    pub(super) files: &'a UsedFiles,
}

/// What pictures are written to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Target {
    /// The caller takes them.
    Caller,
    /// A pipe or a device, which takes several pictures one after the other.
    Stream {
        /// Its path.
        path: PathBuf,
        /// Whether it is a device.
        device: bool,
    },
    /// Files.
    Files(Files),
}

/// The template of the names of files.
#[derive(Debug, Clone)]
pub struct Files(Template);

/// Makes the folders that `names` need, and reports them; finds out whether pictures can be written there.
///
/// # Errors
/// [`Error::Write`] when a folder or a file in it cannot be made.
pub(super) fn make_folders(names: &[PathBuf], observer: &dyn Observer) -> Result<()> {
    // Of each folder the longest name, which is the first to be too long.
    let mut longest: BTreeMap<&Path, &PathBuf> = BTreeMap::new();
    for name in names {
        let place = longest.entry(name.parent().unwrap_or(Path::new(""))).or_insert(name);
        if place.as_os_str().len() < name.as_os_str().len() {
            *place = name;
        }
    }
    for (folder, name) in longest {
        if atomic_file::prepare(name)? {
            // Nothing was made that could be lost by stopping later.
            let _ = observer.event(&Event::FolderCreated(folder));
        }
    }
    Ok(())
}

/// The format of a file by its name; without one, or for a stream of another name, PNG.
fn format(name: Option<&Path>) -> Format {
    name.and_then(Format::of).unwrap_or_default()
}

/// The first of `x.png`, `x-2.png`, `x-3.png`, … that does not exist.
fn free(path: &Path) -> PathBuf {
    let end = path.extension().map_or("png".into(), |end| end.to_string_lossy());
    let numbered = |number: u64| {
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{number}.{end}"));
        path.with_file_name(name)
    };
    let is_free = |path: &PathBuf| matches!(Place::of(path), Ok(Place::Free) | Err(_));
    (2..=u64::MAX).map(numbered).find(is_free).unwrap_or_else(|| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_names_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        for name in ["x.png", "x-2.png"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(free(&path), folder.path().join("x-3.png"));
    }
}
