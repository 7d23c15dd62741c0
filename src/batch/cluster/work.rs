//! A worker: takes jobs from a queue, makes their pictures, and puts them where all workers find them.

use super::pictures::SharedPictures;
use super::queue::{Begin, Hold, Next, Portion, Queue, loaded};
use crate::batch::event::{Event, Observer};
use crate::batch::manifest::{Entry, Failure, Status};
use crate::batch::ready::Ready;
use crate::batch::work::{Tally, Work};
use crate::error::{Error, Fault, Result};
use crate::pipeline::Cancel;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between two looks at whether the worker shall stop, while it waits for others.
const OFTEN: Duration = Duration::from_millis(100);

/// What came of a worker's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// What this worker made, found and could not make.
    pub tally: Tally,
    /// Portions that others took over from it.
    pub lost: usize,
}

/// A worker at a shared list.
#[derive(Debug)]
pub struct Worker<'a, 'b> {
    work: &'a mut Work<'b>,
    pictures: &'a SharedPictures,
    name: &'a str,
    source: &'a Path,
    /// Ends of jobs of portions that this worker has not ended: where it gets one again, they are reported again.
    ended: HashMap<String, Entry>,
}

/// Works until all jobs of the queue have ended, those of other workers too.
///
/// # Errors
/// [`Error::Cancelled`] when a stop was `asked` for, and what else ends the work of a list: a full disk, a shared place
/// out of reach, several failures of colora itself. What the worker had is given back before.
pub fn work(
    worker: &mut Worker<'_, '_>,
    queue: &mut dyn Queue,
    observer: Observer<'_>,
    asked: &Cancel,
) -> Result<Share> {
    let mut share = Share::default();
    let done = worker.all(queue, observer, asked, &mut share);
    if done.is_err() {
        // The reason for the end is of more use than that the rest could not be given back.
        let _ = queue.release();
    }
    done.map(|()| share)
}

impl<'a, 'b> Worker<'a, 'b> {
    /// A worker that the log calls `name`. `work` makes the pictures, and its log is
    /// [kept](crate::batch::Manifest::kept) for the queue; `pictures` is where they lie, `source` the list's name.
    pub fn new(
        work: &'a mut Work<'b>,
        pictures: &'a SharedPictures,
        name: &'a str,
        source: &'a Path,
    ) -> Self {
        Self { work, pictures, name, source, ended: HashMap::new() }
    }

    fn all(
        &mut self,
        queue: &mut dyn Queue,
        observer: Observer<'_>,
        asked: &Cancel,
        share: &mut Share,
    ) -> Result<()> {
        let mut stack = String::new();
        loop {
            asked.check()?;
            match queue.next(&stack)? {
                Next::Over => return Ok(()),
                Next::Wait(time) => wait(time, asked)?,
                Next::Jobs(portion) => {
                    if let Some(last) = portion.jobs.last() {
                        stack = loaded(last);
                    }
                    match self.portion(&portion, queue, observer, asked, share)? {
                        Hold::Ours => {
                            queue.finish()?;
                            portion.jobs.iter().for_each(|job| drop(self.ended.remove(&job.id)));
                        }
                        Hold::Lost => share.lost += 1,
                    }
                }
            }
        }
    }

    /// Makes the pictures of a portion that are not there.
    fn portion(
        &mut self,
        portion: &Portion,
        queue: &mut dyn Queue,
        observer: Observer<'_>,
        asked: &Cancel,
        share: &mut Share,
    ) -> Result<Hold> {
        let before: HashSet<&str> = portion.before.iter().map(|entry| entry.id.as_str()).collect();
        for job in portion.jobs.iter().filter(|job| !before.contains(job.id.as_str())) {
            asked.check()?;
            if self.one(job, queue, observer, asked, share)? == Begin::Lost {
                return Ok(Hold::Lost);
            }
            for entry in self.work.manifest().take() {
                self.ended.insert(entry.id.clone(), entry);
            }
            let entry = self
                .ended
                .get(&job.id)
                .cloned()
                .ok_or_else(|| Error::Internal(format!("the job {} came to no end", job.id)))?;
            if queue.report(entry)? == Hold::Lost {
                return Ok(Hold::Lost);
            }
        }
        Ok(Hold::Ours)
    }

    /// Makes the picture of a job, unless it is there or the queue does not want it made; the log has its end.
    fn one(
        &mut self,
        job: &Ready,
        queue: &mut dyn Queue,
        observer: Observer<'_>,
        asked: &Cancel,
        share: &mut Share,
    ) -> Result<Begin> {
        let jobs = std::slice::from_ref(job);
        let todo = self.work.todo(jobs, self.source)?;
        let (queue, answer) = (RefCell::new(queue), RefCell::new(Ok(Begin::Go)));
        let asking = |event: &Event<'_>| {
            if let Event::Begin { job } = event {
                let begun = queue.borrow_mut().begin(&job.id);
                let goes = matches!(begun, Ok(Begin::Go));
                *answer.borrow_mut() = begun;
                if !goes {
                    return ControlFlow::Break(());
                }
            }
            observer(event)
        };
        let done = self.work.run(jobs, &todo, &asking, asked);
        let answer = answer.into_inner()?;
        match answer {
            Begin::Go => {}
            Begin::Lost => return Ok(answer),
            Begin::GaveUp(times) => {
                self.give_up(job, times)?;
                share.tally.failed += 1;
                return Ok(answer);
            }
        }
        let Tally { made, found, failed } = done?;
        // That the place is out of reach is no fault of the job, which stays open.
        if self.pictures.was_out_of_reach() && failed > 0 {
            let source =
                std::io::Error::new(ErrorKind::NotConnected, "the shared place is out of reach");
            return Err(Error::write(self.work.path(job), source));
        }
        share.tally.made += made;
        share.tally.found += found + todo.present;
        share.tally.failed += failed;
        Ok(answer)
    }

    /// Logs that a job is not tried again.
    fn give_up(&mut self, job: &Ready, times: u32) -> Result<()> {
        let message = format!("{times} workers began this job and gave no sign of life afterwards");
        let error = Some(Failure { code: Fault::Internal.exit_code(), message });
        let entry = Entry { error, ..Entry::of(job, Status::Failed, self.name) };
        self.work.manifest().push(entry)
    }
}

/// Waits for other workers.
fn wait(time: Duration, asked: &Cancel) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        asked.check()?;
        std::thread::sleep(OFTEN.min(time));
    }
    Ok(())
}
