//! The order of jobs: model, LoRAs, size and prompt change as seldom as they can, in this precedence. Among jobs that
//! are equal in all of these, and among groups, the order of the file stays.

use super::ready::Ready;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::Hash;

/// In which order jobs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The cheapest.
    #[default]
    Cost,
    /// That of the file.
    File,
}

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
    let (mut models, mut stacks, mut shapes, mut texts) =
        (Ranks::default(), Ranks::default(), Ranks::default(), Ranks::default());
    for job in jobs.iter() {
        models.meet(job.networks.model.as_str());
        stacks.meet(job.networks.stack.as_str());
        shapes.meet(shape(job));
        texts.meet(job.texts);
    }
    let ranks: Vec<_> = jobs
        .iter()
        .map(|job| {
            let networks = &job.networks;
            let stack = (models.of(&networks.model.as_str()), stacks.of(&networks.stack.as_str()));
            (stack, shapes.of(&shape(job)), texts.of(&job.texts))
        })
        .collect();
    let mut places: Vec<usize> = (0..jobs.len()).collect();
    places.sort_by_key(|place| ranks[*place]);
    arrange(jobs, places);
}

/// Moves the job at `places[n]` to place n.
fn arrange(jobs: &mut [Ready], mut places: Vec<usize>) {
    for start in 0..jobs.len() {
        let mut at = start;
        while places[at] != start {
            let from = std::mem::replace(&mut places[at], at);
            jobs.swap(at, from);
            at = from;
        }
        places[at] = at;
    }
}

/// How often things change in this order.
pub fn changes(jobs: &[Ready]) -> Changes {
    let mut changes = Changes::default();
    let mut before: Option<&Ready> = None;
    for job in jobs {
        let same_model = before.is_some_and(|other| other.networks.model == job.networks.model);
        changes.models += usize::from(!same_model);
        let same = |other: &Ready| other.networks.stack == job.networks.stack;
        let stack = same_model && before.is_some_and(same);
        changes.stacks += usize::from(!stack);
        changes.shapes += usize::from(before.is_none_or(|other| shape(other) != shape(job)));
        before = Some(job);
    }
    changes
}

fn shape(job: &Ready) -> (usize, usize) {
    (job.width, job.height)
}

/// Things by the place at which they are first met.
struct Ranks<T>(HashMap<T, usize>);

impl<T> Default for Ranks<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Ranks<T> {
    fn meet(&mut self, thing: T) {
        let next = self.0.len();
        self.0.entry(thing).or_insert(next);
    }

    fn of(&self, thing: &T) -> usize {
        self.0.get(thing).copied().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dear_changes_least() {
        let mut jobs: Vec<Ready> = (0..24)
            .map(|n| {
                Ready::sample(n, ["b", "a"][n % 2], ["", "x", "y"][n % 3], [64, 128][n / 2 % 2])
            })
            .collect();
        assert_eq!(changes(&jobs).stacks, 24);
        order(&mut jobs);
        assert_eq!(changes(&jobs), Changes { models: 2, stacks: 6, shapes: 12 });
        assert_eq!(jobs[0].line, 0, "the first job stays the first");
        let mut same: Vec<Ready> = (0..9).map(|n| Ready::sample(n, "a", "", 64)).collect();
        order(&mut same);
        assert!(
            same.iter().enumerate().all(|(at, job)| job.line == at),
            "equal jobs keep their order"
        );
    }
}
