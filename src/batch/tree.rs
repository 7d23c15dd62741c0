//! TOML: `[defaults]`, `[[job]]` and `[matrix]`.
//!
//! The values of `[defaults]` hold for every job that does not set them. `[matrix]` holds lists; each job is made with
//! every combination of their values. A range stands for a list of numbers: `"0..1:0.25"` or `"0..1/5"`.

use super::draft::Draft;
use super::key::Key;
use super::text::Read;
use crate::error::{Error, LineError, Result};
use crate::pipeline::fields::check_type;
use crate::suggest::did_you_mean;
use serde_json::Value;

/// The tables of a file.
const TABLES: [&str; 3] = ["defaults", "job", "matrix"];
/// Most values of a range, and most combinations.
const MOST: usize = 100_000;

/// A list of values for the key `name`.
struct Axis {
    name: String,
    values: Vec<Value>,
}

/// Reads a file.
pub(super) fn read(text: &str) -> Read {
    let mut read = Read::default();
    let mut table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
            let error = Error::bad_request("toml", "", error.message().to_owned());
            read.mistakes.push(LineError::new(line, error));
            return read;
        }
    };
    let lines = Lines::of(text);
    for key in table.keys().filter(|key| !TABLES.contains(&key.as_str())) {
        let hint = "; values for all jobs stand in [defaults]";
        let near = did_you_mean(key, TABLES);
        let near = if near.is_empty() { hint.to_owned() } else { near };
        let error = Error::bad_request("table", key, format!("unknown{near}"));
        read.mistakes.push(LineError::new(lines.key(0, key), error));
    }
    let mut mistake = |line: usize, error: Error| read.mistakes.push(LineError::new(line, error));
    let at = lines.header("[defaults]");
    let mut defaults = Draft::new(at);
    for (key, value) in table_of(table.remove("defaults"), "defaults", at, &mut mistake) {
        if let Err(error) = json(value).and_then(|value| defaults.set(&key, value)) {
            mistake(lines.key(at, &key), error);
        }
    }
    let axes = axes(table.remove("matrix"), &lines, &mut mistake);
    let has_matrix = !axes.is_empty();
    let jobs = match table.remove("job") {
        None if has_matrix => vec![toml::Value::Table(toml::Table::new())],
        None => Vec::new(),
        Some(toml::Value::Array(jobs)) => jobs,
        Some(other) => vec![other],
    };
    let mut drafts = Vec::new();
    for (number, job) in jobs.into_iter().enumerate() {
        let at = lines.job(number);
        let mut draft = Draft { line: at, ..defaults.clone() };
        for (key, value) in table_of(Some(job), "job", at, &mut mistake) {
            if let Err(error) = json(value).and_then(|value| set(&mut draft, &key, value)) {
                mistake(lines.key(at, &key), error);
            }
        }
        if let Err(error) = combine(&draft, &axes, &mut drafts) {
            mistake(lines.header("[matrix]"), error);
            break;
        }
    }
    read.drafts = drafts;
    read
}

/// Sets a value of a job; one that repeats has nothing to do with the repeats of the defaults.
fn set(draft: &mut Draft, key: &str, value: Value) -> Result<()> {
    if matches!(Key::of(key), Ok(Key::Repeat)) {
        draft.repeat = None;
    }
    draft.set(key, value)
}

/// Adds `draft` with every combination of the values of `axes`; the last axis changes first.
fn combine(draft: &Draft, axes: &[Axis], drafts: &mut Vec<Draft>) -> Result<()> {
    let all = axes.iter().try_fold(1_usize, |all, axis| all.checked_mul(axis.values.len()));
    let all = all.filter(|all| all + drafts.len() <= MOST).ok_or_else(|| Error::Limit {
        what: "combinations of [matrix]",
        allowed: MOST as u64,
        asked: axes.iter().fold(1, |all: u64, axis| all.saturating_mul(axis.values.len() as u64)),
    })?;
    for number in 0..all {
        let mut made = draft.clone();
        let mut rest = number;
        for axis in axes.iter().rev() {
            let value = axis.values[rest % axis.values.len()].clone();
            rest /= axis.values.len();
            set(&mut made, &axis.name, value)?;
        }
        drafts.push(made);
    }
    Ok(())
}

