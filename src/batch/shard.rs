//! A part of a list for each of several machines: which part is this program's, and where parts begin.
//!
//! Cluster engines give every process a number in its environment. [`Sharding::part`] reads it, [`Shard::block`] cuts
//! the ordered list: each part is a run of neighbours, because every other cut would change LoRAs more often. The list
//! and the cuts depend on the file alone, so that all machines find the same ones without asking each other.

use super::ready::Ready;
use crate::error::{Error, Result};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// The variable that gives the number of parts where the engine does not.
const COUNT: &str = "COLORA_SHARDS";
/// Most parts of a list.
const MOST: usize = 100_000;
/// How far a cut moves at most to the end of a stack: one part in so many of a block.
const MOVE: u128 = 20;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharding {
    /// The part that the environment names.
    Auto {
        /// The number of parts, where the engine does not give it.
        count: Option<usize>,
    },
    /// This part.
    Given(Shard),
}

/// A part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Its number, from 0.
    pub index: usize,
    /// How many parts there are.
    pub count: usize,
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

/// A part, and which engine's variables name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The part.
    pub shard: Shard,
    /// The engine; `None` for a part that the user gave.
    pub engine: Option<&'static str>,
    /// Engines whose variables are set as well, and are not used.
    pub others: Vec<&'static str>,
}

/// The variables of an engine.
struct Engine {
    name: &'static str,
    /// The variable of the index.
    index: &'static str,
    /// The index of the first part.
    first: First,
    /// The variable of the distance between two indices.
    step: Option<&'static str>,
    /// The number of parts.
    count: Count,
    /// A variable without which the index means nothing.
    only_with: Option<&'static str>,
    /// Whether a process that is alone has an index as well.
    is_always_there: bool,
}

