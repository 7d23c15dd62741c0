//! The order of jobs: model, LoRAs, size and prompt change as seldom as they can, in this precedence. Among jobs that
//! are equal in all of these, and among groups, the order of the file stays.

use super::check::Ready;
use std::collections::HashMap;

/// How often something changes from one job to the next, the first one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Models.
    pub models: usize,
    /// LoRAs or their strengths.
    pub stacks: usize,
    /// Sizes.
    pub shapes: usize,
}

/// Puts jobs into the cheapest order.
pub fn order(jobs: &mut [Ready]) {
    let (mut models, mut stacks, mut shapes, mut prompts) =
        (Ranks::default(), Ranks::default(), Ranks::default(), Ranks::default());
    for job in jobs.iter() {
        models.meet(&job.model);
        stacks.meet(&job.stack);
        shapes.meet(&shape(job));
        prompts.meet(&prompt(job));
    }
    jobs.sort_by_cached_key(|job| {
        let stack = (models.of(&job.model), stacks.of(&job.stack));
        (stack, shapes.of(&shape(job)), prompts.of(&prompt(job)))
    });
}

/// How often things change in this order.
pub fn changes(jobs: &[Ready]) -> Changes {
    let mut changes = Changes::default();
    let mut before: Option<&Ready> = None;
    for job in jobs {
        let same_model = before.is_some_and(|other| other.model == job.model);
        changes.models += usize::from(!same_model);
        let stack = same_model && before.is_some_and(|other| other.stack == job.stack);
        changes.stacks += usize::from(!stack);
        changes.shapes += usize::from(before.is_none_or(|other| shape(other) != shape(job)));
        before = Some(job);
    }
    changes
}

fn shape(job: &Ready) -> String {
    format!("{}x{}", job.plan.width, job.plan.height)
}

fn prompt(job: &Ready) -> String {
    format!("{}\n{}", job.plan.prompt, job.plan.negative_prompt)
}

/// Things by the place at which they are first met.
#[derive(Default)]
struct Ranks(HashMap<String, usize>);

impl Ranks {
    fn meet(&mut self, name: &str) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), self.0.len());
        }
    }

    fn of(&self, name: &str) -> usize {
        self.0.get(name).copied().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Job;
    use crate::family::Defaults;
    use crate::pipeline::Request;
    use std::collections::BTreeMap;

    fn job(line: usize, model: &str, stack: &str, width: usize) -> Ready {
        let request = Request { width: Some(width), ..Request::default() };
        Ready {
            id: line.to_string(),
            named: false,
            content: line.to_string(),
            line,
            plan: request.plan(&Defaults::of_unknown_model(), 0).unwrap(),
            job: Job { request, ..Job::default() },
            labels: BTreeMap::new(),
            model: model.into(),
            stack: stack.into(),
            files: Vec::new(),
            doomed: None,
        }
    }

    #[test]
    fn what_is_dear_changes_least() {
        let mut jobs: Vec<Ready> = (0..24)
            .map(|n| job(n, ["b", "a"][n % 2], ["", "x", "y"][n % 3], [64, 128][n / 2 % 2]))
            .collect();
        assert_eq!(changes(&jobs).stacks, 24);
        order(&mut jobs);
        assert_eq!(changes(&jobs), Changes { models: 2, stacks: 6, shapes: 12 });
        assert_eq!(jobs[0].line, 0, "the first job stays the first");
        let mut same: Vec<Ready> = (0..9).map(|n| job(n, "a", "", 64)).collect();
        order(&mut same);
        assert!(
            same.iter().enumerate().all(|(at, job)| job.line == at),
            "equal jobs keep their order"
        );
    }
}
