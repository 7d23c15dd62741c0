//! What a sweep would make, and what its cells share.

use super::cells::Table;
use crate::app::SCHEMA;
use crate::batch::Todo;
use crate::cli::style::{Talk, block, result_json, result_line};
use crate::sweep::{Sharing, Sweep};
use anyhow::Result;
use std::path::Path;

/// Cells that are listed.
const SHOWN: usize = 40;

/// The axes as one line.
fn axes(sweep: &Sweep) -> String {
    let axes = sweep.axes.iter().map(|axis| format!("{} {}", axis.values.len(), axis.title));
    axes.collect::<Vec<_>>().join(" x ")
}

/// Says before the work how much of it there is.
pub(super) fn say(sweep: &Sweep, sharing: &Sharing, todo: &Todo, talk: Talk) {
    let there =
        if todo.present == 0 { String::new() } else { format!(", {} are there", todo.present) };
    talk.say(&format!("{}: {} cells{there}", axes(sweep), sweep.len()));
    talk.say(&sharing.to_string());
}

/// Prints the cells.
pub(super) fn print(
    sweep: &Sweep,
    table: &Table,
    sharing: &Sharing,
    folder: &Path,
    json: bool,
) -> Result<()> {
    if json {
        for job in &table.jobs {
            let line = serde_json::json!({
                "schema": SCHEMA, "event": "cell", "id": job.id, "labels": job.labels, "job": job.job()?,
            });
            result_json(&line.to_string())?;
        }
        let line = serde_json::json!({
            "schema": SCHEMA, "event": "sweep", "cells": sweep.len(), "folder": folder.to_string_lossy(),
            "models": sharing.models, "texts": sharing.texts, "networks": sharing.networks,
            "noises": sharing.noises, "steps": sharing.steps, "steps_that_run": sharing.taken,
        });
        return result_json(&line.to_string());
    }
    let mut text = format!(
        "# {}: {} cells into {}; nothing was made\n# {sharing}",
        axes(sweep),
        sweep.len(),
        folder.display()
    );
    for number in 0..sweep.len().min(SHOWN) {
        let line = number + 1;
        let id = table.jobs.iter().find(|job| job.line == *table.same.get(&line).unwrap_or(&line));
        let id = id.map_or("cannot be made      ", |job| job.id.as_str());
        text += &format!("\n{id}  {}", sweep.labels(number).join(", "));
    }
    if sweep.len() > SHOWN {
        text += &format!("\n  … {} more", sweep.len() - SHOWN);
    }
    result_line(&block(&text))
}
