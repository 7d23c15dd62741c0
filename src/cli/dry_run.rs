//! `--dry-run`: what would run.

use super::style::{block, bytes, result_json, result_line};
use crate::app::{NamedByPicture, Prepared, SCHEMA};
use crate::pipeline::{Plan, TokenCount};
use anyhow::Result;

/// Prints what would run.
pub(super) fn print(
    prepared: &Prepared<'_>,
    named: Option<&NamedByPicture>,
    json: bool,
) -> Result<()> {
    let Prepared { pipeline, plan, names, .. } = prepared;
    let outputs: Vec<String> = names.iter().map(|n| n.to_string_lossy().into_owned()).collect();
    let device = pipeline.device_name();
    let model = pipeline.model_name();
    let budget = pipeline.budget(plan);
    if json {
        let memory = budget.map(|budget| {
            let (encode, sample, decode) = (budget.encode, budget.sample, budget.decode);
            serde_json::json!({
                "encode": encode, "sample": sample, "decode": decode, "peak": budget.peak(),
            })
        });
        let mut object = serde_json::json!({
            "schema": SCHEMA, "event": "plan", "model": model, "device": device,
            "outputs": outputs, "plan": plan, "summary": pipeline.summary(),
            "memory": memory, "tokens": pipeline.tokens(plan)?,
        });
        if let Some(named) = named {
            object["from_picture"] = serde_json::to_value(named)?;
        }
        return result_json(&object.to_string());
    }
    let pixels = (plan.width * plan.height * 3) as u64;
    let head = format!(
        "# {} of {} ({} raw each){}, nothing was run\n",
        if plan.count == 1 { "1 picture".to_owned() } else { format!("{} pictures", plan.count) },
        plan.size()?,
        bytes(pixels),
        budget.map(|b| format!(", at least {} of memory", bytes(b.peak()))).unwrap_or_default()
    );
    let head = head + &tokens(&pipeline.tokens(plan)?);
    let mut table = toml::Table::new();
    table.insert("model".into(), model.into());
    table.insert("device".into(), device.into());
    table.insert("outputs".into(), outputs.into());
    // TOML has no whole numbers above 2⁶³.
    let seed =
        i64::try_from(plan.seed).map_or_else(|_| plan.seed.to_string().into(), toml::Value::from);
    let mut inner = toml::Table::try_from(Plan { seed: 0, ..plan.clone() })?;
    inner.insert("seed".into(), seed);
    table.insert("plan".into(), inner.into());
    if let Some(named) = named {
        table.insert("from_picture".into(), toml::Value::try_from(named)?);
    }
    result_line(block(&(head + &table.to_string())).trim_end())
}

/// A line for each text that has tokens: how many, and in which chunks.
fn tokens(counts: &[TokenCount]) -> String {
    let line = |count: &TokenCount| {
        let numbers: Vec<String> = count.chunks.iter().map(ToString::to_string).collect();
        let chunks = match numbers.len() {
            1 => format!("of {} in a chunk", count.room),
            many => format!("in {many} chunks of {}", count.room),
        };
        format!("# {}: {} tokens {chunks}\n", count.field.replace('_', " "), numbers.join(" + "))
    };
    let counts = counts.iter().filter(|count| count.chunks.iter().any(|tokens| *tokens > 0));
    counts.map(line).collect()
}
