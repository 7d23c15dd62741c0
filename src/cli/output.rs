//! What is printed on stdout about pictures: a path each, a JSON object, or the picture itself.

use super::flags::Flags;
use super::style::{result_bytes, result_json, result_path, stdout_is_terminal};
use crate::app::{Moment, SCHEMA, SaveOptions, Saved, Target};
use crate::atomic_file::is_stdout;
use crate::config::Config;
use crate::error::Error;
use crate::pipeline::Request;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;

/// What is printed of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Its path and a line break.
    Line,
    /// Its path and NUL.
    Nul,
    /// A JSON object.
    Json,
}

/// `--json`: a picture is there.
#[derive(Serialize)]
struct Line<'a> {
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

impl Form {
    /// Reads the flags.
    pub(super) fn of(flags: &Flags) -> Self {
        match (flags.json, flags.null) {
            (true, _) => Self::Json,
            (_, true) => Self::Nul,
            _ => Self::Line,
        }
    }

    /// Prints a picture that was saved, or its bytes when it has no file.
    ///
    /// # Errors
    /// When the reader of stdout has left, or it cannot be written.
    pub(super) fn print(self, saved: &Saved<'_>) -> Result<()> {
        let Some(path) = saved.path else { return result_bytes(saved.bytes) };
        match self {
            Self::Json => result_json(&json(saved, path)?),
            Self::Nul => result_bytes(&[path.as_os_str().as_encoded_bytes(), &[0]].concat()),
            Self::Line => result_path(path),
        }
    }
}

/// Where the pictures go: the flags over the settings.
pub(super) fn save_options(flags: &Flags, config: &Config) -> SaveOptions {
    let now = jiff::ZonedDateTime::now();
    let name = flags.output.clone().or_else(|| config.output.clone().map(Into::into));
    SaveOptions {
        hand_over: name.as_ref().is_some_and(|name| name == "-" || is_stdout(Path::new(name))),
        name,
        force: flags.force,
        metadata: !flags.no_metadata && config.metadata != Some(false),
        job: None,
        now: Moment {
            date: now.strftime("%Y-%m-%d").to_string(),
            time: now.strftime("%H%M%S").to_string(),
        },
        part: None,
    }
}

/// Refuses what stdout and other streams cannot take.
///
/// # Errors
/// [`Error::BadRequest`], also for a bad template.
pub(super) fn check(flags: &Flags, save: &SaveOptions, request: &Request) -> Result<(), Error> {
    let count = save.part.map_or(request.count, |part| part.count);
    let to_stdout = match save.target(count)? {
        Target::Caller => true,
        Target::Stream { device: false, .. } if count > 1 => return refuse(save, SEVERAL),
        Target::Stream { .. } => false,
        _ => return Ok(()),
    };
    if to_stdout && count > 1 {
        return refuse(save, SEVERAL);
    }
    if to_stdout && (flags.json || flags.null) {
        return refuse(save, "stdout takes the picture or words about it, not both");
    }
    if request.preview > 0 {
        return refuse(save, "a preview needs a file name to lie beside");
    }
    if to_stdout && stdout_is_terminal() {
        return refuse(save, "a terminal shows no PNG; redirect it or name a file");
    }
    Ok(())
}

/// Why a stream is refused.
const SEVERAL: &str = "a stream takes one picture; use a template for several";

fn refuse(save: &SaveOptions, why: &str) -> Result<(), Error> {
    let name = save.name.clone().unwrap_or_default();
    Err(Error::bad_request("output", name.display(), why))
}

fn json(saved: &Saved<'_>, path: &Path) -> Result<String> {
    let (image, timings) = (saved.image, saved.image.timings);
    Ok(serde_json::to_string(&Line {
        schema: SCHEMA,
        event: "saved",
        path: &path.to_string_lossy(),
        index: image.index,
        seed: image.seed,
        width: image.picture.width(),
        height: image.picture.height(),
        model: saved.model,
        timings: Seconds {
            load: timings.load.as_secs_f64(),
            compose: timings.compose.as_secs_f64(),
            encode: timings.encode.as_secs_f64(),
            sample: timings.sample.as_secs_f64(),
            decode: timings.decode.as_secs_f64(),
        },
        request: saved.plan.request_for(image.index),
    })?)
}
