//! Where pictures go: files that never overwrite, or stdout.

use super::flags::Flags;
use super::made_with::MadeWith;
use super::style::{Talk, result_bytes, result_json, result_path, stdout_is_terminal};
use super::template::{DEFAULT, Facts, Template};
use crate::atomic_file::{self, Place, is_stdout};
use crate::config::Config;
use crate::error::Error;
use crate::picture::png;
use crate::pipeline::{Generated, Plan, Request};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Version of the JSON objects on stdout and stderr.
pub(super) const SCHEMA: u32 = 1;

/// Where pictures go and what is said about them on stdout.
#[derive(Debug)]
pub(super) struct Output {
    target: Target,
    /// Whether the user chose the name.
    named: bool,
    force: bool,
    form: Form,
    /// Whether the settings are written into the pictures.
    pub(super) metadata: bool,
}

/// What pictures are written to.
#[derive(Debug)]
enum Target {
    /// The program's own output.
    Stdout,
    /// A pipe or a device.
    Stream(PathBuf),
    /// Files.
    Files(Template),
}

/// What is said of a picture on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Its path and a line break.
    Line,
    /// Its path and NUL.
    Nul,
    /// A JSON object.
    Json,
}

/// `--json`: a picture is there.
#[derive(Serialize)]
struct Saved<'a> {
    schema: u32,
    event: &'static str,
    path: &'a str,
    index: usize,
    seed: u64,
    width: usize,
    height: usize,
    model: &'a str,
    /// Seconds.
    timings: Seconds,
    request: Request,
}

#[derive(Serialize)]
struct Seconds {
    load: f64,
    compose: f64,
    encode: f64,
    sample: f64,
    decode: f64,
}

impl Output {
    /// Reads the flags.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a bad template and for what stdout cannot take.
    pub(super) fn new(flags: &Flags, config: &Config, count: usize) -> Result<Self, Error> {
        let configured = config.output.as_deref().map(OsStr::new);
        let named = flags.output.as_deref().or(configured);
        Ok(Self {
            target: Target::new(named, flags, count)?,
            named: named.is_some(),
            force: flags.force,
            form: match (flags.json, flags.null) {
                (true, _) => Form::Json,
                (_, true) => Form::Nul,
                _ => Form::Line,
            },
            metadata: !flags.no_metadata && config.metadata != Some(false),
        })
    }

    /// Finds out before a model is found, perhaps downloaded, whether pictures can be written. Folders that are
    /// not there yet may be named after the model; [`make_folders`] looks at them.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub(super) fn check(&self, plan: &Plan) -> Result<(), Error> {
        let template = match &self.target {
            Target::Stdout => return Ok(()),
            Target::Stream(path) => return atomic_file::prepare(path).map(drop),
            Target::Files(template) => template,
        };
        let name = template.name(&facts(plan, ""), 0);
        let there = name.parent().is_some_and(|p| p.as_os_str().is_empty() || p.exists());
        if there { atomic_file::prepare(&name).map(drop) } else { Ok(()) }
    }

    /// The names of all pictures of `plan`, one and the same for a device; empty for stdout.
    ///
    /// A name that the user chose must be free; the default name gets a number until it is.
    ///
    /// # Errors
    /// [`Error::Exists`].
    pub(super) fn names(&self, plan: &Plan, model: &str) -> Result<Vec<PathBuf>, Error> {
        let template = match &self.target {
            Target::Stdout => return Ok(Vec::new()),
            Target::Stream(path) => return Ok(vec![path.clone(); plan.count]),
            Target::Files(template) => template,
        };
        let facts = facts(plan, model);
        let name = |index| {
            let path = template.name(&facts, index);
            match (Place::of(&path)?, self.named, self.force) {
                (Place::Free, ..) | (Place::Taken | Place::Stream { .. }, true, true) => Ok(path),
                (_, false, _) => Ok(free(&path)),
                (_, true, _) => Err(Error::Exists { path }),
            }
        };
        (0..plan.count).map(name).collect()
    }

    /// Saves one picture, whole or not at all, and prints the result; says so when someone took the chosen
    /// name while it was drawn.
    ///
    /// # Errors
    /// What encoding and saving give, and when nobody reads stdout any more.
    pub(super) fn save(
        &self,
        image: &Generated,
        name: Option<&Path>,
        plan: &Plan,
        model: &str,
        made_with: &MadeWith,
        talk: Talk,
    ) -> Result<()> {
        let texts = if self.metadata {
            super::recipe::texts(plan, image.index, model, made_with)?
        } else {
            png::Texts::default()
        };
        let bytes = png::encode(&image.picture, &texts)?;
        let Some(path) = name else { return result_bytes(&bytes) };
        let wished = path;
        let path = self.write(&bytes, wished)?;
        if self.named && path != wished {
            let (wished, path) = (wished.display(), path.display());
            talk.say(&format!("{wished} was taken meanwhile: the picture is {path}"));
        }
        if self.form == Form::Json {
            return result_json(&saved(image, &path, plan, model)?);
        }
        if self.form == Form::Nul {
            return result_bytes(&[path.as_os_str().as_encoded_bytes(), &[0]].concat());
        }
        result_path(&path)
    }

    /// Writes a file and returns its name, which is another when someone took it: work that is done is not
    /// thrown away.
    fn write(&self, bytes: &[u8], path: &Path) -> Result<PathBuf, Error> {
        let mut path = path.to_path_buf();
        loop {
            match png::save(bytes, &path, self.force && self.named) {
                Err(Error::Exists { .. }) => path = free(&path),
                other => return other.map(|()| path),
            }
        }
    }
}

