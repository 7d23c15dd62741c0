//! Names of the pictures of a list.

use super::ready::Ready;
use crate::app::safe;
use crate::error::{Error, LineError, Result};
use crate::suggest::did_you_mean;
use std::collections::HashMap;

/// Jobs above which pictures lie in folders of their own, by the first two letters of their names.
const FLAT: usize = 10_000;
/// What a template may hold beside `label.NAME`.
const FIELDS: [(&str, Field); 9] = [
    ("id", Field::Id),
    ("line", Field::Line),
    ("repeat", Field::Repeat),
    ("seed", Field::Seed),
    ("model", Field::Model),
    ("prompt", Field::Prompt),
    ("width", Field::Width),
    ("height", Field::Height),
    ("steps", Field::Steps),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Id,
    Line,
    Repeat,
    Seed,
    Model,
    Prompt,
    Width,
    Height,
    Steps,
    Label(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

/// How pictures are called: by the ids of their jobs, unless a template says otherwise.
#[derive(Debug, Clone)]
pub struct Names {
    template: Option<Vec<Piece>>,
    nested: bool,
}

impl Names {
    /// The names of a list of `jobs` jobs, by their ids.
    pub fn of_ids(jobs: usize) -> Self {
        Self { template: None, nested: jobs > FLAT }
    }

    /// Names by a template: text with `{id}`, `{line}`, `{repeat}`, `{seed}`, `{model}`, `{prompt}`, `{width}`,
    /// `{height}`, `{steps}` and `{label.NAME}`; `/` parts folders.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for unknown fields, stray braces and names that lead out of the folder.
    pub fn by(template: &str) -> Result<Self> {
        let bad = |why: String| Error::bad_request("name", template, why);
        let stem = template.strip_suffix(".png").unwrap_or(template);
        let leads_out =
            |part: &str| part.is_empty() || part.starts_with('.') || part.contains('\\');
        if stem.split('/').any(leads_out) || stem.contains('\0') {
            return Err(bad(
                "expected names below the folder, none of which begins with `.`".into()
            ));
        }
        Ok(Self { template: Some(parse(stem).map_err(bad)?), nested: false })
    }

    /// Jobs that would have the same name, as mistakes that name both lines.
    pub fn check(&self, jobs: &[Ready]) -> Vec<LineError> {
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut mistakes = Vec::new();
        if self.template.is_none() {
            return mistakes;
        }
        for job in jobs {
            let (name, _) = self.of(job);
            match lines.get(&name) {
                Some(line) => {
                    let why = format!(
                        "line {line} has the same; {{id}} in the template tells them apart"
                    );
                    mistakes.push(LineError::new(job.line, Error::bad_request("name", name, why)));
                }
                None => drop(lines.insert(name, job.line)),
            }
        }
        mistakes
    }

    /// Whether a name says by itself which job its picture is of.
    pub(super) fn are_ids(&self) -> bool {
        let id = Piece::Field(Field::Id);
        self.template.as_ref().is_none_or(|pieces| pieces.contains(&id))
    }

    /// The name of a job's picture, and another one that it may have from an earlier run.
    pub(super) fn of(&self, job: &Ready) -> (String, Option<String>) {
        if let Some(pieces) = &self.template {
            let name: String = pieces.iter().map(|piece| piece.of(job)).collect();
            return (name + ".png", None);
        }
        let flat = format!("{}.png", job.id);
        let prefix: String = job.id.chars().take(2).collect();
        let nested = format!("{prefix}/{flat}");
        if self.nested { (nested, Some(flat)) } else { (flat, Some(nested)) }
    }
}

impl Piece {
    fn of(&self, ready: &Ready) -> String {
        let job = || ready.job().unwrap_or_default();
        match self {
            Self::Text(text) => text.clone(),
            Self::Field(Field::Id) => ready.id.clone(),
            Self::Field(Field::Line) => format!("{:06}", ready.line),
            Self::Field(Field::Repeat) => (ready.repeat + 1).to_string(),
            Self::Field(Field::Seed) => ready.seed.to_string(),
            Self::Field(Field::Model) => safe(job().model_name()),
            Self::Field(Field::Prompt) => safe(&job().request.prompt),
            Self::Field(Field::Width) => ready.width.to_string(),
            Self::Field(Field::Height) => ready.height.to_string(),
            Self::Field(Field::Steps) => ready.steps.to_string(),
            Self::Field(Field::Label(name)) => {
                safe(ready.labels.get(name).map_or("", String::as_str))
            }
        }
    }
}

fn parse(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        pieces.push(Piece::Text(rest[..at].to_owned()));
        let Some((name, after)) = rest[at..].strip_prefix('{').and_then(|r| r.split_once('}'))
        else {
            return Err("a brace stands alone; expected {FIELD}".into());
        };
        pieces.push(Piece::Field(field(name)?));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

fn field(name: &str) -> Result<Field, String> {
    if let Some(label) = name.strip_prefix("label.").filter(|label| !label.is_empty()) {
        return Ok(Field::Label(label.to_owned()));
    }
    let found = FIELDS.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, field)| field).ok_or_else(|| {
        let near = did_you_mean(name, FIELDS.iter().map(|(known, _)| *known));
        let known: Vec<String> = FIELDS.iter().map(|(known, _)| format!("{{{known}}}")).collect();
        let also = if near.is_empty() { ";" } else { "" };
        format!("unknown field `{name}`{near}{also} there are {} {{label.NAME}}", known.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_name_pictures() {
        let mut job = Ready::sample(7, "m", "", 64);
        job.labels.insert("set".into(), "../a b".into());
        for (template, name) in [
            ("{id}", "7.png"),
            ("{line}-{seed}.png", "000007-0.png"),
            ("{label.set}/{width}x{height}-{steps}-{repeat}", "a-b/64x512-20-1.png"),
            ("{model}/{prompt}_{label.none}", "starter/untitled_untitled.png"),
        ] {
            let (found, other) = Names::by(template).unwrap().of(&job);
            let expected = name.replace("512", &job.height.to_string());
            let expected = expected.replace("-20-", &format!("-{}-", job.steps));
            assert_eq!((found, other), (expected, None), "{template}");
        }
        for bad in ["{", "}", "{ids}", "../x", "/x", "a//b", "a\\b", ".x", "", "{label.}"] {
            assert!(Names::by(bad).is_err(), "{bad}");
        }
        let error = Names::by("{lin}").unwrap_err().to_string();
        assert!(error.contains("`line`"), "{error}");
    }

    #[test]
    fn names_that_meet_are_mistakes() {
        let jobs = [Ready::sample(3, "m", "", 64), Ready::sample(4, "m", "", 64)];
        let mistakes = Names::by("{seed}").unwrap().check(&jobs);
        assert_eq!((mistakes.len(), mistakes[0].line), (1, 4));
        assert!(mistakes[0].error.to_string().contains("line 3"));
        assert!(Names::by("{seed}-{id}").unwrap().check(&jobs).is_empty());
        assert!(Names::by("{id}").unwrap().are_ids() && !Names::by("{line}").unwrap().are_ids());
    }
}
