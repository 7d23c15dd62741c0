//! `colora samplers`: the samplers and schedules that there are.

use super::style::{result_json, result_line};
use crate::app::SCHEMA;
use crate::sampling::{Sampler, Schedule};
use anyhow::Result;
use serde_json::{Value, json};

/// What `colora samplers` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora samplers
  colora samplers --json | jq '.samplers[].name'")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `colora samplers`.
pub(super) fn run(args: &Args) -> Result<()> {
    if args.json { result_json(&serde_json::to_string(&object())?) } else { result_line(&text()) }
}

fn object() -> Value {
    let sampler = |sampler: Sampler| {
        let spec = sampler.spec();
        let option = |option: &crate::sampling::OptionSpec| {
            json!({
                "name": option.name,
                "default": option.default,
                "least": option.least,
                "most": option.most,
                "help": option.help,
            })
        };
        json!({
            "name": spec.name,
            "also": spec.other_names().collect::<Vec<_>>(),
            "order": spec.order,
            "evaluations": spec.evaluations,
            "options": spec.options.iter().map(option).collect::<Vec<_>>(),
            "source": spec.source,
        })
    };
    let schedule = |schedule: Schedule| {
        let spec = schedule.spec();
        let also: Vec<_> = schedule.labels().chain(spec.comfyui.iter().copied()).collect();
        json!({ "name": spec.name, "also": also, "source": spec.source })
    };
    json!({
        "schema": SCHEMA,
        "event": "samplers",
        "samplers": Sampler::ALL.map(sampler).to_vec(),
        "schedules": Schedule::ALL.map(schedule).to_vec(),
    })
}

/// The lists for people: a line each, with the name in A1111's menu.
fn text() -> String {
    let mut lines = vec![format!("{:24} {:28} {:6} options", "sampler", "A1111", "evals")];
    for spec in Sampler::ALL.map(Sampler::spec) {
        let options: Vec<_> = spec.options.iter().map(|option| option.name).collect();
        let line = format!(
            "{:24} {:28} {:<6} {}",
            spec.name,
            spec.label,
            spec.evaluations,
            options.join(", ")
        );
        lines.push(line.trim_end().to_owned());
    }
    lines.push(format!("\n{:24} {:28} levels", "schedule", "A1111"));
    for spec in Schedule::ALL.map(Schedule::spec) {
        lines.push(format!("{:24} {:28} {}", spec.name, spec.label, spec.source));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sampler_and_schedule_is_listed() {
        let (text, object) = (text(), object());
        for sampler in Sampler::ALL {
            assert!(text.lines().any(|line| line.starts_with(sampler.name())), "{sampler}");
        }
        assert_eq!(object["samplers"].as_array().map(Vec::len), Some(Sampler::ALL.len()));
        assert_eq!(object["schedules"].as_array().map(Vec::len), Some(Schedule::ALL.len()));
    }
}
