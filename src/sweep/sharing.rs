//! What the cells of a sweep share: counted before anything is made.

use crate::app::Pool;
use crate::batch::Ready;
use crate::error::Result;
use crate::pipeline::{Cancel, Shares, Silent};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

/// Cells above which nothing is counted: it would take long itself.
const MOST: usize = 2000;

/// How much work cells are alone, and how much of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sharing {
    /// Jobs that were counted.
    pub jobs: usize,
    /// Jobs with networks that cannot be counted, and all above the limit.
    pub uncounted: usize,
    /// Models that are opened.
    pub models: usize,
    /// Texts that are encoded.
    pub texts: usize,
    /// UNets that are taken, each with its LoRAs.
    pub networks: usize,
    /// Different noises that pictures start from.
    pub noises: usize,
    /// Steps of all cells.
    pub steps: usize,
    /// Steps for which a network runs; the others are taken over.
    pub taken: usize,
}

impl Sharing {
    /// Counts what `jobs` share; nothing is computed but their plans.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn of(jobs: &[Ready], pool: &Pool, cancel: &Cancel) -> Result<Self> {
        let mut sharing = Self::default();
        let mut models: BTreeMap<&str, Seen> = BTreeMap::new();
        for job in jobs {
            cancel.check()?;
            // What cannot be prepared fails when it is made, and is told then.
            let countable = sharing.jobs < MOST && job.networks.doomed.is_none();
            let shares = if countable { shares(job, pool, cancel).ok() } else { None };
            let Some(Shares { networks, texts, steps, .. }) = shares else {
                sharing.uncounted += 1;
                continue;
            };
            let seen = models.entry(&job.networks.model).or_default();
            sharing.jobs += 1;
            sharing.steps += job.steps;
            let unnamed = job.steps - steps.len().min(job.steps);
            let new = steps.into_iter().filter(|name| seen.steps.insert(name.clone())).count();
            sharing.taken += new + unnamed;
            seen.networks.extend(networks);
            seen.texts.extend(texts);
            seen.noises.insert((job.seed, job.width, job.height));
        }
        sharing.models = models.len();
        for seen in models.values() {
            sharing.texts += seen.texts.len();
            sharing.networks += seen.networks.len();
            sharing.noises += seen.noises.len();
        }
        Ok(sharing)
    }
}

/// What a job takes of what others take, too.
fn shares(ready: &Ready, pool: &Pool, cancel: &Cancel) -> Result<Shares> {
    let job = ready.job()?;
    let pipeline = pool.open(&job, cancel, &|_| ())?;
    let plan = pipeline.plan(&job.request, ready.seed)?;
    pipeline.prepare_observed(&plan, &Silent, cancel)?.shares()
}

/// What the jobs of one model take.
#[derive(Default)]
struct Seen {
    networks: BTreeSet<String>,
    texts: BTreeSet<String>,
    steps: HashSet<String>,
    noises: BTreeSet<(u64, usize, usize)>,
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, uncounted, models, texts, networks, noises, steps, taken } = *self;
        let many = |count: usize, one: &str| {
            if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
        };
        write!(
            f,
            "{} share {}, {}, {}, {}; {taken} of {steps} steps run a network",
            many(jobs, "picture"),
            many(models, "model"),
            many(texts, "encoded text"),
            many(networks, "network"),
            many(noises, "noise"),
        )?;
        if uncounted > 0 { write!(f, "; {uncounted} were not counted") } else { Ok(()) }
    }
}
