//! Files of tables, TOML or YAML: `[defaults]`, `[[job]]` and `[matrix]`.
//!
//! The values of `[defaults]` hold for every job that does not set them. `[matrix]` holds lists; each job is made with
//! every combination of their values. A range stands for a list of numbers: `"0..1:0.25"` or `"0..1/5"`.

mod node;
mod toml;
#[cfg(feature = "yaml")]
mod yaml;

use super::draft::Draft;
use super::key::Key;
use super::range::range;
use super::text::Read;
use crate::error::{Error, LineError, Result};
use crate::pipeline::fields::check_type;
use crate::suggest::did_you_mean;
use node::{Entry, Kind, Node};
use serde_json::Value;

/// The tables of a file.
const TABLES: [&str; 3] = ["defaults", "job", "matrix"];
/// Most combinations.
const MOST: usize = 100_000;

/// A list of values for the key `name`.
struct Axis {
    name: String,
    values: Vec<Value>,
}

/// Reads TOML.
pub(super) fn read_toml(text: &str) -> Read {
    read(toml::parse(text))
}

/// Reads YAML.
#[cfg(feature = "yaml")]
pub(super) fn read_yaml(text: &str) -> Read {
    read(yaml::parse(text))
}

fn read(root: Result<Node, LineError>) -> Read {
    let mut reader = Reader::default();
    match root {
        Ok(root) => reader.file(root),
        Err(mistake) => reader.read.mistakes.push(mistake),
    }
    reader.read
}

/// Collects the jobs of a file, and what is wrong in it.
#[derive(Default)]
struct Reader {
    read: Read,
}

impl Reader {
    fn mistake(&mut self, line: usize, error: Error) {
        self.read.mistakes.push(LineError::new(line, error));
    }

    fn file(&mut self, root: Node) {
        let (mut defaults, mut jobs, mut matrix) = (None, None, None);
        for Entry { name, value } in self.table(root, "file") {
            match name.as_str() {
                "defaults" => defaults = Some(value),
                "job" | "jobs" => jobs = Some(value),
                "matrix" => matrix = Some(value),
                _ => {
                    let near = match did_you_mean(&name, TABLES) {
                        near if near.is_empty() => {
                            "; values for all jobs stand in [defaults]".to_owned()
                        }
                        near => near,
                    };
                    let error = Error::bad_request("table", &name, format!("unknown{near}"));
                    self.mistake(value.line, error);
                }
            }
        }
        let defaults = self.defaults(defaults);
        let at = matrix.as_ref().map_or(1, |matrix| matrix.line);
        let axes = self.axes(matrix);
        let jobs = match jobs {
            None if axes.is_empty() => Vec::new(),
            None => vec![Node { line: at, kind: Kind::Table(Vec::new()) }],
            Some(Node { kind: Kind::List(jobs), .. }) => jobs,
            Some(job) => vec![job],
        };
        let mut drafts = Vec::new();
        for job in jobs {
            let draft = self.job(job, &defaults);
            if let Err(error) = combine(&draft, &axes, &mut drafts) {
                self.mistake(at, error);
                break;
            }
        }
        self.read.drafts = drafts;
    }

    fn defaults(&mut self, node: Option<Node>) -> Draft {
        let Some(node) = node else { return Draft::new(1) };
        let mut defaults = Draft::new(node.line);
        for Entry { name, value } in self.table(node, "defaults") {
            let line = value.line;
            if let Err(error) = defaults.set(&name, value.into_value()) {
                self.mistake(line, error);
            }
        }
        defaults
    }

    fn job(&mut self, node: Node, defaults: &Draft) -> Draft {
        let mut draft = Draft { line: node.line, ..defaults.clone() };
        for Entry { name, value } in self.table(node, "job") {
            let line = value.line;
            if let Err(error) = set(&mut draft, &name, value.into_value()) {
                self.mistake(line, error);
            }
        }
        draft
    }

    /// The lists of `[matrix]`.
    fn axes(&mut self, node: Option<Node>) -> Vec<Axis> {
        let mut axes = Vec::new();
        let Some(node) = node else { return axes };
        for Entry { name, value } in self.table(node, "matrix") {
            let line = value.line;
            let values = values(&name, value.into_value()).and_then(|values| {
                let each = |value: &Value| Draft::new(line).set(&name, value.clone());
                values.iter().try_for_each(each).map(|()| values)
            });
            match values {
                Ok(values) => axes.push(Axis { name, values }),
                Err(error) => self.mistake(line, error),
            }
        }
        axes
    }

    /// The entries of a table; `name`: what it is called where it is none.
    fn table(&mut self, node: Node, name: &'static str) -> Vec<Entry> {
        match node.kind {
            Kind::Table(entries) => entries,
            Kind::One(Value::Null) => Vec::new(),
            _ => {
                let value = node.clone().into_value();
                let error =
                    Error::bad_request("table", name, format!("expected a table, not {value}"));
                self.mistake(node.line, error);
                Vec::new()
            }
        }
    }
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
        let read = read_toml(FILE);
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
    fn mistakes_name_their_line() {
        let wrong = |text: &str| {
            let read = read_toml(text);
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

    #[test]
    fn the_last_axis_of_the_file_changes_first() {
        let read = read_toml("[matrix]\nsteps = [1, 2]\nseed = [3, 4]\n");
        let pairs: Vec<String> = read
            .drafts
            .iter()
            .map(|draft| format!("{} {}", draft.values["steps"], draft.values["seed"]))
            .collect();
        assert_eq!(pairs, ["1 3", "1 4", "2 3", "2 4"]);
    }

    #[cfg(feature = "yaml")]
    #[test]
    fn yaml_holds_the_same_tables() {
        let yaml = r#"# the same
defaults: { steps: 2, loras: ["flat:0.8"] }

job:

  - prompt: a red apple
    repeat: 2
  - prompt: a cat
    steps: 3


    loras: [{ name: gold, weight: 0.5 }]
matrix:
  seed: [1, 2]
  lora.santa: 0..1:0.5
"#;
        let mut toml = read_toml(FILE);
        let mut yaml = read_yaml(yaml);
        assert!(yaml.mistakes.is_empty(), "{:?}", yaml.mistakes);
        assert_eq!((yaml.drafts[0].line, yaml.drafts[11].line), (6, 8));
        for draft in toml.drafts.iter_mut().chain(&mut yaml.drafts) {
            draft.line = 0;
        }
        assert_eq!(yaml.drafts, toml.drafts);
    }

    #[cfg(feature = "yaml")]
    #[test]
    fn mistakes_in_yaml_name_their_line() {
        for (text, line, part) in [
            ("job:\n  - prompt: a\n    stepz: 3\n", 3, "`steps`"),
            ("defualts:\n  steps: 3\n", 1, "`defaults`"),
            ("job: [a]\n", 1, "a table"),
            ("job:\n  - prompt: [a\n", 2, "yaml"),
            ("- a\n", 1, "a table"),
        ] {
            let read = read_yaml(text);
            assert_eq!(read.mistakes.len(), 1, "{text}: {:?}", read.mistakes);
            let error = read.mistakes[0].error.to_string();
            assert!(
                read.mistakes[0].line.abs_diff(line) <= 1 && error.contains(part),
                "{text}: {} {error}",
                read.mistakes[0].line
            );
        }
        // Aliases that multiply are cut off by the parser's budget.
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let before = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(","));
        }
        assert_eq!(read_yaml(&bomb).mistakes.len(), 1);
    }
}