impl Target {
    /// What the name stands for, the default without one.
    fn new(named: Option<&OsStr>, flags: &Flags, count: usize) -> Result<Self, Error> {
        let Some(named) = named else { return Template::new(DEFAULT, count).map(Self::Files) };
        let path = Path::new(named);
        let stream = match Place::of(path) {
            _ if named == "-" || is_stdout(path) => Some(false),
            Ok(Place::Stream { device }) => Some(device),
            // A template with folders that are not there yet, or a name that is refused later.
            _ => return Template::new(named, count).map(Self::Files),
        };
        let refuse = |why: &str| Err(Error::bad_request("output", path.display(), why));
        let to_stdout = named == "-" || is_stdout(path);
        if !flags.dry_run {
            if count > 1 && stream == Some(false) {
                return refuse("a stream takes one picture; use a template for several");
            }
            if to_stdout && (flags.json || flags.null) {
                return refuse("stdout takes the picture or words about it, not both");
            }
            if flags.preview.is_some_and(|every| every > 0) {
                return refuse("a preview needs a file name to lie beside");
            }
            if to_stdout && stdout_is_terminal() {
                return refuse("a terminal shows no PNG; redirect it or name a file");
            }
        }
        Ok(if to_stdout { Self::Stdout } else { Self::Stream(path.to_path_buf()) })
    }
}

/// Makes the folders that the template names, and says so; finds out whether pictures can be written there.
///
/// # Errors
/// [`Error::Write`] when a folder or a file in it cannot be made.
pub(super) fn make_folders(names: &[PathBuf], talk: Talk) -> Result<(), Error> {
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
            talk.say(&format!("created the folder {}", folder.display()));
        }
    }
    Ok(())
}

fn saved(image: &Generated, path: &Path, plan: &Plan, model: &str) -> Result<String> {
    let timings = image.timings;
    Ok(serde_json::to_string(&Saved {
        schema: SCHEMA,
        event: "saved",
        path: &path.to_string_lossy(),
        index: image.index,
        seed: image.seed,
        width: image.picture.width(),
        height: image.picture.height(),
        model,
        timings: Seconds {
            load: timings.load.as_secs_f64(),
            compose: timings.compose.as_secs_f64(),
            encode: timings.encode.as_secs_f64(),
            sample: timings.sample.as_secs_f64(),
            decode: timings.decode.as_secs_f64(),
        },
        request: plan.request_for(image.index),
    })?)
}

fn facts(plan: &Plan, model: &str) -> Facts {
    let now = jiff::ZonedDateTime::now();
    Facts {
        date: now.strftime("%Y-%m-%d").to_string(),
        time: now.strftime("%H%M%S").to_string(),
        seed: plan.seed,
        model: model.to_owned(),
        prompt: plan.prompt.clone(),
    }
}

/// The first of `x.png`, `x-2.png`, `x-3.png`, … that does not exist.
fn free(path: &Path) -> PathBuf {
    let numbered = |number: u64| {
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{number}.png"));
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
