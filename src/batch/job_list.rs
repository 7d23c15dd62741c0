//! The list of a batch: its jobs in the order in which they are made, and the head that names it.

use super::order::{Changes, Order, changes, order};
use super::plan_file::{Head, Origin};
use super::ready::Ready;
use crate::error::Result;
use std::path::Path;

/// Jobs in the order in which they are made. The same file gives the same list on every machine, so that a range of
/// places means the same jobs to all workers.
#[derive(Debug, Clone)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<Ready>,
    /// What the list is.
    pub head: Head,
    /// How often things change in the order of the file.
    pub of_file: Changes,
}

impl JobList {
    /// Orders `jobs`, which are in the order of the file; `origin`: where they come from.
    pub fn new(mut jobs: Vec<Ready>, origin: Origin, by: Order) -> Self {
        let head = Head::of(&jobs, origin, by);
        let of_file = changes(&jobs);
        if by == Order::Cost {
            order(&mut jobs);
        }
        Self { jobs, head, of_file }
    }

    /// How often things change in this order.
    pub fn changes(&self) -> Changes {
        changes(&self.jobs)
    }

    /// Writes `plan.jsonl` and `plan.json` into `folder`, unless they say the same already. `replan`: whether another
    /// list that is there gives way.
    ///
    /// # Errors
    /// [`Error::BadRequest`](crate::Error::BadRequest) for another list; what reading and writing give.
    pub fn write(&self, folder: &Path, replan: bool) -> Result<()> {
        self.head.check(folder, replan)?;
        self.head.write(&self.jobs, folder)
    }
}
