//! `colora batch --dry-run`: the jobs, their order, what changes between them, and what they take.

use super::speak::time;
use super::{Order, RunArgs};
use crate::app::{Pool, SCHEMA};
use crate::batch::{Changes, JobList, Pace, Ready};
use crate::cli::style::{block, bytes, excerpt, result_json, result_line};
use crate::pipeline::Cancel;
use anyhow::Result;
use std::path::Path;

/// Jobs that are shown at the beginning and at the end.
const SHOWN: usize = 10;
/// Bytes of a PNG for each pixel, and of the record in it: what pictures of SDXL and SD 1.5 take.
const PER_PIXEL: f64 = 1.6;
const RECORD: f64 = 2000.0;

/// Prints what would be made.
pub(super) fn print(
    list: &JobList,
    folder: &Path,
    args: &RunArgs,
    pool: &Pool,
    cancel: &Cancel,
) -> Result<()> {
    let JobList { jobs, of_file, .. } = list;
    let (here, of_file) = (list.changes(), *of_file);
    let space: f64 =
        jobs.iter().map(|job| job.width as f64 * job.height as f64 * PER_PIXEL + RECORD).sum();
    let pace = match jobs.iter().find(|job| job.networks.doomed.is_none()) {
        Some(job) if args.measure => Some(Pace::measured(job, pool, cancel)?),
        _ if folder.is_dir() => Pace::of(folder)?,
        _ => None,
    };
    let each = args.seconds_per_picture.map(|each| each * jobs.len() as f64);
    let measured = pace.map(|pace| jobs.iter().map(|job| pace.seconds(job)).sum::<f64>());
    let seconds = each.or(measured);
    let doomed = jobs.iter().filter(|job| job.networks.doomed.is_some()).count();
    if args.json {
        for (place, job) in jobs.iter().enumerate() {
            result_json(&line(place, job)?.to_string())?;
        }
        let summary = serde_json::json!({
            "schema": SCHEMA, "event": "batch", "jobs": jobs.len(), "folder": folder.to_string_lossy(),
            "changes": counts(here), "changes_of_file": counts(of_file), "bytes": space as u64,
            "seconds": seconds, "doomed": doomed,
        });
        return result_json(&summary.to_string());
    }
    let order = if args.list.job_order == Order::File {
        "in the order of the file"
    } else {
        "in the cheapest order"
    };
    let mut text = format!(
        "# {} jobs into {}, {order}; nothing was made\n# changes of model {}, of LoRAs {}, of size {} (in the file's \
         order {}, {}, {})\n# about {} of disk",
        jobs.len(),
        folder.display(),
        here.models,
        here.stacks,
        here.shapes,
        of_file.models,
        of_file.stacks,
        of_file.shapes,
        bytes(space as u64),
    );
    if let Some(seconds) = seconds {
        let how = match (each, args.measure) {
            (Some(_), _) => "",
            (None, true) => " at the pace of one picture",
            (None, false) => " at the pace of the pictures that are there",
        };
        text += &format!(", {}{how}", time(seconds));
    }
    if doomed > 0 {
        text += &format!("\n# {doomed} jobs will fail: their LoRA files cannot be read");
    }
    for (place, job) in jobs.iter().enumerate() {
        if place == SHOWN && jobs.len() > 2 * SHOWN {
            text += &format!("\n  … {} more", jobs.len() - 2 * SHOWN);
        }
        if place < SHOWN || place + SHOWN >= jobs.len() {
            text += &format!("\n{}", row(job)?);
        }
    }
    result_line(block(&text).trim_end())
}

/// A job as a line for people.
fn row(ready: &Ready) -> Result<String> {
    let job = ready.job()?;
    let loras = &ready.networks.loras;
    let loras = loras.iter().fold(String::new(), |text, lora| format!("{text}  {lora}"));
    Ok(format!(
        "{}  line {}  {}  {}x{}  {} steps  seed {}{}  {}",
        ready.id,
        ready.line,
        job.model_name(),
        ready.width,
        ready.height,
        ready.steps,
        ready.seed,
        loras,
        excerpt(&job.request.prompt)
    ))
}

/// A job as JSON.
fn line(place: usize, ready: &Ready) -> Result<serde_json::Value> {
    let job = ready.job()?;
    Ok(serde_json::json!({
        "schema": SCHEMA, "event": "job", "place": place, "id": ready.id, "line": ready.line,
        "model": job.model_name(), "made_with": job.choice(), "labels": ready.labels, "request": job.request,
        "doomed": ready.networks.doomed.as_ref().map(|reason| &reason.message),
    }))
}

fn counts(changes: Changes) -> serde_json::Value {
    let Changes { models, stacks, shapes } = changes;
    serde_json::json!({"models": models, "stacks": stacks, "shapes": shapes})
}
