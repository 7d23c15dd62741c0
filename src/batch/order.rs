//! The order of jobs: model, LoRAs, size and prompt change as seldom as they can, in this precedence. Among jobs that
//! are equal in all of these the order of the file stays.
//!
//! Stacks of one model follow each other by how many LoRA files they share, because what was read a moment ago is still
//! in memory: after each stack comes the one that shares the most with it (greedy nearest neighbour), among equals the
//! first of the file. The number of changes does not depend on it: there are as many as there are stacks, which is the
//! least there can be.

use super::check::Ready;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

/// Stacks of a model above which they stay in the order of the file: comparing each with each would take seconds.
const MOST_COMPARED: usize = 5_000;

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
    let (mut models, mut shapes, mut prompts) =
        (Ranks::default(), Ranks::default(), Ranks::default());
    for job in jobs.iter() {
        models.meet(&job.model);
        shapes.meet(&shape(job));
        prompts.meet(&prompt(job));
    }
    let stacks = stack_ranks(jobs);
    jobs.sort_by_cached_key(|job| {
        let stack = stacks.get(&stack_of(job)).copied().unwrap_or(usize::MAX);
        let place = (models.of(&job.model), stack);
        (place, shapes.of(&shape(job)), prompts.of(&prompt(job)))
    });
}

/// A stack on a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct StackOf {
    model: String,
    stack: String,
}

fn stack_of(job: &Ready) -> StackOf {
    StackOf { model: job.model.clone(), stack: job.stack.clone() }
}

/// The place of every stack among those of its model.
fn stack_ranks(jobs: &[Ready]) -> HashMap<StackOf, usize> {
    let mut met: HashSet<StackOf> = HashSet::new();
    let mut by_model: HashMap<&str, Vec<(StackOf, &[PathBuf])>> = HashMap::new();
    for job in jobs {
        let stack = stack_of(job);
        if met.insert(stack.clone()) {
            by_model.entry(&job.model).or_default().push((stack, &job.files));
        }
    }
    let mut ranks = HashMap::new();
    for stacks in by_model.into_values() {
        let files: Vec<&[PathBuf]> = stacks.iter().map(|(_, files)| *files).collect();
        for (rank, at) in neighbours(&files).into_iter().enumerate() {
            ranks.insert(stacks[at].0.clone(), rank);
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
                .map(|n| job(n, ["m", "k", "l"][pick(n + 500, 3)], stack(n), 64))
                .map(|job| {
                    let files = job.stack.split_whitespace().map(PathBuf::from).collect();
                    Ready { files, ..job }
                })
                .collect();
            let models: HashSet<String> = jobs.iter().map(|job| job.model.clone()).collect();
            let stacks: HashSet<StackOf> = jobs.iter().map(stack_of).collect();
            order(&mut jobs);
            let found = changes(&jobs);
            assert_eq!((found.models, found.stacks), (models.len(), stacks.len()));
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
