//! Workers over shared places that fail, die and come back.

use super::*;
use crate::batch::manifest::{Entry, Status};
use crate::batch::order::Order;
use crate::batch::plan_file::{Head, Origin};
use crate::batch::ready::Ready;
use crate::batch::storage::Storage;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A place of which every so many calls fail: in turn before anything is done, and after it was.
#[derive(Debug)]
struct Faulty {
    objects: Arc<dyn Objects>,
    every: usize,
    calls: Arc<AtomicUsize>,
    is_away: Arc<AtomicBool>,
}

impl Faulty {
    fn new(objects: Arc<dyn Objects>, every: usize) -> Self {
        let (calls, is_away) = (Arc::default(), Arc::default());
        Self { objects, every, calls, is_away }
    }

    fn call<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = || Err(Error::io("faulty", std::io::Error::other("injected")));
        if self.is_away.load(Ordering::Relaxed) {
            return fault();
        }
        match self.every {
            0 => act(),
            every if call % (2 * every) == every => fault(),
            every if call.is_multiple_of(2 * every) => act().and_then(|_| fault()),
            _ => act(),
        }
    }
}

impl Objects for Faulty {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Creation> {
        self.call(|| self.objects.create(name, bytes))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.call(|| self.objects.put(name, bytes))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.call(|| self.objects.get(name))
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        self.call(|| self.objects.length(name))
    }

    fn list(&self, below: &str) -> Result<Vec<Item>> {
        self.call(|| self.objects.list(below))
    }

    fn title(&self, name: &str) -> String {
        self.objects.title(name)
    }
}

fn patient(objects: impl Objects + 'static) -> Arc<Patient<dyn Objects>> {
    let mut patient = Patient::new(Box::new(objects));
    patient.pause = Duration::from_millis(1);
    Arc::new(patient)
}

fn jobs(count: usize) -> Arc<Vec<Ready>> {
    Arc::new(
        (0..count).map(|n| Ready::sample(n, "m", ["a", "b", "c"][n * 3 / count], 64)).collect(),
    )
}

fn settings(worker: &str, lease: u64, chunk: usize) -> Settings {
    Settings { worker: worker.into(), lease: Duration::from_millis(lease), chunk: Some(chunk) }
}

/// What stands for the picture of a job.
fn picture(job: &Ready) -> Vec<u8> {
    [b"picture ", job.id.as_bytes(), b"IEND\xae\x42\x60\x82"].concat()
}

fn name_of(job: &Ready) -> String {
    format!("{}.png", job.id)
}

fn head(jobs: &[Ready]) -> Head {
    Head::of(jobs, Origin::default(), Order::Cost)
}

fn entry(job: &Ready) -> Entry {
    Entry::of(job, Status::Done, "w")
}

fn taken(claims: &mut Claims) -> Portion {
    match claims.next("").unwrap() {
        Next::Jobs(portion) => *portion,
        other => panic!("{other:?}"),
    }
}

/// A worker that dies after `life` pictures; true when it saw the end of the list.
fn live(
    objects: &Arc<Patient<dyn Objects>>,
    jobs: &Arc<Vec<Ready>>,
    name: &str,
    life: usize,
    made: &AtomicUsize,
) -> bool {
    agree(objects, &head(jobs), jobs).unwrap();
    let pictures = SharedPictures::new(objects.clone());
    let mut claims = Claims::open(objects.clone(), jobs.clone(), settings(name, 300, 7)).unwrap();
    let (mut stack, mut lived) = (String::new(), 0);
    loop {
        let portion = match claims.next(&stack).unwrap() {
            Next::Over => return true,
            Next::Wait(time) => {
                std::thread::sleep(time);
                continue;
            }
            Next::Jobs(portion) => portion,
        };
        let mut hold = Hold::Ours;
        for job in &portion.jobs {
            if portion.before.iter().any(|entry| entry.id == job.id) {
                continue;
            }
            if lived == life {
                return false;
            }
            if pictures.length(&name_of(job)).unwrap().is_none() {
                if claims.begin(&job.id).unwrap() == Begin::Lost {
                    hold = Hold::Lost;
                    break;
                }
                pictures.create(&name_of(job), &picture(job)).unwrap();
                made.fetch_add(1, Ordering::Relaxed);
                lived += 1;
            }
            stack = queue::loaded(job);
            hold = claims.report(entry(job)).unwrap();
            if hold == Hold::Lost {
                break;
            }
        }
        if hold == Hold::Ours {
            claims.finish().unwrap();
        }
    }
}

/// Four workers that die again and again over one place: each job ends once, and all pictures are what they should be.
fn survives(place: &Arc<dyn Objects>, every: usize) {
    let jobs = jobs(100);
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (jobs, made) = (&jobs, &made);
            scope.spawn(move || {
                for life in 0.. {
                    let objects = patient(Faulty::new(place.clone(), every + worker));
                    let name = format!("worker-{worker}-{life}");
                    if live(&objects, jobs, &name, 3 + (worker + life) * 5 % 11, made) {
                        return;
                    }
                }
            });
        }
    });
    let log = String::from_utf8(place.get("manifest-claims.jsonl").unwrap().unwrap()).unwrap();
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    for line in log.lines() {
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert_eq!(entry.status, Status::Done);
        *done.entry(entry.id).or_default() += 1;
    }
    assert_eq!(done.len(), jobs.len());
    assert!(done.values().all(|times| *times == 1), "{done:?}");
    for job in jobs.iter() {
        assert_eq!(place.get(&name_of(job)).unwrap().unwrap(), picture(job));
    }
    let claims = place.list("claims/").unwrap();
    assert!(claims.iter().any(|item| item.name.ends_with("/1")), "no chunk was taken over");
    assert!(made.load(Ordering::Relaxed) >= 100);
}