enum First {
    Number(usize),
    Variable(&'static str),
}

enum Count {
    /// A variable; the second one is the last index, which has to agree with it.
    Variable(&'static str, Option<&'static str>),
    /// The variable of the last index.
    Last(&'static str),
    /// The engine does not give it.
    Nowhere,
}

const fn plain(name: &'static str, index: &'static str, count: Count) -> Engine {
    let (first, step, only_with, is_always_there) = (First::Number(0), None, None, false);
    Engine { name, index, first, step, count, only_with, is_always_there }
}

/// All engines; where several name an index, the first one is the innermost.
const ENGINES: [Engine; 14] = [
    plain("Kubernetes Indexed Job", "JOB_COMPLETION_INDEX", Count::Nowhere),
    Engine {
        first: First::Variable("SLURM_ARRAY_TASK_MIN"),
        step: Some("SLURM_ARRAY_TASK_STEP"),
        ..plain(
            "Slurm array",
            "SLURM_ARRAY_TASK_ID",
            Count::Variable("SLURM_ARRAY_TASK_COUNT", Some("SLURM_ARRAY_TASK_MAX")),
        )
    },
    // A batch script without srun is process 0 of as many as the job may start, and no step.
    Engine {
        only_with: Some("SLURM_STEP_ID"),
        ..plain("Slurm step", "SLURM_PROCID", Count::Variable("SLURM_NTASKS", None))
    },
    plain(
        "AWS Batch array",
        "AWS_BATCH_JOB_ARRAY_INDEX",
        Count::Variable("AWS_BATCH_JOB_ARRAY_SIZE", None),
    ),
    plain("Cloud Run job", "CLOUD_RUN_TASK_INDEX", Count::Variable("CLOUD_RUN_TASK_COUNT", None)),
    plain("Google Batch", "BATCH_TASK_INDEX", Count::Variable("BATCH_TASK_COUNT", None)),
    plain("SkyPilot", "SKYPILOT_NODE_RANK", Count::Variable("SKYPILOT_NUM_NODES", None)),
    plain("Open MPI", "OMPI_COMM_WORLD_RANK", Count::Variable("OMPI_COMM_WORLD_SIZE", None)),
    plain("MPI (PMI)", "PMI_RANK", Count::Variable("PMI_SIZE", None)),
    plain("MPI (PMIx)", "PMIX_RANK", Count::Nowhere),
    plain("PBS array", "PBS_ARRAY_INDEX", Count::Nowhere),
    Engine { first: First::Number(1), ..plain("LSF array", "LSB_JOBINDEX", Count::Nowhere) },
    Engine {
        first: First::Variable("SGE_TASK_FIRST"),
        step: Some("SGE_TASK_STEPSIZE"),
        ..plain("Grid Engine array", "SGE_TASK_ID", Count::Last("SGE_TASK_LAST"))
    },
    Engine { is_always_there: true, ..plain("Nomad", "NOMAD_ALLOC_INDEX", Count::Nowhere) },
];

/// Reads a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Sharding {
    /// The part of this program; `None` when it is alone.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for variables that contradict each other, and where the number of parts is not given.
    pub fn part(self, environment: Environment<'_>) -> Result<Option<Part>> {
        let (count, asked) = match self {
            Self::Given(shard) => {
                return Ok(Some(Part { shard, engine: None, others: Vec::new() }));
            }
            Self::Auto { count: Some(count) } => (Some(count), true),
            Self::Auto { count: None } => {
                (number(environment, COUNT)?.map(|count| within(count, COUNT)).transpose()?, false)
            }
        };
        let mut found = ENGINES.iter().filter(|engine| {
            let needs = engine.only_with.is_none_or(|name| environment(name).is_some());
            needs && is_index(engine, environment)
        });
        let Some(engine) = found.next() else { return none_found(count, asked) };
        let others = found.map(|engine| engine.name).collect();
        if engine.is_always_there && count.is_none() {
            return Ok(None);
        }
        let shard = engine.shard(count, environment)?;
        // A job of one process needs no parts, and no other log.
        let alone = shard.count == 1 && !asked;
        Ok((!alone).then_some(Part { shard, engine: Some(engine.name), others }))
    }
}

/// Whether the variable of an engine holds an index: where there is no array, some hold 0 or a word.
fn is_index(engine: &Engine, environment: Environment<'_>) -> bool {
    let Some(text) = environment(engine.index) else { return false };
    match engine.index {
        "LSB_JOBINDEX" => text.trim() != "0",
        "SGE_TASK_ID" => text.trim() != "undefined",
        _ => true,
    }
}

/// What is done where no engine gives an index.
fn none_found(count: Option<usize>, asked: bool) -> Result<Option<Part>> {
    match count {
        Some(count) if count > 1 && asked => {
            let names: Vec<&str> = ENGINES.iter().map(|engine| engine.index).collect();
            let why = format!(
                "no variable of the environment gives the index of this part (looked for {}); name it by hand as I/N",
                names.join(", ")
            );
            Err(Error::bad_request("shard", format!("auto/{count}"), why))
        }
        _ => Ok(None),
    }
}

impl Engine {
    /// The part that the variables name.
    fn shard(&self, asked: Option<usize>, environment: Environment<'_>) -> Result<Shard> {
        let index = needed(environment, self.index)?;
        let first = match self.first {
            First::Number(number) => number,
            First::Variable(name) => number(environment, name)?.unwrap_or(0),
        };
        let step = match self.step {
            Some(name) => number(environment, name)?.unwrap_or(1).max(1),
            None => 1,
        };
        let in_steps = |last: usize| last.saturating_sub(first) / step + 1;
        let own = match self.count {
            Count::Variable(count, last) => {
                let count = needed(environment, count)?;
                if let Some(last) =
                    last.map(|name| number(environment, name)).transpose()?.flatten()
                    && in_steps(last) != count
                {
                    let why = format!(
                        "the indices of this {} are {count} numbers from {first} to {last} without an even step, so that \
                         nobody can see which part is which; use a range like 0-{}, or name the part by hand as I/N",
                        self.name,
                        count.saturating_sub(1)
                    );
                    return Err(Error::bad_request(self.index, index, why));
                }
                Some(count)
            }
            Count::Last(name) => Some(in_steps(needed(environment, name)?)),
            Count::Nowhere => None,
        };
        let count = self.agreed(own, asked)?;
        let distance = index.checked_sub(first).filter(|distance| distance % step == 0);
        if let Some(index) = distance.map(|distance| distance / step).filter(|index| *index < count)
        {
            Ok(Shard { index, count: within(count, self.index)? })
        } else {
            let why = format!(
                "{count} parts begin at {first} with step {step}, and this is none of them"
            );
            Err(Error::bad_request(self.index, index, why))
        }
    }

