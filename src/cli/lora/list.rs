//! `colora lora list`.

use crate::cli::model::listed;
use crate::cli::style::{Talk, bytes, result_json, result_line, value};
use crate::cli::{hints, interrupt, setup};
use crate::error::Error;
use crate::pipeline::Cancel;
use crate::store::{Card, LoraEntry};
use anyhow::Result;

/// What `colora lora list` accepts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object a LoRA
    #[arg(long)]
    json: bool,
    /// Compare the files with the sums on their cards, which reads them whole
    #[arg(long)]
    verify: bool,
}

/// Longest text of a column, in characters.
const MOST: usize = 32;

/// Runs `colora lora list`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let store = setup()?.store;
    let entries = store.loras();
    let unreadable = store.unreadable_loras();
    for error in &unreadable {
        talk.warn_of(error);
    }
    let cancel = Cancel::new();
    interrupt::install(&cancel)?;
    let mut rows = Vec::new();
    for entry in &entries {
        let verified = if args.verify { verify(entry, &cancel, talk)? } else { None };
        warn(entry, verified, talk);
        if args.json {
            let mut value = listed(serde_json::to_value(entry)?);
            if args.verify {
                value["verified"] = verified.into();
            }
            result_json(&value.to_string())?;
        } else {
            rows.push(row(entry));
        }
    }
    if !args.json && rows.is_empty() && unreadable.is_empty() {
        talk.say("no LoRAs yet; `colora lora add FILE` puts one in place");
    }
    table(&rows)
}

/// A file that cannot be read is no reason to hide the others.
fn verify(entry: &LoraEntry, cancel: &Cancel, talk: Talk) -> Result<Option<bool>> {
    match entry.verify(cancel) {
        Err(error @ Error::Io { .. }) => {
            talk.say(&format!("warning: {}", hints::of_error(&error)));
            Ok(None)
        }
        other => Ok(other?),
    }
}

fn warn(entry: &LoraEntry, verified: Option<bool>, talk: Talk) {
    if let Some(warning) = &entry.warning {
        talk.say(&format!("warning: {warning}"));
    }
    if verified == Some(false) {
        let path = entry.path.display();
        talk.say(&format!("warning: {path} is not the file that its card describes"));
    }
}

/// Name, size, weight, trigger words, title, path.
fn row(entry: &LoraEntry) -> [String; 6] {
    let none = Card::default();
    let card = entry.card.as_ref().unwrap_or(&none);
    let weight = card.weight.map(|weight| weight.to_string()).unwrap_or_default();
    let title = card.title.clone().unwrap_or_default();
    [
        flat(&entry.name),
        format!("{:>8}", bytes(entry.bytes)),
        weight,
        short(&card.trigger_words.join(", ")),
        short(&title),
        flat(&entry.path.display().to_string()),
    ]
}

fn flat(text: &str) -> String {
    value(text).into_owned()
}

fn short(text: &str) -> String {
    let text = flat(text);
    if text.chars().count() <= MOST {
        return text;
    }
    text.chars().take(MOST - 1).chain(['…']).collect()
}

/// Prints rows with aligned columns; columns that are empty in all rows are left out.
fn table(rows: &[[String; 6]]) -> Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in rows {
        let cells = row.iter().zip(widths).filter(|(_, width)| *width > 0);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        result_line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_safe_and_short() {
        let card = Card {
            title: Some("x\x1b[2J".repeat(20)),
            trigger_words: vec!["a".into(), "b".into()],
            weight: Some(0.8),
            ..Card::default()
        };
        let (name, path) = ("n\nm".to_owned(), "p".into());
        let entry = LoraEntry { name, bytes: 1500, path, card: Some(card), warning: None };
        let [name, size, weight, words, title, _] = row(&entry);
        assert_eq!((name.as_str(), size.trim(), weight.as_str()), ("n\\nm", "1.5 kB", "0.8"));
        assert_eq!((words.as_str(), title.chars().count()), ("a, b", MOST));
        assert!(title.ends_with('…') && !title.contains('\x1b'));
    }
}
