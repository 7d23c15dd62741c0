//! Names of the pictures of a list.

use super::ready::Ready;

/// Jobs above which pictures lie in folders of their own, by the first two letters of their names.
const FLAT: usize = 10_000;

/// How pictures are called: by the ids of their jobs, unless a template says otherwise.
#[derive(Debug, Clone)]
pub struct Names {
    nested: bool,
}

impl Names {
    /// The names of a list of `jobs` jobs.
    pub fn of_ids(jobs: usize) -> Self {
        Self { nested: jobs > FLAT }
    }

    /// Whether a name says by itself which job its picture is of.
    pub(super) fn are_ids(&self) -> bool {
        true
    }

    /// The name of a job's picture, and another one that it may have from an earlier run.
    pub(super) fn of(&self, job: &Ready) -> (String, Option<String>) {
        let flat = format!("{}.png", job.id);
        let prefix: String = job.id.chars().take(2).collect();
        let nested = format!("{prefix}/{flat}");
        if self.nested { (nested, Some(flat)) } else { (flat, Some(nested)) }
    }
}
