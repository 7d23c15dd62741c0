//! What happens while the pictures of a list are made.

use super::manifest::Entry;
use super::ready::{Ready, Reason};
use crate::app;
use std::ops::ControlFlow;
use std::path::Path;

/// What happens during the work.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A job begins.
    Begin {
        /// The job.
        job: &'a Ready,
    },
    /// The job at work.
    App(&'a app::Event<'a>),
    /// A picture is there and in the log.
    Made {
        /// The job.
        job: &'a Ready,
        /// The picture's file.
        path: &'a Path,
        /// The line in the log.
        entry: &'a Entry,
    },
    /// The picture of a job is there: another worker was faster.
    Found {
        /// The job.
        job: &'a Ready,
    },
    /// A job failed, and the log says so.
    Failed {
        /// The job.
        job: &'a Ready,
        /// Why.
        reason: &'a Reason,
    },
}

/// Receives events; breaking stops the work after the job.
pub type Observer<'a> = &'a dyn Fn(&Event<'_>) -> ControlFlow<()>;
