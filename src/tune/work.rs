//! From stacks to pictures, by the machinery of batches: each picture has a name from its contents and is drawn once.

use super::stroke::{Stack, Stroke};
use crate::app::{self, Job, Pool, Unobserved};
use crate::batch::{
    self, Event, Folder, Listed, Manifest, Names, Options, Pictures, Ready, Task, Todo, WHOLE, Work,
};
use crate::error::{Error, Result};
use crate::pipeline::{self, Cancel};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Opens models; a GPU that is full gets a fresh pool.
pub type Pools = Box<dyn Fn() -> Pool + Send>;

/// What is drawn with every stack, and where to.
pub struct Studio {
    /// The jobs, whose own LoRAs come before those of the stack.
    pub jobs: Vec<Job>,
    /// The folder of the pictures.
    pub folder: PathBuf,
    /// Whether settings are written into the pictures.
    pub metadata: bool,
    /// What opens models.
    pub pools: Pools,
    /// What ends the work.
    pub halt: Cancel,
}

impl std::fmt::Debug for Studio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Studio").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Studio {
    /// Opens the folder for pictures. Models of `pool` are used, and those that `pools` opens.
    ///
    /// # Errors
    /// [`Error::Write`], and [`Error::Unsupported`] when another program works on the folder.
    pub(super) fn open<'a>(
        &'a self,
        pool: Pool,
        pools: &'a dyn Fn() -> Pool,
    ) -> Result<Drawer<'a>> {
        let options = Options {
            verify: false,
            retry_failed: true,
            metadata: self.metadata,
            grace: Duration::ZERO,
            batch: 1,
            worker: format!("tune {}", std::process::id()),
        };
        let storage = Arc::new(Folder::open(&self.folder)?);
        let manifest = Manifest::open(&self.folder, WHOLE)?;
        let pictures = Pictures::list(storage, Names::of_ids(1))?;
        let work = Work::new(options, pictures, manifest, pools);
        Ok(Drawer { studio: self, pool, work, there: HashMap::new() })
    }
}

/// Whoever draws.
pub(super) struct Drawer<'a> {
    studio: &'a Studio,
    pool: Pool,
    work: Work<'a>,
    /// The files of pictures that are there, by name.
    there: HashMap<String, PathBuf>,
}

impl Drawer<'_> {
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
        let each = self.studio.jobs.len();
        let mut done = Vec::new();
        for (number, stack) in stacks.iter().enumerate() {
            let ready = self.check(stack)?;
            let paths = ready.iter().enumerate().map(|(place, job)| {
                let here = Place { picture: number * each + place + 1, of: stacks.len() * each };
                self.one(job, here, watch)
            });
            done.push(paths.collect::<Result<Vec<_>>>()?);
        }
        Ok(done)
    }

    /// The jobs of a stack, looked at and named.
    fn check(&self, stack: &Stack) -> Result<Vec<Ready>> {
        let listed = self.studio.jobs.iter().enumerate().map(|(place, job)| {
            let mut job = job.clone();
            job.request.loras.extend(stack.iter().cloned());
            Listed { line: place + 1, repeat: 0, id: None, job, labels: BTreeMap::new() }
        });
        let halt = &self.studio.halt;
        let checked = batch::check(listed.collect(), &self.pool, &Unobserved, halt)?;
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
        let todo = self.work.todo(jobs, &self.studio.folder)?;
        if todo.tasks.first() != Some(&Task::Nothing) {
            self.make(jobs, &todo, here, watch)?;
        }
        let path = self.work.path(job);
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
        let failure = RefCell::new(None);
        let Place { picture, of } = here;
        let observer = |event: &Event<'_>| {
            match event {
                Event::App(app::Event::Pipeline(pipeline::Event::Step { step, steps, .. })) => {
                    watch(Stroke { picture, of, step: *step, steps: *steps });
                }
                Event::Failed { reason, .. } => {
                    failure.borrow_mut().replace(reason.message.clone());
                }
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let tally = self.work.run(jobs, todo, &observer, &self.studio.halt)?;
        match failure.take() {
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
