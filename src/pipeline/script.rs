//! The texts of a plan whose prompts change from step to step.

use super::Plan;

/// What is drawn, and kept away from, at each step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Script {
    /// The prompt's texts, one after the other; one may come again.
    prompts: Vec<(usize, String)>,
    /// Those of the negative prompt.
    negatives: Vec<(usize, String)>,
    /// The different wordings: places in both.
    pairs: Vec<(usize, usize)>,
    /// The wording of each step.
    steps: Vec<usize>,
}

impl Script {
    pub(super) fn new(plan: &Plan) -> Self {
        let schedule = |text: &str| plan.prompt_syntax.schedule(text, plan.steps);
        let (prompts, negatives) = (schedule(&plan.prompt), schedule(&plan.negative_prompt));
        let mut script = Self { prompts, negatives, pairs: Vec::new(), steps: Vec::new() };
        for step in 0..plan.steps {
            let pair = (place(&script.prompts, step), place(&script.negatives, step));
            let known = script.pairs.iter().position(|known| *known == pair);
            script.steps.push(known.unwrap_or(script.pairs.len()));
            if known.is_none() {
                script.pairs.push(pair);
            }
        }
        script
    }

    /// The wording of step `step`, from 0.
    pub(super) fn at(&self, step: usize) -> usize {
        self.steps.get(step).copied().unwrap_or_default()
    }

    /// The wordings: a place in [`prompts`](Self::prompts) and one in [`negatives`](Self::negatives).
    pub(super) fn pairs(&self) -> &[(usize, usize)] {
        &self.pairs
    }

    /// The prompt's texts, one after the other.
    pub(super) fn prompts(&self) -> Vec<&str> {
        self.prompts.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Those of the negative prompt.
    pub(super) fn negatives(&self) -> Vec<&str> {
        self.negatives.iter().map(|(_, text)| text.as_str()).collect()
    }
}

/// The first entry with the text of step `step`, from 0.
fn place(schedule: &[(usize, String)], step: usize) -> usize {
    let now = schedule.iter().find(|(last, _)| step < *last).or(schedule.last());
    let same = |(_, text): &(usize, String)| now.is_some_and(|(_, now)| now == text);
    schedule.iter().position(same).unwrap_or_default()
}
