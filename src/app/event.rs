//! What happens while a job runs.

use crate::error::Error;
use crate::pipeline::{self, Generated, Plan};
use crate::store::Transfer;
use std::ops::ControlFlow;
use std::path::Path;

/// What happens while a job runs. More events may come: match with a wildcard.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file is being downloaded.
    Transfer(&'a Transfer),
    /// The hash of a file is being computed, for the record of the pictures: once for each file.
    Hashing {
        /// The file.
        file: &'a Path,
        /// Bytes that are read.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The pipeline is at work.
    Pipeline(&'a pipeline::Event),
    /// A folder was created for the pictures.
    FolderCreated(&'a Path),
    /// A preview could not be written; the picture is made all the same.
    NoPreview(&'a Error),
    /// A picture is saved.
    Saved(&'a Saved<'a>),
}

/// A picture that was saved.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// Its file; `None` when the caller takes its bytes.
    pub path: Option<&'a Path>,
    /// The name that was chosen, when someone else had taken it meanwhile.
    pub taken: Option<&'a Path>,
    /// The picture file.
    pub bytes: &'a [u8],
    /// The picture, its seed and where its time went.
    pub image: &'a Generated,
    /// The plan that it belongs to.
    pub plan: &'a Plan,
    /// The model's name.
    pub model: &'a str,
}

/// Receives events. Called on the thread that generates: return soon.
pub trait Observer {
    /// `event` just happened or begins. Breaking after [`Event::Saved`] stops the job.
    fn event(&self, event: &Event<'_>) -> ControlFlow<()>;
}

impl<F: Fn(&Event<'_>) -> ControlFlow<()>> Observer for F {
    fn event(&self, event: &Event<'_>) -> ControlFlow<()> {
        self(event)
    }
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn event(&self, _: &Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
