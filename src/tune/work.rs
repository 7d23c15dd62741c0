//! From stacks to pictures, by the machinery of batches: each picture has a name from its contents and is drawn once.

use super::stroke::{Stack, Stroke};
use crate::app::{Event, Job, Pool, Unobserved};
use crate::batch::{self, Happening, Listed, Options, Ready, Task, Todo, Work};
use crate::error::{Error, Result};
use crate::pipeline::{self, Cancel};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Opens models; a GPU that is full gets a fresh pool.
pub type Pools = Box<dyn Fn() -> Pool + Send>;

/// What is drawn with every stack, and where to.
pub struct Studio {
    /// The jobs, whose own LoRAs come before those of the stack.
    jobs: Vec<Job>,
    pools: Pools,
    pool: Pool,
    work: Work,
    folder: PathBuf,
    halt: Cancel,
    /// The files of pictures that are there, by name.
    there: HashMap<String, PathBuf>,
}

impl std::fmt::Debug for Studio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Studio").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Studio {
    /// Opens the folder for pictures; `halt` ends the work.
    ///
    /// # Errors
    /// As [`Work::open`].
    pub fn new(
        jobs: Vec<Job>,
        folder: &Path,
        metadata: bool,
        halt: Cancel,
        pools: Pools,
    ) -> Result<Self> {
        let options = Options {
            folder: folder.to_path_buf(),
            verify: false,
            retry_failed: true,
            metadata,
            grace: Duration::ZERO,
        };
        let work = Work::open(options, jobs.len())?;
        let (pool, there, folder) = (pools(), HashMap::new(), folder.to_path_buf());
        Ok(Self { jobs, pools, pool, work, folder, halt, there })
    }

    pub(super) fn halt(&self) -> &Cancel {
        &self.halt
    }

    /// The pictures of each stack, drawn unless they are there.
    ///
    /// # Errors
    /// What is wrong with a job; [`Error::Jobs`] when a picture cannot be made, after the reason was logged;
    /// [`Error::Cancelled`].
    pub(super) fn draw(
        &mut self,
        stacks: &[Stack],
        watch: &dyn Fn(Stroke),
    ) -> Result<Vec<Vec<PathBuf>>> {
        let of = stacks.len() * self.jobs.len();
        let mut done = Vec::new();
        for (number, stack) in stacks.iter().enumerate() {
            let ready = self.check(stack)?;
            let first = number * self.jobs.len();
            let paths = ready.iter().enumerate().map(|(place, job)| {
                let here = Place { picture: first + place + 1, of };
                self.one(job, here, watch)
            });
            done.push(paths.collect::<Result<Vec<_>>>()?);
        }
        Ok(done)
    }

    /// The jobs of a stack, looked at and named.
    fn check(&self, stack: &Stack) -> Result<Vec<Ready>> {
        let listed = self.jobs.iter().enumerate().map(|(place, job)| {
            let mut job = job.clone();
            job.request.loras.extend(stack.iter().cloned());
            Listed { line: place + 1, id: None, job, labels: BTreeMap::new() }
        });
        let checked = batch::check(listed.collect(), &self.pool, &Unobserved, &self.halt)?;
        match checked.mistakes.into_iter().next() {
            Some(mistake) => Err(*mistake.error),
            None => Ok(checked.ready),
        }
    }

    /// The file of a picture, drawn unless it is there.
    fn one(&mut self, job: &Ready, here: Place, watch: &dyn Fn(Stroke)) -> Result<PathBuf> {
        if let Some(path) = self.there.get(&job.id) {
            return Ok(path.clone());
        }
        let jobs = std::slice::from_ref(job);
        let todo = self.work.todo(jobs, &self.folder)?;
        let path = self.work.path(&job.id);
        if todo.tasks.first() != Some(&Task::Nothing) {
            self.make(jobs, &todo, here, watch)?;
        }
        self.there.insert(job.id.clone(), path.clone());
        Ok(path)
    }

    fn make(
        &mut self,
        jobs: &[Ready],
        todo: &Todo,
        here: Place,
        watch: &dyn Fn(Stroke),
    ) -> Result<()> {
        let reason = RefCell::new(None);
        let steps = Cell::new(0);
        let Place { picture, of } = here;
        let watcher = |happening: &Happening<'_>| {
            match happening {
                Happening::App(Event::Pipeline(pipeline::Event::Step {
                    step, steps: all, ..
                })) => {
                    steps.set(*all);
                    watch(Stroke { picture, of, step: *step, steps: *all });
                }
                Happening::Failed { reason: why, .. } => {
                    reason.borrow_mut().replace(why.message.clone());
                }
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let (shared, asked) = (RefCell::new(self.pool.clone()), Cell::new(false));
        // The first pool of a run keeps the models open that it has; another one is asked for when a GPU is full.
        let pools = || {
            if asked.replace(true) {
                shared.replace((self.pools)());
            }
            shared.borrow().clone()
        };
        let tally = self.work.run(jobs, todo, &pools, &watcher, &self.halt);
        self.pool = shared.into_inner();
        let tally = tally?;
        match reason.take() {
            Some(why) => {
                tracing::error!("a picture cannot be drawn: {why}");
                Err(Error::Jobs { failed: tally.failed, of: jobs.len() })
            }
            None => Ok(()),
        }
    }
}

/// Which of the pictures that are asked for one is.
#[derive(Debug, Clone, Copy)]
struct Place {
    picture: usize,
    of: usize,
}
