//! The order of jobs: model, LoRAs, size and prompt change as seldom as they can, in this precedence. Among jobs that
//! are equal in all of these the order of the file stays.
//!
//! Stacks of one model follow each other by how many LoRA files they share, because what was read a moment ago is still
//! in memory: after each stack comes the one that shares the most with it (greedy nearest neighbour), among equals the
//! first of the file. The number of changes does not depend on it: there are as many as there are stacks, which is the
//! least there can be.

use super::ready::Ready;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;

/// Stacks of a model above which they stay in the order of the file: comparing each with each would take seconds.
const MOST_COMPARED: usize = 5_000;

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
    let (mut models, mut shapes, mut texts, mut siblings) =
        (Ranks::default(), Ranks::default(), Ranks::default(), Ranks::default());
    let stacks = stack_ranks(jobs);
    for job in jobs.iter() {
        models.meet(job.networks.model.as_str());
        shapes.meet(shape(job));
        texts.meet(job.texts);
        siblings.meet(job.siblings);
    }
    let ranks: Vec<_> = jobs
        .iter()
        .map(|job| {
            let networks = &job.networks;
            let stack = stacks.get(&StackOf::of(job)).copied().unwrap_or(usize::MAX);
            let stack = (models.of(&networks.model.as_str()), stack);
            (stack, shapes.of(&shape(job)), texts.of(&job.texts), siblings.of(&job.siblings))
        })
        .collect();
    let mut places: Vec<usize> = (0..jobs.len()).collect();
    places.sort_by_key(|place| ranks[*place]);
    arrange(jobs, places);
}

/// A stack on a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StackOf<'a> {
    model: &'a str,
    stack: &'a str,
}

impl<'a> StackOf<'a> {
    fn of(job: &'a Ready) -> Self {
        Self { model: &job.networks.model, stack: &job.networks.stack }
    }
}

/// The place of every stack among those of its model.
fn stack_ranks(jobs: &[Ready]) -> HashMap<StackOf<'_>, usize> {
    let mut ranks = HashMap::new();
    let mut by_model: HashMap<&str, Vec<(StackOf<'_>, &[PathBuf])>> = HashMap::new();
    for job in jobs {
        let stack = StackOf::of(job);
        if ranks.insert(stack, 0).is_none() {
            by_model.entry(stack.model).or_default().push((stack, &job.networks.files));
        }
    }
    for stacks in by_model.into_values() {
        let files: Vec<&[PathBuf]> = stacks.iter().map(|(_, files)| *files).collect();
        for (rank, at) in neighbours(&files).into_iter().enumerate() {
            ranks.insert(stacks[at].0, rank);
        }
    }
    ranks
}

/// The order in which stacks with these files follow each other.
fn neighbours(files: &[&[PathBuf]]) -> Vec<usize> {
    if files.len() > MOST_COMPARED {
        return (0..files.len()).collect();
    }
    let mut numbers: HashMap<&PathBuf, usize> = HashMap::new();
    let sets: Vec<Vec<usize>> = files
        .iter()
        .map(|files| {
            let number = |file| {
                let next = numbers.len();
                *numbers.entry(file).or_insert(next)
            };
            files.iter().map(number).collect()
        })
        .collect();
    let mut left: Vec<usize> = (0..files.len()).collect();
    let mut order = Vec::with_capacity(files.len());
    while let Some(last) = order.last().copied().or_else(|| left.first().copied()) {
        if left.is_empty() {
            break;
        }
        let shared = |stack: usize| sets[stack].iter().filter(|f| sets[last].contains(f)).count();
        let nearest = left.iter().enumerate().rev().max_by_key(|(_, stack)| shared(**stack));
        let place = nearest.map_or(0, |(place, _)| place);
        order.push(left.remove(place));
    }
    order
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
    use std::collections::HashSet;

    /// What is shared follows each other; stacks without a common file keep the order of the file.
    #[test]
    fn stacks_that_share_files_are_neighbours() {
        let stacks = [vec![], vec!["a", "b"], vec!["c"], vec!["b", "d"], vec!["c", "a"], vec!["d"]];
        let files: Vec<Vec<PathBuf>> =
            stacks.iter().map(|names| names.iter().map(PathBuf::from).collect()).collect();
        let files: Vec<&[PathBuf]> = files.iter().map(Vec::as_slice).collect();
        assert_eq!(neighbours(&files), [0, 1, 3, 5, 2, 4]);
        assert!(neighbours(&[]).is_empty());
        let many = vec![files[1]; MOST_COMPARED + 1];
        assert_eq!(neighbours(&many)[..3], [0, 1, 2]);
    }

    /// The order reaches the least number of changes of models and stacks that any order can have.
    #[test]
    fn the_lower_bound_is_reached() {
        for seed in 1..20_usize {
            let pick = |n: usize, of: usize| (n * 7919 * seed + n * n * 31) % 1009 % of;
            let stack = |n| ["", "a", "b", "a b", "c"][pick(n, 5)];
            let mut jobs: Vec<Ready> = (0..60)
                .map(|n| Ready::sample(n, ["m", "k", "l"][pick(n + 500, 3)], stack(n), 64))
                .collect();
            let models: HashSet<&str> = jobs.iter().map(|job| &*job.networks.model).collect();
            let stacks: HashSet<StackOf<'_>> = jobs.iter().map(StackOf::of).collect();
            let least = (models.len(), stacks.len());
            order(&mut jobs);
            let found = changes(&jobs);
            assert_eq!((found.models, found.stacks), least);
        }
    }

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