    /// The number of parts that the engine and the user agree upon.
    fn agreed(&self, own: Option<usize>, asked: Option<usize>) -> Result<usize> {
        match (own, asked) {
            (Some(own), Some(asked)) if own != asked => {
                let why = format!(
                    "the {} has {own} tasks, so that some of {asked} parts would be nobody's; name parts by hand as I/N",
                    self.name
                );
                Err(Error::bad_request("shard", format!("auto/{asked}"), why))
            }
            (Some(count), _) | (None, Some(count)) => Ok(count),
            (None, None) => {
                let why = format!(
                    "the {} gives an index ({}) but not how many there are; set {COUNT} to their number, or ask for \
                     auto/N; 1/1 makes the whole list here",
                    self.name, self.index
                );
                Err(Error::bad_request("shard", "auto", why))
            }
        }
    }
}

/// A variable that holds a number.
fn number(environment: Environment<'_>, name: &'static str) -> Result<Option<usize>> {
    let Some(text) = environment(name).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    let parsed = text.trim().parse();
    parsed.map(Some).map_err(|_| Error::bad_request(name, text, "expected a whole number"))
}

fn needed(environment: Environment<'_>, name: &'static str) -> Result<usize> {
    number(environment, name)?
        .ok_or_else(|| Error::bad_request(name, "", "this variable of the environment is not set"))
}

/// A number of parts.
fn within(count: usize, name: &'static str) -> Result<usize> {
    if (1..=MOST).contains(&count) {
        return Ok(count);
    }
    Err(Error::bad_request(name, count, format!("expected 1 to {MOST} parts")))
}

impl FromStr for Sharding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let why = "expected auto, auto/N, or I/N with I from 1 to N";
            Error::bad_request("shard", text, why)
        };
        if text == "auto" {
            return Ok(Self::Auto { count: None });
        }
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let count = within(count.parse().map_err(|_| wrong())?, "shard")?;
        if index == "auto" {
            return Ok(Self::Auto { count: Some(count) });
        }
        let index: usize = index.parse().map_err(|_| wrong())?;
        let index = index.checked_sub(1).filter(|index| *index < count).ok_or_else(wrong)?;
        Ok(Self::Given(Shard { index, count }))
    }
}

impl Shard {
    /// The jobs of this part of an ordered list. Parts cost about the same, and end where a stack ends when that moves
    /// the cut by less than a twentieth of a part.
    pub fn block(self, jobs: &[Ready]) -> Range<usize> {
        let mut before = Vec::with_capacity(jobs.len() + 1);
        before.push(0);
        for job in jobs {
            before.push(before.last().copied().unwrap_or(0) + cost(job));
        }
        self.cut(self.index, jobs, &before)..self.cut(self.index + 1, jobs, &before)
    }

    /// Where part `part` begins; `before`: what all jobs before each place cost.
    fn cut(self, part: usize, jobs: &[Ready], before: &[u128]) -> usize {
        let all = before.last().copied().unwrap_or(0);
        let (part, count) = (part as u128, self.count as u128);
        if part == 0 || part >= count {
            return if part == 0 { 0 } else { jobs.len() };
        }
        let exact = before.partition_point(|cost| cost * count < all * part);
        let is_end = |at: usize| match (at.checked_sub(1).and_then(|at| jobs.get(at)), jobs.get(at))
        {
            (Some(a), Some(b)) => a.networks != b.networks,
            _ => true,
        };
        let target = all * part / count;
        let near = |at: usize| {
            let cost = before.get(at).copied().unwrap_or(all);
            cost.abs_diff(target) * count * MOVE < all
        };
        let down = (0..exact).rev().take_while(|at| near(*at)).find(|at| is_end(*at));
        let up = (exact..=jobs.len()).take_while(|at| near(*at)).find(|at| is_end(*at));
        let far = |at: usize| before.get(at).copied().unwrap_or(all).abs_diff(target);
        match (down, up) {
            (Some(down), Some(up)) => {
                if far(down) < far(up) {
                    down
                } else {
                    up
                }
            }
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => exact,
        }
    }
}