#[test]
fn workers_die_over_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place: Arc<dyn Objects> = Arc::new(SharedFolder::open(folder.path()).unwrap());
    survives(&place, 9);
}

#[test]
#[cfg(feature = "cluster")]
fn workers_die_over_a_bucket() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let place: Arc<dyn Objects> = Arc::new(Remote::over(store, "memory://x/y", "y").unwrap());
    survives(&place, 9);
    let store = Arc::new(object_store::memory::InMemory::new());
    let place: Arc<dyn Objects> = Arc::new(Remote::over(store, "memory://x", "").unwrap());
    survives(&place, 3);
}

#[test]
fn what_is_given_back_is_taken_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let objects = || patient(SharedFolder::open(folder.path()).unwrap());
    let jobs = jobs(5);
    let mut first = Claims::open(objects(), jobs.clone(), settings("a", 60_000, 5)).unwrap();
    let portion = taken(&mut first);
    assert_eq!((portion.jobs.len(), portion.before.len()), (5, 0));
    first.report(entry(&portion.jobs[0])).unwrap();
    let mut second = Claims::open(objects(), jobs, settings("b", 60_000, 5)).unwrap();
    assert!(matches!(second.next("").unwrap(), Next::Wait(_)));
    first.release().unwrap();
    let portion = taken(&mut second);
    assert_eq!(portion.before.len(), 1);
    assert_eq!(portion.before[0].id, "0");
}

/// The clock of the worker that waits decides, and the other one finds that it has lost.
#[test]
fn a_silent_worker_loses_its_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let place = || Arc::new(SharedFolder::open(folder.path()).unwrap());
    let faulty = Faulty::new(place(), 0);
    let is_away = faulty.is_away.clone();
    let jobs = jobs(30);
    let mut first = Claims::open(patient(faulty), jobs.clone(), settings("a", 100, 30)).unwrap();
    let portion = taken(&mut first);
    let mut second =
        Claims::open(patient(Faulty::new(place(), 0)), jobs, settings("b", 100, 30)).unwrap();
    is_away.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    while !matches!(second.next("").unwrap(), Next::Jobs(_)) {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(begin.elapsed() >= Duration::from_millis(90));
    is_away.store(false, Ordering::Relaxed);
    let lost = portion.jobs.iter().any(|job| first.report(entry(job)).unwrap() == Hold::Lost);
    assert!(lost);
    assert_eq!(first.begin("29").unwrap(), Begin::Lost);
    // While beats go on, nothing is lost.
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        assert!(matches!(first.next("").unwrap(), Next::Wait(_)));
    }
}

#[test]
fn a_job_that_ends_its_workers_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(3);
    let mut answers = Vec::new();
    for life in 0..6 {
        let objects = patient(SharedFolder::open(folder.path()).unwrap());
        let mut claims =
            Claims::open(objects, jobs.clone(), settings(&format!("w{life}"), 20, 3)).unwrap();
        let portion = loop {
            match claims.next("").unwrap() {
                Next::Jobs(portion) => break portion,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        // The first job is made, the second one ends the program.
        if life == 0 {
            claims.report(entry(&portion.jobs[0])).unwrap();
            std::thread::sleep(Duration::from_millis(60));
        }
        answers.push(claims.begin("1").unwrap());
    }
    assert_eq!(answers[..4], [Begin::Go; 4]);
    assert!(answers[4..].iter().any(|answer| matches!(answer, Begin::GaveUp(_))), "{answers:?}");
}

#[test]
fn workers_agree_on_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let objects = || patient(SharedFolder::open(folder.path()).unwrap());
    let list = jobs(10);
    agree(&objects(), &head(&list), &list).unwrap();
    agree(&objects(), &head(&list), &list).unwrap();
    Claims::open(objects(), list.clone(), settings("a", 100, 3)).unwrap();
    let error = agree(&objects(), &head(&list[..9]), &list[..9]).unwrap_err().to_string();
    assert!(error.contains("another list"), "{error}");
    let mut other: Vec<Ready> = list.to_vec();
    other.reverse();
    let error = Claims::open(objects(), Arc::new(other), settings("b", 100, 3)).unwrap_err();
    assert!(error.to_string().contains("another order"), "{error}");
    let error = Claims::open(objects(), list.clone(), settings("c", 100, 4)).unwrap_err();
    assert!(error.to_string().contains("chunks of 3"), "{error}");
    let any = Settings { chunk: None, ..settings("d", 100, 3) };
    assert_eq!(Claims::open(objects(), list.clone(), any).unwrap().counts(), (4, 0));
}

#[test]
fn a_picture_stays_the_first_one() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = SharedPictures::new(patient(SharedFolder::open(folder.path()).unwrap()));
    pictures.create("ab/x.png", b"first").unwrap();
    pictures.create("ab/x.png", b"first").unwrap();
    assert!(matches!(pictures.create("ab/x.png", b"other"), Err(Error::Exists { .. })));
    assert_eq!(pictures.read("ab/x.png").unwrap(), b"first");
    assert_eq!(pictures.end("ab/x.png", 2).unwrap(), b"st");
    assert_eq!(
        (pictures.length("ab/x.png").unwrap(), pictures.length("y.png").unwrap()),
        (Some(5), None)
    );
    assert_eq!(pictures.list().unwrap().len(), 1);
    assert!(!pictures.was_out_of_reach());
    let faulty = Faulty::new(Arc::new(SharedFolder::open(folder.path()).unwrap()), 0);
    faulty.is_away.store(true, Ordering::Relaxed);
    let pictures = SharedPictures::new(patient(faulty));
    assert!(pictures.create("z.png", b"x").is_err() && pictures.was_out_of_reach());
}
