//! Batches on storage that fails: what costs one job, what ends the work, and what costs nothing.
#![allow(clippy::unwrap_used)]

use colora::app::{Pool, Unobserved};
use colora::batch::{
    self, Event, Folder, JobList, Listed, Manifest, Names, Options, Order, Origin, Pictures,
    Status, Storage, Tally, Work,
};
use colora::store::Store;
use colora::{Cancel, Error, Result};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What becomes of one call of `create`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Good,
    Full,
    Broken,
    NoDeviceMemory,
    Refused,
    /// Another worker creates the file a moment before.
    Raced,
    /// The file is created, and the answer lost.
    AnswerLost,
}

/// A folder whose creates meet their fates, one after the other; all others are good.
#[derive(Debug)]
struct Faulty {
    folder: Folder,
    fates: Mutex<VecDeque<Fate>>,
}

impl Storage for Faulty {
    fn list(&self) -> Result<HashMap<String, u64>> {
        self.folder.list()
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        self.folder.length(name)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.folder.read(name)
    }

    fn end(&self, name: &str, most: usize) -> Result<Vec<u8>> {
        self.folder.end(name, most)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let write = |kind: ErrorKind| Error::Write { path: name.into(), source: kind.into() };
        let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Good);
        if [Fate::Good, Fate::Raced, Fate::AnswerLost].contains(&fate) {
            self.folder.create(name, bytes)?;
        }
        match fate {
            Fate::Good => Ok(()),
            Fate::Full => Err(write(ErrorKind::StorageFull)),
            Fate::Broken => Err(Error::Internal("a test".into())),
            Fate::NoDeviceMemory => {
                Err(Error::DeviceMemory { source: candle_core::Error::Msg("full".into()) })
            }
            Fate::Refused => Err(write(ErrorKind::PermissionDenied)),
            Fate::Raced => Err(Error::Exists { path: name.into() }),
            Fate::AnswerLost => Err(write(ErrorKind::TimedOut)),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.folder.replace(name, bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }
}

/// A world with a list of jobs on the starter model.
struct World {
    folder: tempfile::TempDir,
    list: JobList,
    /// How many pools were opened.
    pools: Cell<usize>,
}

fn store(folder: &Path) -> Store {
    let home = folder.to_path_buf();
    Store::new(&[], folder, &move |_| Some(home.clone().into_os_string()))
}

impl World {
    fn new(jobs: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listed = (0..jobs).map(|seed| {
            let mut listed = Listed { line: seed as usize + 1, ..Listed::default() };
            listed.job.device = "cpu".parse().ok();
            let request = &mut listed.job.request;
            request.prompt = "a red apple".into();
            (request.width, request.height, request.steps) = (Some(64), Some(64), Some(1));
            request.seed = Some(seed);
            listed
        });
        let pool = Pool::new(store(folder.path()));
        let checked = batch::check(listed.collect(), &pool, &Unobserved, &Cancel::new()).unwrap();
        assert!(checked.mistakes.is_empty(), "{:?}", checked.mistakes);
        let list = JobList::new(checked.ready, Origin::default(), Order::Cost);
        Self { folder, list, pools: Cell::new(0) }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// One run over the whole list; what it came to, and how many pictures are there.
    fn run(&self, fates: &[Fate], retry_failed: bool) -> (Result<Tally>, usize) {
        let out = self.out();
        let folder = Folder::open(&out).unwrap();
        let fates = Mutex::new(fates.iter().copied().collect());
        let storage = Arc::new(Faulty { folder: folder.clone(), fates });
        let names = Names::of_ids(self.list.jobs.len());
        let pictures = Pictures::list(storage, names).unwrap();
        let manifest = Manifest::open(&out, batch::WHOLE).unwrap();
        let pools = || {
            self.pools.set(self.pools.get() + 1);
            Pool::new(store(self.folder.path()))
        };
        let options = Options { retry_failed, ..Options::default() };
        let mut work = Work::new(options, pictures, manifest, &pools);
        let todo = work.todo(&self.list.jobs, Path::new("test")).unwrap();
        let observer = |_: &Event<'_>| ControlFlow::Continue(());
        let done = work.run(&self.list.jobs, &todo, &observer, &Cancel::new());
        (done, folder.list().unwrap().len())
    }

    /// Names of the jobs that the log calls so, each as often as it does.
    fn logged(&self, status: Status) -> Vec<String> {
        let mut ids = Vec::new();
        let mut note = |entry: batch::Entry| {
            if entry.status == status {
                ids.push(entry.id);
            }
        };
        batch::entries(&self.out(), &mut note).unwrap();
        ids
    }
}

#[test]
fn a_full_disk_ends_the_work_and_the_next_run_goes_on() {
    let world = World::new(4);
    let (done, there) = world.run(&[Fate::Good, Fate::Full], false);
    assert_eq!(done.unwrap_err().fault().exit_code(), 6);
    assert_eq!((there, world.logged(Status::Failed).len()), (1, 0), "no job is to blame");
    let (done, there) = world.run(&[], false);
    assert_eq!((done.unwrap().made, there), (3, 4));
    let logged = world.logged(Status::Done);
    assert_eq!((logged.len(), logged.iter().collect::<BTreeSet<_>>().len()), (4, 4));
}

#[test]
fn five_failures_of_the_program_in_a_row_end_the_work() {
    use Fate::{Broken, Good, Refused};
    let world = World::new(8);
    let (done, there) = world.run(&[Broken; 5], false);
    assert_eq!(done.unwrap_err().fault().exit_code(), 1);
    assert_eq!((there, world.logged(Status::Failed).len()), (0, 4));
    let world = World::new(10);
    let (done, there) =
        world.run(&[Broken, Refused, Broken, Broken, Good, Broken, Broken, Broken, Broken], false);
    let tally = done.unwrap();
    assert_eq!((tally.made, tally.failed, there), (2, 8, 2), "a picture between them counts anew");
    let (done, there) = world.run(&[], false);
    assert_eq!((done.unwrap(), there), (Tally::default(), 2), "failures stay");
    let (done, there) = world.run(&[], true);
    assert_eq!((done.unwrap().made, there), (8, 10));
}

#[test]
fn device_memory_is_emptied_once() {
    use Fate::{Good, NoDeviceMemory};
    let world = World::new(2);
    let (done, _) = world.run(&[NoDeviceMemory, Good, NoDeviceMemory, NoDeviceMemory], false);
    let tally = done.unwrap();
    assert_eq!((tally.made, tally.failed, world.pools.get()), (1, 1, 3));
    let (done, there) = world.run(&[], true);
    assert_eq!((done.unwrap().made, there), (1, 2));
}

#[test]
fn what_another_worker_made_is_found() {
    let world = World::new(3);
    let (done, there) = world.run(&[Fate::Raced, Fate::AnswerLost], false);
    let tally = done.unwrap();
    assert_eq!((tally.made, tally.found, tally.failed, there), (1, 2, 0, 3));
    assert_eq!(world.logged(Status::Done).len(), 3);
    assert!(world.logged(Status::Failed).is_empty());
}