/// The lists of `[matrix]`.
fn axes(
    matrix: Option<toml::Value>,
    lines: &Lines<'_>,
    mistake: &mut dyn FnMut(usize, Error),
) -> Vec<Axis> {
    let at = lines.header("[matrix]");
    let mut axes = Vec::new();
    for (name, value) in table_of(matrix, "matrix", at, mistake) {
        let values = json(value).and_then(|value| values(&name, value));
        let checked = values.and_then(|values| {
            let each = |value: &Value| Draft::new(at).set(&name, value.clone());
            values.iter().try_for_each(each).map(|()| values)
        });
        match checked {
            Ok(values) => axes.push(Axis { name, values }),
            Err(error) => mistake(lines.key(at, &name), error),
        }
    }
    axes
}

/// The values of an axis.
fn values(name: &str, value: Value) -> Result<Vec<Value>> {
    let is_number = match Key::of(name)? {
        Key::Strength(_) => true,
        Key::Field(field) => check_type(field.key, &Value::from(1)).is_ok(),
        Key::Id => {
            return Err(Error::bad_request("matrix", name, "several jobs would have one id"));
        }
        _ => false,
    };
    let values = match value {
        Value::Array(values) => values,
        Value::String(text) if is_number && text.contains("..") => range(&text)?,
        other => vec![other],
    };
    if values.is_empty() {
        return Err(Error::bad_request("matrix", name, "a list without values makes no job"));
    }
    Ok(values)
}

/// The numbers of `A..B:STEP`, of which B is one when a step hits it, or of `A..B/N`: N numbers at equal distances.
fn range(text: &str) -> Result<Vec<Value>> {
    let why = "expected FROM..TO:STEP or FROM..TO/HOW_MANY";
    let wrong = || Error::bad_request("matrix", text, why);
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
    let (from, rest) = text.split_once("..").ok_or_else(wrong)?;
    let (to, step, count) = match (rest.split_once(':'), rest.split_once('/')) {
        (Some((to, step)), _) => (to, number(step).ok_or_else(wrong)?, None),
        (None, Some((to, count))) => (to, 0.0, Some(count.trim().parse().map_err(|_| wrong())?)),
        (None, None) => (rest, 1.0, None),
    };
    let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
    let count: usize = match count {
        Some(count) => count,
        None if step != 0.0 && (to - from) / step >= 0.0 => {
            ((to - from) / step + 0.001) as usize + 1
        }
        None => return Err(wrong()),
    };
    if !(1..=MOST).contains(&count) {
        return Err(wrong());
    }
    let step = if step == 0.0 && count > 1 { (to - from) / (count - 1) as f64 } else { step };
    // Sums of decimal steps end in noise that nobody wants in names and records.
    let short = |x: f64| (x * 1e9).round() / 1e9;
    let value = |at: usize| {
        let x = short(from + step * at as f64);
        if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) }
    };
    Ok((0..count).map(value).collect())
}

/// The entries of a table.
fn table_of(
    value: Option<toml::Value>,
    name: &'static str,
    line: usize,
    mistake: &mut dyn FnMut(usize, Error),
) -> toml::Table {
    match value {
        None => toml::Table::new(),
        Some(toml::Value::Table(table)) => table,
        Some(other) => {
            mistake(
                line,
                Error::bad_request("table", name, format!("expected a table, not {other}")),
            );
            toml::Table::new()
        }
    }
}

fn json(value: toml::Value) -> Result<Value> {
    if let toml::Value::Datetime(date) = value {
        return Err(Error::bad_request("key", date, "expected a text or a number"));
    }
    serde_json::to_value(value).map_err(|error| Error::Internal(format!("toml: {error}")))
}

