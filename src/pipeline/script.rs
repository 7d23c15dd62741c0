//! The texts of a plan whose prompts change from step to step.

use super::Plan;
use crate::conditioning::{Text, Wording};
use std::collections::BTreeSet;

/// What is drawn, and kept away from, at each step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    /// The parts of the prompt, at least one.
    parts: Vec<Line>,
    /// How much each counts.
    weights: Vec<f64>,
    negative: Line,
    /// The different wordings of the steps.
    wordings: Vec<Wording>,
    /// The wording of each step.
    steps: Vec<usize>,
}

/// Texts that follow each other; one may come again.
#[derive(Debug, Clone, PartialEq)]
struct Line(Vec<Entry>);

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// The last step, from 1.
    last: usize,
    text: String,
    /// What the second text encoder reads.
    second: Option<String>,
}

impl Script {
    pub(super) fn new(plan: &Plan) -> Self {
        let found = plan.prompt_syntax.parts(&plan.prompt);
        let weights = found.iter().map(|part| part.weight).collect();
        let second = plan.prompt_2.as_deref();
        let parts = found.iter().map(|part| Line::new(plan, &part.text, second)).collect();
        let negative = Line::new(plan, &plan.negative_prompt, plan.negative_prompt_2.as_deref());
        let (wordings, steps) = (Vec::new(), Vec::new());
        let mut script = Self { parts, weights, negative, wordings, steps };
        for step in 0..plan.steps {
            let wording = Wording {
                prompts: script.parts.iter().map(|part| part.place(step)).collect(),
                negative: script.negative.place(step),
            };
            let known = script.wordings.iter().position(|known| *known == wording);
            script.steps.push(known.unwrap_or(script.wordings.len()));
            if known.is_none() {
                script.wordings.push(wording);
            }
        }
        script
    }

    /// The wording of step `step`, from 0.
    pub(super) fn at(&self, step: usize) -> usize {
        self.steps.get(step).copied().unwrap_or_default()
    }

    /// The different wordings.
    pub(super) fn wordings(&self) -> &[Wording] {
        &self.wordings
    }

    /// The texts of each part of the prompt, one after the other.
    pub(super) fn prompts(&self) -> Vec<Vec<Text<'_>>> {
        self.parts.iter().map(Line::texts).collect()
    }

    /// How much each part counts.
    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The texts of the negative prompt.
    pub(super) fn negatives(&self) -> Vec<Text<'_>> {
        self.negative.texts()
    }
}

impl Line {
    /// The schedule of a text, and of what the second text encoder reads beside it.
    fn new(plan: &Plan, text: &str, second: Option<&str>) -> Self {
        let schedule = |text: &str| plan.prompt_syntax.schedule(text, plan.steps);
        let (first, second) = (schedule(text), second.map(schedule));
        let lists = [Some(&first), second.as_ref()];
        let ends = lists.into_iter().flatten().flatten().map(|(last, _)| *last);
        let ends: BTreeSet<usize> = ends.collect();
        let entry = |last: usize| Entry {
            last,
            text: now(&first, last).to_owned(),
            second: second.as_ref().map(|second| now(second, last).to_owned()),
        };
        Self(ends.into_iter().map(entry).collect())
    }

    /// The first entry with the text of step `step`, from 0.
    fn place(&self, step: usize) -> usize {
        let now = self.0.iter().find(|entry| step < entry.last).or(self.0.last());
        let same = |entry: &Entry| {
            now.is_some_and(|now| (&now.text, &now.second) == (&entry.text, &entry.second))
        };
        self.0.iter().position(same).unwrap_or_default()
    }

    fn texts(&self) -> Vec<Text<'_>> {
        let entries = self.0.iter();
        entries
            .map(|Entry { text, second, .. }| Text { first: text, second: second.as_deref() })
            .collect()
    }
}

/// The text of step `step`, from 1.
fn now(schedule: &[(usize, String)], step: usize) -> &str {
    let found = schedule.iter().find(|(last, _)| step <= *last).or(schedule.last());
    found.map_or("", |(_, text)| text)
}
