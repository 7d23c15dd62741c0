//! The cells of a sweep with what became of each.

use crate::app::record::ImageRecord;
use crate::batch::Ready;
use crate::cli::as_command::as_command;
use crate::sweep::{Gallery, Legend, Shown, Sweep};
use std::collections::{BTreeMap, HashMap};

/// The folder of the cells, in that of the sweep.
pub(super) const FOLDER: &str = "cells";

/// The jobs of a sweep, and the cells that have none of their own.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The jobs, in the order in which they are made; a job's line is its cell's number, from 1.
    pub(super) jobs: Vec<Ready>,
    /// Cells that are the same picture as another one.
    pub(super) same: HashMap<usize, usize>,
    /// Cells that cannot be made, and why.
    pub(super) impossible: BTreeMap<usize, String>,
    /// Jobs that failed, by their names.
    pub(super) failed: BTreeMap<String, String>,
    /// How long jobs took that were made now, by their names.
    pub(super) seconds: BTreeMap<String, f64>,
}

impl Table {
    /// What the folder of the sweep holds.
    pub(super) fn gallery(&self, sweep: &Sweep) -> Gallery {
        let mut gallery = Gallery::new(title(sweep));
        gallery.seed = sweep.base.request.seed;
        gallery.base = Some(sweep.base.clone());
        gallery.axes = sweep
            .axes
            .iter()
            .map(|axis| Legend {
                name: axis.name.clone(),
                title: axis.title.clone(),
                labels: axis.values.iter().map(|value| value.label.clone()).collect(),
                values: axis.values.iter().map(|value| value.text.clone()).collect(),
            })
            .collect();
        let jobs: HashMap<usize, &Ready> = self.jobs.iter().map(|job| (job.line, job)).collect();
        gallery.cells = (0..sweep.len())
            .map(|number| {
                let line = number + 1;
                let at = sweep.place(number);
                if let Some(job) = jobs.get(self.same.get(&line).unwrap_or(&line)) {
                    return self.shown(job, at);
                }
                let why = self.impossible.get(&line).cloned();
                let error = Some(why.unwrap_or_else(|| "cannot be made".into()));
                Shown { at, error, ..Shown::default() }
            })
            .collect();
        gallery
    }

    fn shown(&self, job: &Ready, at: Vec<usize>) -> Shown {
        let id = &job.id;
        let mut error = self.failed.get(id).cloned();
        let mut record = ImageRecord::default();
        match job.job() {
            Ok(made) => {
                let choice = made.choice();
                (record.request, record.made_with) = (made.request, Some(choice));
            }
            Err(wrong) => error = Some(wrong.to_string()),
        }
        Shown {
            at,
            id: Some(id.clone()),
            file: error.is_none().then(|| format!("{FOLDER}/{id}.png")),
            error,
            caption: String::new(),
            width: job.width,
            height: job.height,
            prompt: record.request.prompt.clone(),
            seed: Some(job.seed.to_string()),
            command: Some(as_command(&record)),
            seconds: self.seconds.get(id).copied(),
        }
    }
}

/// What a sweep is called: its prompt.
fn title(sweep: &Sweep) -> String {
    match sweep.base.request.prompt.as_str() {
        "" => "A sweep".into(),
        prompt => prompt.to_owned(),
    }
}