/// Where headers and keys stand, for errors: tables themselves do not remember it.
struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self(text.lines().map(str::trim_start).collect())
    }

    /// The line of a header; 1 when it is written in another way.
    fn header(&self, header: &str) -> usize {
        self.0.iter().position(|line| line.starts_with(header)).map_or(1, |at| at + 1)
    }

    /// The line of the header of job `number`.
    fn job(&self, number: usize) -> usize {
        let mut headers = self.0.iter().enumerate().filter(|(_, line)| line.starts_with("[[job]]"));
        headers.nth(number).map_or(1, |(at, _)| at + 1)
    }

    /// The line of a key in the table whose header is line `header`; the header's own when it is not found.
    fn key(&self, header: usize, key: &str) -> usize {
        let is_key = |line: &str| {
            let line = line.trim_start_matches('"').strip_prefix(key);
            line.is_some_and(|rest| rest.trim_start_matches('"').trim_start().starts_with('='))
        };
        let lines = self.0.iter().enumerate().skip(header);
        let mut table = lines.take_while(|(_, line)| header == 0 || !line.starts_with('['));
        table.find(|(_, line)| is_key(line)).map_or(header.max(1), |(at, _)| at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[defaults]
steps = 2
loras = ["flat:0.8"]

[[job]]
prompt = "a red apple"
repeat = 2

[[job]]
prompt = "a cat"
steps = 3
loras = [{ name = "gold", weight = 0.5 }]

[matrix]
seed = [1, 2]
"lora.santa" = "0..1:0.5"
"#;

    #[test]
    fn every_job_is_made_with_every_combination() {
        let read = read(FILE);
        assert!(read.mistakes.is_empty(), "{:?}", read.mistakes);
        assert_eq!(read.drafts.len(), 12);
        let first = &read.drafts[0];
        assert_eq!((first.line, &first.values["steps"], first.repeat), (6, &2.into(), Some(2)));
        assert_eq!(first.values["loras"][0]["name"], "flat");
        let last = &read.drafts[11];
        assert_eq!((&last.values["steps"], &last.values["seed"]), (&3.into(), &2.into()));
        assert_eq!(last.values["loras"][0]["name"], "gold");
        assert_eq!(last.strengths[0].to_string(), "santa:1");
    }

    #[test]
    fn ranges() {
        let numbers = |text: &str| Value::Array(range(text).unwrap()).to_string();
        assert_eq!(numbers("0..1:0.25"), "[0,0.25,0.5,0.75,1]");
        assert_eq!(numbers("0..1:0.3"), "[0,0.3,0.6,0.9]", "the end is not passed");
        assert_eq!(numbers("0..1/3"), "[0,0.5,1]");
        assert_eq!(numbers("3..1:-1"), "[3,2,1]");
        assert_eq!(numbers("1..3"), "[1,2,3]");
        for bad in ["0..1:0", "0..1:-1", "a..b", "0..1/0", "0..1e9:0.001"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        let wrong = |text: &str| {
            let read = read(text);
            assert_eq!(read.mistakes.len(), 1, "{text}: {:?}", read.mistakes);
            (read.mistakes[0].line, read.mistakes[0].error.to_string())
        };
        assert_eq!(wrong("[[job]]\nprompt = ").0, 2);
        let (line, why) = wrong("[[job]]\nprompt = \"a\"\n[[job]]\nprompt = \"b\"\nstepz = 3\n");
        assert!(line == 5 && why.contains("`steps`"), "{line} {why}");
        let (line, why) = wrong("[defaults]\nsteps = \"x\"\n[[job]]\nprompt = \"a\"\n");
        assert!(line == 2 && why.contains("steps = x"), "{line} {why}");
        assert_eq!(wrong("[defualts]\nsteps = 3\n").0, 1);
        assert_eq!(wrong("[[job]]\nprompt = \"a\"\n[matrix]\nseed = []\n").0, 4);
        assert_eq!(wrong("[[job]]\nprompt = \"a\"\n[matrix]\nid = [\"a\"]\n").0, 4);
    }
}
