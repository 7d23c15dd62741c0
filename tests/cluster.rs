//! One list, several workers, with the real program: parts, claims over a folder and over S3, a queue in PostgreSQL.
//! Whatever ends a worker, every picture is made, none is logged twice, and all bytes are those of one undisturbed run.
//!
//! The servers are started here. S3 needs a Python with `moto[server]` and `boto3` (`COLORA_TEST_PYTHON` names it),
//! PostgreSQL its programs below `/usr/lib/postgresql`; what is missing is said, and its test ends.
#![cfg(all(feature = "cli", unix))]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "cli/world.rs"]
#[allow(dead_code)]
mod world;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use world::World;

/// What every batch here begins with: the starter, small and quick.
const QUICK: [&str; 9] = ["-m", "starter", "--size", "64x64", "-s", "2", "--threads", "1", "-q"];
/// How long a test waits for its workers.
const PATIENCE: Duration = Duration::from_secs(300);

fn batch<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ["batch"].into_iter().chain(more.iter().copied()).chain(QUICK).collect()
}

/// The pictures below a folder, by their names.
fn pictures(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(pictures(&path));
        } else if path.extension().is_some_and(|extension| extension == "png") {
            // A picture may take its name while it is looked for.
            let Ok(bytes) = fs::read(&path) else { continue };
            found.insert(path.file_name().unwrap().to_string_lossy().into_owned(), bytes);
        }
    }
    found
}

/// Ids that logs call done, each as often as they do.
fn done(logs: &[impl AsRef<Path>]) -> Vec<String> {
    let mut ids = Vec::new();
    for log in logs {
        let text = fs::read_to_string(log).unwrap();
        for entry in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if entry["status"] == "done" {
                ids.push(entry["id"].as_str().unwrap().to_owned());
            }
        }
    }
    ids.sort();
    ids
}

/// The list `list.txt` and the pictures of its undisturbed run.
fn undisturbed(world: &World, count: usize) -> BTreeMap<String, Vec<u8>> {
    let loras = ["", " --lora flat:0.8", " --lora gold:0.5"];
    let line = |n: usize| format!("--prompt a red apple number {n}{}\n", loras[n % loras.len()]);
    world.write("list.txt", (0..count).fold(String::new(), |text, n| text + &line(n)));
    world.run(&batch(&["list.txt", "-o", "whole"]));
    let whole = pictures(&world.path("whole"));
    assert_eq!(whole.len(), count);
    whole
}

fn ids(whole: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    whole.keys().map(|name| name.trim_end_matches(".png").to_owned()).collect()
}

fn start(world: &World, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
    let mut process = world.process(arguments);
    process.envs(variables.iter().copied());
    process.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a worker to end, which has to be well.
fn succeeds(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{:?}: {error}", output.status);
    error
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Four workers, of which one after the other is killed at odd moments and started again.
fn survive(world: &World, arguments: &[&str], variables: &[(&str, &str)], kills: usize) {
    let mut workers: Vec<Child> = (0..4).map(|_| start(world, arguments, variables)).collect();
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(300 + round as u64 * 137 % 400));
        let worker = &mut workers[round % 4];
        if worker.try_wait().unwrap().is_none() {
            worker.kill().unwrap();
        }
        worker.wait().unwrap();
        *worker = start(world, arguments, variables);
    }
    for worker in workers {
        succeeds(worker);
    }
}

#[test]
fn parts_make_the_whole() {
    let world = World::new();
    let whole = undisturbed(&world, 13);
    let out = world.path("out");
    let by_hand = batch(&["list.txt", "-o", "out", "--shard", "1/3"]);
    let by_slurm = batch(&["list.txt", "-o", "out"]);
    let slurm = [
        ("SLURM_ARRAY_TASK_ID", "8"),
        ("SLURM_ARRAY_TASK_COUNT", "3"),
        ("SLURM_ARRAY_TASK_MIN", "7"),
        ("SLURM_ARRAY_TASK_MAX", "9"),
    ];
    let by_kubernetes = batch(&["list.txt", "-o", "out", "--shard", "auto/3"]);
    let workers = [
        start(&world, &by_hand, &[]),
        start(&world, &by_slurm, &slurm),
        start(&world, &by_kubernetes, &[("JOB_COMPLETION_INDEX", "2")]),
    ];
    for worker in workers {
        succeeds(worker);
    }
    assert_eq!(pictures(&out), whole);
    let logs: Vec<_> = (1..=3).map(|n| out.join(format!("manifest-{n}-of-3.jsonl"))).collect();
    assert_eq!(done(&logs), ids(&whole));
    // One program finds that nothing is left, and logs nothing again.
    world.run(&batch(&["list.txt", "-o", "out"]));
    assert_eq!(done(&[out.join("manifest-0.jsonl")]), [""; 0]);
    // Kubernetes does not say how many there are.
    let mut command = world.process(&by_slurm);
    let output = command.env("JOB_COMPLETION_INDEX", "2").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.contains("COLORA_SHARDS"), "{error}");
    for bad in ["0/3", "4/3", "x"] {
        assert_eq!(
            world.command(&["batch", "list.txt", "--shard", bad]).output().unwrap().status.code(),
            Some(2)
        );
    }
    // Another list at the same place is refused, also as a part.
    world.write("other.txt", "something else\n");
    world.fail(2, &batch(&["other.txt", "-o", "out", "--shard", "1/3"]));
}