/// What a picture costs in relation to others: evaluations of the network by pixels.
fn cost(job: &Ready) -> u128 {
    let pixels = (job.width as u128) * (job.height as u128);
    // Text towers and the decoder take about as long as a step.
    pixels.max(1) * (job.steps as u128 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn part(sharding: &str, variables: &[(&str, &str)]) -> Result<Option<Part>> {
        let map: HashMap<_, _> = variables.iter().copied().collect();
        let sharding: Sharding = sharding.parse().unwrap();
        sharding.part(&|name| map.get(name).map(|value| (*value).to_owned()))
    }

    /// Each engine with the variables that it sets.
    #[test]
    fn engines_name_their_parts() {
        type Case =
            (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);
        let cases: &[Case] = &[
            ("auto/4", &[("JOB_COMPLETION_INDEX", "2")], "3/4", "Kubernetes Indexed Job"),
            (
                "auto",
                &[("JOB_COMPLETION_INDEX", "0"), ("COLORA_SHARDS", "2")],
                "1/2",
                "Kubernetes Indexed Job",
            ),
            // --array=7-8
            (
                "auto",
                &[
                    ("SLURM_ARRAY_TASK_ID", "8"),
                    ("SLURM_ARRAY_TASK_COUNT", "2"),
                    ("SLURM_ARRAY_TASK_MIN", "7"),
                    ("SLURM_ARRAY_TASK_MAX", "8"),
                    ("SLURM_ARRAY_TASK_STEP", "1"),
                    ("SLURM_PROCID", "0"),
                    ("SLURM_NTASKS", "1"),
                ],
                "2/2",
                "Slurm array",
            ),
            // --array=1-9:4
            (
                "auto",
                &[
                    ("SLURM_ARRAY_TASK_ID", "9"),
                    ("SLURM_ARRAY_TASK_COUNT", "3"),
                    ("SLURM_ARRAY_TASK_MIN", "1"),
                    ("SLURM_ARRAY_TASK_MAX", "9"),
                    ("SLURM_ARRAY_TASK_STEP", "4"),
                ],
                "3/3",
                "Slurm array",
            ),
            (
                "auto",
                &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "3"), ("SLURM_STEP_ID", "0")],
                "2/3",
                "Slurm step",
            ),
            (
                "auto",
                &[("AWS_BATCH_JOB_ARRAY_INDEX", "9"), ("AWS_BATCH_JOB_ARRAY_SIZE", "10")],
                "10/10",
                "AWS Batch array",
            ),
            (
                "auto",
                &[("CLOUD_RUN_TASK_INDEX", "0"), ("CLOUD_RUN_TASK_COUNT", "10")],
                "1/10",
                "Cloud Run job",
            ),
            (
                "auto",
                &[("BATCH_TASK_INDEX", "3"), ("BATCH_TASK_COUNT", "4")],
                "4/4",
                "Google Batch",
            ),
            (
                "auto",
                &[("SKYPILOT_NODE_RANK", "1"), ("SKYPILOT_NUM_NODES", "2")],
                "2/2",
                "SkyPilot",
            ),
            (
                "auto",
                &[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PMIX_RANK", "1")],
                "2/2",
                "Open MPI",
            ),
            ("auto", &[("PMI_RANK", "1"), ("PMI_SIZE", "2")], "2/2", "MPI (PMI)"),
            ("auto/2", &[("PMIX_RANK", "1")], "2/2", "MPI (PMIx)"),
            ("auto", &[("PBS_ARRAY_INDEX", "1"), ("COLORA_SHARDS", "2")], "2/2", "PBS array"),
            ("auto", &[("LSB_JOBINDEX", "1"), ("COLORA_SHARDS", "2")], "1/2", "LSF array"),
            (
                "auto",
                &[
                    ("SGE_TASK_ID", "5"),
                    ("SGE_TASK_FIRST", "1"),
                    ("SGE_TASK_LAST", "8"),
                    ("SGE_TASK_STEPSIZE", "2"),
                ],
                "3/4",
                "Grid Engine array",
            ),
            ("auto", &[("NOMAD_ALLOC_INDEX", "1"), ("COLORA_SHARDS", "2")], "2/2", "Nomad"),
        ];
        for (sharding, variables, shard, engine) in cases {
            let part = part(sharding, variables).unwrap().unwrap();
            assert_eq!((part.shard.to_string(), part.engine), ((*shard).to_owned(), Some(*engine)));
        }
        // The innermost engine is used, and others are named.
        let both = [
            ("SLURM_ARRAY_TASK_ID", "0"),
            ("SLURM_ARRAY_TASK_COUNT", "2"),
            ("SLURM_ARRAY_TASK_MIN", "0"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_STEP_ID", "0"),
            ("PMI_RANK", "0"),
            ("PMI_SIZE", "4"),
        ];
        let both = part("auto", &both).unwrap().unwrap();
        assert_eq!(
            (both.shard.to_string().as_str(), both.others),
            ("1/2", vec!["Slurm step", "MPI (PMI)"])
        );
    }

    #[test]
    fn a_process_that_is_alone_has_the_whole_list() {
        for variables in [
            &[][..],
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_STEP_ID", "0")],
            &[("SKYPILOT_NODE_RANK", "0"), ("SKYPILOT_NUM_NODES", "1")],
            &[("LSB_JOBINDEX", "0"), ("SGE_TASK_ID", "undefined"), ("NOMAD_ALLOC_INDEX", "0")],
            &[("COLORA_SHARDS", "4")],
        ] {
            assert_eq!(part("auto", variables).unwrap(), None, "{variables:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_part_is_refused() {
        let list = [
            ("SLURM_ARRAY_TASK_ID", "5"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_MAX", "7"),
        ];
        for (sharding, variables, word) in [
            ("auto", &list[..], "even step"),
            ("auto", &[("JOB_COMPLETION_INDEX", "1")], COUNT),
            ("auto/2", &[("JOB_COMPLETION_INDEX", "2")], "none of them"),
            ("auto/2", &[], "JOB_COMPLETION_INDEX"),
            ("auto/3", &[("CLOUD_RUN_TASK_INDEX", "0"), ("CLOUD_RUN_TASK_COUNT", "2")], "nobody's"),
            (
                "auto",
                &[("CLOUD_RUN_TASK_INDEX", "x"), ("CLOUD_RUN_TASK_COUNT", "2")],
                "whole number",
            ),
            ("auto", &[("CLOUD_RUN_TASK_INDEX", "1")], "not set"),
            ("auto", &[("PBS_ARRAY_INDEX", "1"), (COUNT, "0")], "1 to"),
        ] {
            let error = part(sharding, variables).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        for bad in ["", "0/2", "3/2", "1/0", "auto/", "auto/0", "1", "a/b", "-1/2", "1/200000"] {
            assert!(bad.parse::<Sharding>().is_err(), "{bad}");
        }
        assert_eq!(
            "2/3".parse::<Sharding>().unwrap(),
            Sharding::Given(Shard { index: 1, count: 3 })
        );
    }

    #[test]
    fn blocks_cover_the_list_once_and_end_with_stacks() {
        // Stacks of 97, 103 and 100 jobs.
        let stack = |n: usize| {
            if n < 97 {
                "a"
            } else if n < 200 {
                "b"
            } else {
                "c"
            }
        };
        let jobs: Vec<Ready> = (0..300).map(|n| Ready::sample(n, "m", stack(n), 64)).collect();
        let blocks = |count: usize| (0..count).map(move |index| Shard { index, count });
        let cuts: Vec<usize> = blocks(3).map(|shard| shard.block(&jobs).end).collect();
        assert_eq!(cuts, [97, 200, 300]);
        for count in [1, 2, 4, 7, 299, 300, 301, 1000] {
            let mut at = 0;
            for shard in blocks(count) {
                let block = shard.block(&jobs);
                assert_eq!(block.start, at, "{count}");
                at = block.end;
            }
            assert_eq!(at, 300);
        }
        // Twice the pixels are twice the cost.
        let jobs: Vec<Ready> =
            (0..10).map(|n| Ready::sample(n, "m", "", if n < 2 { 128 } else { 64 })).collect();
        assert_eq!(Shard { index: 0, count: 2 }.block(&jobs), 0..4);
        assert_eq!(Shard { index: 0, count: 2 }.block(&[]), 0..0);
    }
}
