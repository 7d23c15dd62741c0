//! `colora batch --claim`: workers share a list through a folder or bucket that all of them reach.

use super::Shared;
use super::speak::{Report, time};
use crate::batch::cluster::{
    self, Claims, Objects, Patient, Settings, Share, SharedFolder, SharedPictures, Worker,
};
use crate::batch::{JobList, Manifest, Names, Options, Pictures, Todo, Work};
use crate::cli::progress::Progress;
use crate::cli::style::Talk;
use crate::error::Error;
use crate::pipeline::Cancel;
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whether a place of pictures is an address.
pub(super) fn is_url(place: &Path) -> bool {
    place.to_str().is_some_and(|text| text.contains("://"))
}

/// The shared place `place`: a folder, or an address.
pub(super) fn open(place: &Path) -> Result<Arc<Patient<dyn Objects>>, Error> {
    let url = place.to_string_lossy();
    let objects: Box<dyn Objects> = match url.strip_prefix("file://") {
        Some(path) => Box::new(SharedFolder::open(Path::new(path))?),
        None if is_url(place) => remote(&url)?,
        None => Box::new(SharedFolder::open(place)?),
    };
    Ok(Arc::new(Patient::new(objects)))
}

#[cfg(feature = "cluster")]
fn remote(url: &str) -> Result<Box<dyn Objects>, Error> {
    Ok(Box::new(cluster::Remote::open(url)?))
}

#[cfg(not(feature = "cluster"))]
fn remote(url: &str) -> Result<Box<dyn Objects>, Error> {
    let how = crate::hint::Hint::BuildWith("cluster");
    Err(Error::Unsupported { what: format!("pictures in a bucket ({url})"), how })
}

/// What this worker is called: machine, process, and a number that no other process has.
pub(super) fn worker() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    let file = || {
        let path = Path::new("/proc/sys/kernel/hostname");
        crate::input::text_if_there(path, 1 << 10, "the name of this machine").ok().flatten()
    };
    let host = variable("HOSTNAME").or_else(|| variable("COMPUTERNAME")).or_else(file);
    let host = host.as_deref().map_or("worker", str::trim).to_owned();
    cluster::name(&host)
}

/// How long a worker may give no sign of life.
pub(super) fn lease(seconds: f64) -> Result<Duration, Error> {
    let lease = Duration::try_from_secs_f64(seconds).ok().filter(|lease| lease.as_secs() >= 1);
    lease.ok_or_else(|| Error::bad_request("lease", seconds, "expected seconds, at least 1"))
}

/// What a shared list is worked on with.
pub(super) struct Hands<'a> {
    pub(super) options: Options,
    pub(super) pools: &'a dyn Fn() -> crate::app::Pool,
    pub(super) cancel: &'a Cancel,
    pub(super) talk: Talk,
    pub(super) progress: &'a Progress,
    pub(super) json: bool,
}

/// Works on a list with all others that do; returns how many of its jobs failed.
pub(super) fn run(
    list: JobList,
    place: &Path,
    shared: &Shared,
    hands: &Hands<'_>,
) -> Result<usize> {
    let objects = open(place)?;
    cluster::agree(&objects, &list.head, &list.jobs)?;
    let name = worker();
    let lease = lease(shared.lease)?;
    let settings = Settings { worker: name.clone(), lease, chunk: shared.chunk };
    let JobList { jobs, head, .. } = list;
    let count = jobs.len();
    let mut claims = Claims::open(objects.clone(), Arc::new(jobs), settings)?;
    let (chunks, _) = claims.counts();
    hands.talk.say(&format!(
        "worker {name}: {count} jobs in {chunks} chunks, shared in {}",
        place.display()
    ));
    let source = Path::new(&head.source);
    work(&mut claims, &objects, count, &name, source, hands)?;
    let failed = claims.failed()?;
    say_end(count, failed, hands.talk);
    Ok(failed)
}

/// Says that a list has ended.
pub(super) fn say_end(jobs: usize, failed: usize, talk: Talk) {
    let failed =
        if failed == 0 { String::new() } else { format!(", {failed} of them have failed") };
    talk.say(&format!("all {jobs} jobs of the list have ended{failed}"));
}

/// Works on what a queue hands out.
pub(super) fn work(
    queue: &mut dyn cluster::Queue,
    objects: &Arc<Patient<dyn Objects>>,
    jobs: usize,
    name: &str,
    source: &Path,
    hands: &Hands<'_>,
) -> Result<()> {
    let began = Instant::now();
    let pictures = SharedPictures::new(objects.clone());
    let listed = Pictures::list(Arc::new(pictures.clone()), Names::of_ids(jobs))?;
    let options = Options { worker: name.to_owned(), ..hands.options.clone() };
    let mut work = Work::new(options, listed, Manifest::kept(), hands.pools);
    let mut worker = Worker::new(&mut work, &pictures, name, source);
    let report = Report::new(hands.progress, hands.talk, hands.json, &Todo::default());
    let done = cluster::work(&mut worker, queue, &|event| report.event(event), hands.cancel);
    hands.progress.finish();
    if let Some(error) = report.failure() {
        return Err(error);
    }
    let Share { tally, lost } = done?;
    let mut text = format!("{} made here in {}", tally.made, time(began.elapsed().as_secs_f64()));
    let parts = [
        (tally.found, "found made"),
        (tally.failed, "failed here"),
        (lost, "chunks lost to other workers"),
    ];
    for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {count} {what}");
    }
    hands.talk.say(&text);
    Ok(())
}