#[test]
fn workers_share_a_folder() {
    let world = World::new();
    let whole = undisturbed(&world, 40);
    let out = world.path("out");
    let arguments = batch(&["list.txt", "-o", "out", "--claim", "--chunk", "3", "--lease", "2"]);
    survive(&world, &arguments, &[], 6);
    assert_eq!(pictures(&out), whole);
    assert_eq!(done(&[out.join("manifest-claims.jsonl")]), ids(&whole));
    // One that comes late finds all done; one with another list or other chunks is refused.
    succeeds(start(&world, &arguments, &[]));
    world.fail(2, &batch(&["list.txt", "-o", "out", "--claim", "--chunk", "4"]));
    world.write("other.txt", "something else\n");
    world.fail(2, &batch(&["other.txt", "-o", "out", "--claim"]));
    world.fail(2, &batch(&["list.txt", "-o", "out", "--claim", "--replan"]));
    world.fail(2, &batch(&["list.txt", "-o", "out", "--claim", "--shard", "1/2"]));
}

/// What a worker has that is asked to stop is free at once: the next one does not wait for its lease.
#[test]
fn a_signal_gives_claims_back() {
    let world = World::new();
    let whole = undisturbed(&world, 30);
    let out = world.path("out");
    let arguments =
        batch(&["list.txt", "-o", "out", "--claim", "--chunk", "30", "--lease", "3600"]);
    let mut first = start(&world, &arguments, &[]);
    wait_until(|| !pictures(&out).is_empty() || first.try_wait().unwrap().is_some());
    let sent = Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{}", String::from_utf8(output.stderr).unwrap());
    let there = pictures(&out).len();
    assert!((1..30).contains(&there), "{there}");
    succeeds(start(&world, &arguments, &[]));
    assert_eq!(pictures(&out), whole);
    let log = fs::read_to_string(out.join("manifest-claims.jsonl")).unwrap();
    assert_eq!(done(&[out.join("manifest-claims.jsonl")]), ids(&whole));
    // The first worker's lines are in the log, with their times.
    let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let workers: BTreeSet<String> = entries.map(|entry| entry["worker"].to_string()).collect();
    assert_eq!(workers.len(), 2, "{workers:?}");
}

/// A failure of a job is no reason to try it again elsewhere: the list ends, with the exit code 7.
#[test]
fn failures_end_with_the_list() {
    let world = World::new();
    world.write("loras/broken.safetensors", "this is no LoRA");
    world.write("list.txt", "a\n--prompt b --lora ./loras/broken.safetensors\nc\n");
    let arguments = batch(&["list.txt", "-o", "out", "--claim", "--chunk", "1"]);
    let output = world.command(&arguments).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{error}");
    let log = fs::read_to_string(world.path("out/manifest-claims.jsonl")).unwrap();
    assert_eq!(
        (log.lines().count(), done(&[world.path("out/manifest-claims.jsonl")]).len()),
        (3, 2)
    );
    assert_eq!(
        world.command(&arguments).output().unwrap().status.code(),
        Some(7),
        "as a run of one machine does"
    );
    if !cfg!(feature = "cluster") {
        let error = world.fail(5, &batch(&["list.txt", "-o", "s3://batch/x"]));
        assert!(error.contains("--features cluster"), "{error}");
    }
    if !cfg!(feature = "postgres") {
        let error = world.fail(5, &["batch", "work", "--queue", "postgres://x/y", "-o", "out"]);
        assert!(error.contains("--features postgres"), "{error}");
    }
}

/// A server of `tests/cluster`, which ends with this value.
#[cfg(any(feature = "cluster", feature = "postgres"))]
struct Server {
    process: Child,
    answers: std::io::BufReader<std::process::ChildStdout>,
    /// Its first line.
    address: String,
}

#[cfg(any(feature = "cluster", feature = "postgres"))]
impl Server {
    /// Starts it; what it lacks is printed.
    fn start(command: &mut Command) -> Option<Self> {
        use std::io::BufRead;
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut process) = pipes.spawn() else {
            println!("skipped: {command:?} cannot be started");
            return None;
        };
        let mut answers = std::io::BufReader::new(process.stdout.take()?);
        let mut address = String::new();
        answers.read_line(&mut address).unwrap();
        if address.trim().is_empty() {
            println!("skipped: {command:?} does not start its server");
            return None;
        }
        Some(Self { process, answers, address: address.trim().to_owned() })
    }

    #[cfg(feature = "cluster")]
    fn ask(&mut self, line: &str) {
        use std::io::{BufRead, Write};
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(answer.starts_with("done"), "{answer}");
    }
}

#[cfg(any(feature = "cluster", feature = "postgres"))]
impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = std::io::Read::read_to_end(&mut self.answers, &mut Vec::new());
        let _ = self.process.wait();
    }
}

/// Each seventh request fails: refused, or done without an answer.
#[test]
#[cfg(feature = "cluster")]
fn workers_share_a_bucket_that_fails() {
    let python = std::env::var("COLORA_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/s3.py");
    let Some(mut server) = Server::start(Command::new(python).args([script, "7"])) else { return };
    let world = World::new();
    let whole = undisturbed(&world, 40);
    let endpoint = format!("http://127.0.0.1:{}", server.address);
    let variables = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
    ];
    let arguments = batch(&["list.txt", "-o", "s3://batch/run", "--chunk", "3", "--lease", "4"]);
    survive(&world, &arguments, &variables, 4);
    server.ask(&format!("dump {}", world.path("copy").display()));
    assert_eq!(pictures(&world.path("copy")), whole);
    assert_eq!(done(&[world.path("copy/run/manifest-claims.jsonl")]), ids(&whole));
    // A bucket that is not there, and one that nobody answers for.
    let mut command = world.process(&batch(&["list.txt", "-o", "s3://nowhere/run"]));
    let output = command.envs(variables).output().unwrap();
    assert!(!output.status.success());
    let error = world.fail(2, &batch(&["list.txt", "-o", "ftp://x/y"]));
    assert!(error.contains("s3://"), "{error}");
}

#[test]
#[cfg(feature = "postgres")]
fn a_database_hands_jobs_out() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/postgres.sh");
    let Some(server) = Server::start(&mut Command::new(script)) else { return };
    let url = server.address.as_str();
    let world = World::new();
    let whole = undisturbed(&world, 40);
    let submit = batch(&["submit", "list.txt", "--queue", url, "--batch", "art"]);
    for _ in 0..2 {
        // The second time adds nothing.
        assert_eq!(world.run(&submit).trim(), "art");
    }
    let status = |json: bool| {
        let flags: &[&str] = if json { &["--json"] } else { &[] };
        world.run(&[&["batch", "status", "--queue", url], flags].concat())
    };
    assert!(status(false).contains("40 open"), "{}", status(false));
    let out = world.path("out");
    let work = [
        "batch",
        "work",
        "--queue",
        url,
        "-o",
        "out",
        "--chunk",
        "3",
        "--lease",
        "2",
        "--threads",
        "1",
        "-q",
    ];
    survive(&world, &work, &[], 6);
    assert_eq!(pictures(&out), whole);
    let value: Value = serde_json::from_str(status(true).trim()).unwrap();
    assert_eq!((&value["counts"]["done"], &value["counts"]["open"]), (&40.into(), &0.into()));
    assert_eq!(done(&[out.join("manifest-art.jsonl")]), ids(&whole));
    // Another list under the name, a batch that is not there, a database that is not there.
    world.write("other.txt", "something else\n");
    world.fail(2, &batch(&["submit", "other.txt", "--queue", url, "--batch", "art"]));
    let error = world.fail(4, &["batch", "work", "--queue", url, "-o", "out", "--batch", "none"]);
    assert!(error.contains("no batch named `none`"), "{error}");
    let error = world.fail(2, &["batch", "status", "--queue", "mysql://x"]);
    assert!(error.contains("postgres://"), "{error}");
    // A signal gives jobs back at once.
    let submit = batch(&["submit", "list.txt", "--queue", url, "--batch", "again"]);
    world.run(&submit);
    let slow = [
        "batch",
        "work",
        "--queue",
        url,
        "-o",
        "second",
        "--lease",
        "3600",
        "--threads",
        "1",
        "-q",
    ];
    let mut first = start(&world, &slow, &[]);
    let second = world.path("second");
    wait_until(|| !pictures(&second).is_empty() || first.try_wait().unwrap().is_some());
    Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    assert_eq!(first.wait_with_output().unwrap().status.signal(), Some(15));
    succeeds(start(&world, &slow, &[]));
    assert_eq!(pictures(&second), whole);
}
