//! Batches with the real program: nothing is lost, nothing is made twice, whatever ends a run.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "cli/world.rs"]
#[allow(dead_code)]
mod world;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use world::{World, json};

/// What every batch here begins with: the starter, small and quick.
const QUICK: [&str; 8] = ["batch", "-m", "starter", "--size", "64x64", "-s", "2", "-q"];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.into_iter().chain(more.iter().copied()).collect()
}

/// The pictures in a folder and in those in it, by name.
fn pictures(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "png") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// The lines of a folder's log that can be read.
fn log(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("manifest-0.jsonl")).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Names of the jobs that the log calls done, each as often as it does.
fn done(folder: &Path) -> Vec<String> {
    let lines = log(folder).into_iter().filter(|line| line["status"] == "done");
    lines.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

/// Files that are neither pictures nor the list and the log.
fn leftovers(folder: &Path) -> Vec<String> {
    let known = ["plan.json", "plan.jsonl", "manifest-0.jsonl"];
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| {
            Path::new(name).extension().is_none_or(|e| e != "png")
                && !known.contains(&name.as_str())
        })
        .collect()
}

/// A list of jobs in which LoRAs change from line to line.
fn many(count: usize) -> String {
    let loras = ["", " --lora flat:0.8", " --lora gold:0.5"];
    let line = |n: usize| format!("--prompt a red apple number {n}{}\n", loras[n % loras.len()]);
    (0..count).fold(String::new(), |text, n| text + &line(n))
}

#[test]
fn a_list_is_made_once() {
    let world = World::new();
    world.write("list.txt", "# three jobs\na red apple\n\n--prompt a cat --seed 5 --label set=x\n--prompt a cat --seed 5\n");
    let out = world.path("list-pictures");
    let lines = world.run(&quick(&["list.txt"]));
    assert_eq!(lines.lines().count(), 2, "two lines ask for the same picture");
    let first = pictures(&out);
    assert_eq!((first.len(), done(&out).len(), leftovers(&out).len()), (2, 2, 0));
    let entry = log(&out).into_iter().find(|entry| entry["seed"] == 5).unwrap();
    assert_eq!(
        (&entry["labels"]["set"], &entry["line"], &entry["attempt"]),
        (&"x".into(), &4.into(), &1.into())
    );
    assert_eq!((&entry["device"], &entry["width"]), (&"cpu".into(), &64.into()));
    // The same as `generate` makes.
    world.run(&["-m", "starter", "--size", "64x64", "-s2", "-S5", "-o", "x.png", "a cat"]);
    let file = format!("list-pictures/{}", entry["file"].as_str().unwrap());
    assert_eq!(world.pixels("x.png"), world.pixels(&file));
    // Again: nothing is left to do.
    assert_eq!(world.run(&quick(&["list.txt"])), "");
    assert_eq!(done(&out).len(), 2);
    // A picture that is lost is made again, to the byte.
    fs::remove_file(world.path(&file)).unwrap();
    assert_eq!(world.run(&quick(&["list.txt"])).lines().count(), 1);
    assert_eq!(pictures(&out), first);
}

#[test]
fn formats_and_printed_lines_name_the_same_pictures() {
    let world = World::new();
    world
        .write("a.txt", "--prompt a red apple --seed 1 --lora flat:0.8\n--prompt a cat --seed 2\n");
    world.write("a.csv", "prompt;seed;lora.flat\na red apple;1;0.8\na cat;2;\n");
    world.write("a.jsonl", "{\"prompt\":\"a red apple\",\"seed\":1,\"loras\":[{\"name\":\"flat\",\"weight\":0.8}]}\n{\"prompt\":\"a cat\",\"seed\":\"2\"}\n");
    world.write("a.toml", "[[job]]\nprompt = \"a red apple\"\nseed = 1\nloras = [\"flat:0.8\"]\n\n[[job]]\nprompt = \"a cat\"\nseed = 2\n");
    let ids = |file: &str| -> Vec<String> {
        let text = world.run(&quick(&[file, "--dry-run", "--json"]));
        let jobs = text.lines().map(json).filter(|line| line["event"] == "job");
        jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let expected = ids("a.txt");
    assert_eq!(expected.len(), 2);
    for file in ["a.csv", "a.jsonl", "a.toml"] {
        assert_eq!(ids(file), expected, "{file}");
    }
    let printed = world.run(&quick(&["a.txt", "--json", "-o", "first"]));
    world.write("printed.jsonl", &printed);
    let output = world.command(&["batch", "printed.jsonl", "-o", "second", "-q"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let bytes = |name: &str| pictures(&world.path(name)).into_values().collect::<BTreeSet<_>>();
    assert_eq!(bytes("first"), bytes("second"));
    let stdin = world.command(&quick(&["-", "--dry-run"])).write_stdin(printed).output().unwrap();
    assert!(String::from_utf8(stdin.stdout).unwrap().contains(&expected[0]));
    let error = world.fail(2, &quick(&["-"]));
    assert!(error.contains("tells the format"), "{error}");
}

/// A golden file of each format: the same jobs are the same ids.
#[test]
fn golden_files_of_every_format_are_the_same_jobs() {
    let world = World::new();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/batch");
    let ids = |name: &str| -> Vec<String> {
        let file = files.join(name);
        let text = world.run(&quick(&[file.to_str().unwrap(), "--dry-run", "--json"]));
        let jobs = text.lines().map(json).filter(|line| line["event"] == "job");
        jobs.map(|job| format!("{} {}", job["id"], job["labels"])).collect()
    };
    let expected = ids("jobs.txt");
    assert_eq!(expected.len(), 3);
    for name in ["a1111.txt", "jobs.csv", "jobs.tsv", "jobs.jsonl", "jobs.toml"] {
        assert_eq!(ids(name), expected, "{name}");
    }
    let yaml = files.join("jobs.yaml");
    if cfg!(feature = "yaml") {
        assert_eq!(ids("jobs.yaml"), expected);
    } else {
        let error = world.fail(5, &quick(&[yaml.to_str().unwrap(), "--dry-run"]));
        assert!(error.contains("yaml"), "{error}");
    }
    // The list of a folder is a file of jobs, and its pictures are jobs, too.
    let file = files.join("jobs.csv");
    world.run(&quick(&[file.to_str().unwrap(), "-o", "out"]));
    let dry = |input: &str| -> BTreeSet<String> {
        let text = world.run(&["batch", input, "--dry-run", "--json", "-q"]);
        let jobs = text.lines().map(json).filter(|line| line["event"] == "job");
        jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let there: BTreeSet<String> =
        pictures(&world.path("out")).keys().map(|name| name.replace(".png", "")).collect();
    assert_eq!((dry("out/plan.jsonl"), dry("out")), (there.clone(), there));
}

#[test]
fn pictures_are_made_again_with_what_flags_change() {
    let world = World::new();
    world
        .write("a.txt", "--prompt a red apple --seed 1\n--prompt a cat --seed 2 --lora flat:0.8\n");
    world.run(&quick(&["a.txt", "-o", "first"]));
    world.run(&["batch", "first", "-o", "second", "-q"]);
    let bytes = |name: &str| pictures(&world.path(name)).into_values().collect::<BTreeSet<_>>();
    assert_eq!(bytes("first"), bytes("second"));
    world.run(&["batch", "first", "-s", "3", "-o", "third", "-q"]);
    let steps: Vec<Value> =
        log(&world.path("third")).iter().map(|line| line["steps"].clone()).collect();
    assert_eq!(steps, [3, 3]);
    let names: Vec<String> = pictures(&world.path("first")).into_keys().collect();
    let (one, two) = (format!("first/{}", names[0]), format!("first/{}", names[1]));
    assert_eq!(world.run(&["batch", &one, &two, "-o", "fourth", "-q"]).lines().count(), 2);
    let error = world.fail(2, &["batch", "a.txt", "b.txt"]);
    assert!(error.contains("b.txt") && error.contains("pictures"), "{error}");
    let error = world.fail(4, &["batch", &one, "none.png", "-o", "fifth"]);
    assert!(error.contains("line 2") && error.contains("none.png"), "{error}");
}

/// Three pictures in one evaluation are the three made alone, to the byte.
#[test]
fn several_at_once_are_the_same_pictures() {
    let world = World::new();
    let list = "--prompt a red apple --repeat 4 --lora flat:0.8\n--prompt a cat\n--prompt a red apple --lora flat:0.8 --seed 9\n";
    world.write("list.txt", list);
    world.run(&quick(&["list.txt", "-o", "alone"]));
    let lines = world.run(&quick(&["list.txt", "-o", "together", "--batch-size", "3"]));
    assert_eq!(lines.lines().count(), 6);
    assert_eq!(pictures(&world.path("together")), pictures(&world.path("alone")));
    let logged = done(&world.path("together"));
    assert_eq!((logged.len(), logged.iter().collect::<BTreeSet<_>>().len()), (6, 6));
}

#[test]
fn status_counts_what_is_done_failed_and_open() {
    let world = World::new();
    world.write("loras/broken.safetensors", "this is no LoRA");
    world.write("list.txt", "a\n--prompt b --lora ./loras/broken.safetensors\nc\nd\n");
    let out = world.path("list-pictures");
    let output = world.command(&quick(&["list.txt"])).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    // As after a crash: two lines of the log and their pictures are gone.
    let text = fs::read_to_string(out.join("manifest-0.jsonl")).unwrap();
    let kept: Vec<&str> = text.lines().take(2).collect();
    fs::write(out.join("manifest-0.jsonl"), kept.join("\n") + "\n").unwrap();
    let state = json(&world.run(&["batch", "status", "list-pictures", "--json"]));
    assert_eq!(state["jobs"], 4);
    let count = |key: &str| state[key].as_u64().unwrap();
    assert_eq!(count("done") + count("failed") + count("open"), 4);
    assert_eq!(count("open"), 2);
    let text = world.run(&["batch", "status", "list-pictures"]);
    assert!(text.contains("4 jobs") && text.contains("2 open"), "{text}");
    let table = world.run(&["batch", "status", "list-pictures", "--csv"]);
    assert_eq!(table.lines().count(), 5);
    assert!(table.starts_with("id,line,state,"), "{table}");
    world.fail(4, &["batch", "status", "nowhere"]);
    // The run puts back what the log lacks.
    world.command(&quick(&["list.txt"])).output().unwrap();
    let state = json(&world.run(&["batch", "status", "list-pictures", "--json"]));
    assert_eq!((&state["done"], &state["failed"]), (&3.into(), &1.into()));
    assert_eq!(state["errors"][0]["code"], 3);
}

#[test]
fn names_seeds_and_fresh_folders() {
    let world = World::new();
    world.write("list.csv", "prompt,label.set\na fox,x\na cat,y\n");
    let run = |more: &[&str]| world.run(&[&quick(&["list.csv"])[..], more].concat());
    run(&["-o", "out", "--name", "{label.set}/{line}-{prompt}"]);
    let out = world.path("out");
    assert!(out.join("x/000002-a-fox.png").exists() && out.join("y/000003-a-cat.png").exists());
    assert_eq!(run(&["-o", "out", "--name", "{label.set}/{line}-{prompt}"]), "");
    let error = world.fail(2, &[&quick(&["list.csv"])[..], &["-o", "out"]].concat());
    assert!(error.contains("{label.set}"), "{error}");
    // A picture of that name that no log knows is recognised by the id inside, or refused.
    fs::remove_file(out.join("manifest-0.jsonl")).unwrap();
    assert_eq!(run(&["-o", "out", "--name", "{label.set}/{line}-{prompt}"]), "");
    fs::remove_file(out.join("manifest-0.jsonl")).unwrap();
    fs::copy(out.join("x/000002-a-fox.png"), out.join("y/000003-a-cat.png")).unwrap();
    let all = [&quick(&["list.csv"])[..], &["-o", "out", "--name", "{label.set}/{line}-{prompt}"]];
    assert!(world.fail(2, &all.concat()).contains("another picture"));
    let error = world.fail(2, &[&quick(&["list.csv"])[..], &["-o", "new", "--name", "x"]].concat());
    assert!(error.contains("line 3") && error.contains("line 2"), "{error}");
    let error = world.fail(2, &[&quick(&["list.csv"])[..], &["-o", "out", "--fresh"]].concat());
    assert!(error.contains("--fresh"), "{error}");
    // A seed that is drawn stays.
    run(&["-o", "drawn", "--seeds", "random"]);
    let first = pictures(&world.path("drawn"));
    assert_eq!(run(&["-o", "drawn", "--seeds", "random"]), "");
    run(&["-o", "other", "--seed", "random"]);
    assert_ne!(pictures(&world.path("other")).keys().next(), first.keys().next());
    let error =
        world.fail(6, &[&quick(&["list.csv"])[..], &["-o", "new", "--max-jobs", "1"]].concat());
    assert!(error.contains("at most 1"), "{error}");
}

#[test]
fn every_line_is_checked_before_the_first_picture() {
    let world = World::new();
    world.write(
        "bad.txt",
        "a fine line\n--prompt x --stepz 3\n--prompt y --width 7\n--prompt z --lora flatt\n",
    );
    let error = world.fail(2, &quick(&["bad.txt", "-o", "out"]));
    for part in [
        "bad.txt: line 2: key = stepz",
        "`steps`",
        "line 3: width = 7",
        "line 4: no LoRA named `flatt`",
        "flat",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!world.path("out").exists(), "nothing is begun");
    world.write("missing.txt", "--prompt a --model nowhere\n");
    world.fail(4, &quick(&["missing.txt"]));
    world.write("empty.txt", "# nothing\n");
    assert!(world.fail(3, &quick(&["empty.txt"])).contains("no job"));
    world.write("ids.csv", "id,prompt\na,x\na,y\n");
    assert!(world.fail(2, &quick(&["ids.csv"])).contains("line 3: id = a"));
    let random = ["bad.txt", "--seeds", "random", "--seed", "3"];
    assert!(world.fail(2, &quick(&random)).contains("seed"));
    // The good line alone, when that is wanted.
    let output = world.command(&quick(&["bad.txt", "-o", "out", "--keep-going"])).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(pictures(&world.path("out")).len(), 1);
}

#[test]
fn a_bad_lora_and_a_blocked_name_cost_only_their_jobs() {
    let world = World::new();
    world.write("loras/broken.safetensors", "this is no LoRA");
    let list = "--prompt a --lora ./loras/broken.safetensors\n--prompt b\n--prompt c --lora ./loras/broken.safetensors\n--prompt d --id blocked\n";
    world.write("list.txt", list);
    fs::create_dir_all(world.path("out/blocked.png")).unwrap();
    let run = |more: &[&str]| {
        let arguments: Vec<&str> =
            quick(&["list.txt", "-o", "out"]).into_iter().chain(more.iter().copied()).collect();
        world.command(&arguments).output().unwrap()
    };
    let output = run(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(error.contains("3 of 4 jobs failed"), "{error}");
    let out = world.path("out");
    let failed: Vec<Value> =
        log(&out).into_iter().filter(|line| line["status"] == "failed").collect();
    let lines: BTreeSet<u64> = failed.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, BTreeSet::from([1, 3, 4]));
    assert!(failed.iter().any(|line| line["error"]["code"] == 3), "{failed:?}");
    // Failures stay until they are to be tried again.
    let again = run(&[]);
    assert_eq!((again.status.code(), log(&out).len()), (Some(7), 4));
    fs::remove_dir(world.path("out/blocked.png")).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(root.join("loras/flat.safetensors"), world.path("loras/broken.safetensors")).unwrap();
    // The LoRA has other contents now: these are other pictures.
    assert_eq!(run(&["--retry-failed"]).status.code(), Some(2), "another list");
    assert_eq!(run(&["--retry-failed", "--replan"]).status.code(), Some(0));
    assert_eq!(pictures(&out).len(), 4);
}

#[test]
fn damage_is_found_and_other_lists_are_refused() {
    let world = World::new();
    world.write("list.txt", "a\nb\n");
    let out = world.path("list-pictures");
    world.run(&quick(&["list.txt"]));
    let whole = pictures(&out);
    let name = out.join(whole.keys().next().unwrap());
    // One byte of the pixels.
    let mut bytes = fs::read(&name).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&name, &bytes).unwrap();
    assert_eq!(world.run(&quick(&["list.txt"])), "", "a look at the end of the file finds nothing");
    assert_eq!(world.run(&quick(&["list.txt", "--verify"])).lines().count(), 1);
    assert_eq!(pictures(&out), whole);
    // Cut short: found without being asked.
    fs::write(&name, &bytes[..middle]).unwrap();
    world.run(&quick(&["list.txt"]));
    assert_eq!(pictures(&out), whole);
    world.write("list.txt", "a\nb\nc\n");
    let error = world.fail(2, &quick(&["list.txt"]));
    assert!(error.contains("--replan"), "{error}");
    assert_eq!(world.run(&quick(&["list.txt", "--replan"])).lines().count(), 1);
    assert_eq!(pictures(&out).len(), 3);
    // Another picture under the name that a line asks for is not touched.
    world.write("named.txt", "--prompt a --id fox\n");
    world.run(&quick(&["named.txt"]));
    let fox = pictures(&world.path("named-pictures"));
    world.write("named.txt", "--prompt b --id fox\n");
    let error = world.fail(2, &quick(&["named.txt", "--replan"]));
    assert!(error.contains("another picture"), "{error}");
    assert_eq!(pictures(&world.path("named-pictures")), fox);
}

#[test]
fn loras_change_as_seldom_as_they_can() {
    let world = World::new();
    world.write("list.txt", many(12));
    let summary = |more: &[&str]| {
        let arguments: Vec<&str> = quick(&["list.txt", "--dry-run", "--json"])
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        json(world.run(&arguments).lines().last().unwrap())
    };
    let value = summary(&[]);
    assert_eq!((&value["jobs"], &value["changes"]["stacks"]), (&12.into(), &3.into()));
    assert_eq!(value["changes_of_file"]["stacks"], 12);
    assert!(value["bytes"].as_u64().unwrap() > 10_000);
    assert_eq!(summary(&["--job-order", "file"])["changes"]["stacks"], 12);
    let text = world.run(&quick(&["list.txt", "--dry-run", "--seconds-per-picture", "3"]));
    assert!(
        text.contains("12 jobs") && text.contains("of LoRAs 3") && text.contains("36 s"),
        "{text}"
    );
    let measured = summary(&["--measure"])["seconds"].as_f64().unwrap();
    assert!(measured > 0.0, "{measured}");
    assert!(!world.path("list-pictures").exists());
}

/// The undisturbed run of a list.
fn undisturbed(world: &World, list: &str) -> BTreeMap<String, Vec<u8>> {
    world.run(&quick(&[list, "-o", "whole"]));
    pictures(&world.path("whole"))
}

fn start(world: &World, arguments: &[&str]) -> Child {
    let mut process = world.process(arguments);
    process.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for(folder: &Path, count: usize, child: &mut Child) {
    while pictures(folder).len() < count && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// kill -9 at many moments: the pictures are those of a run that nothing disturbed, each one made and logged once.
#[test]
#[cfg(unix)]
fn kill_9_loses_nothing_and_repeats_nothing() {
    let world = World::new();
    world.write("list.txt", many(18));
    let whole = undisturbed(&world, "list.txt");
    assert_eq!(whole.len(), 18);
    let out: PathBuf = world.path("out");
    let arguments = quick(&["list.txt", "-o", "out"]);
    let mut kills = 0;
    for round in 0..10 {
        let mut child = start(&world, &arguments);
        let there = pictures(&out).len();
        // Some rounds are killed before their first picture, others at odd moments after one or more.
        wait_for(&out, there + round % 4, &mut child);
        std::thread::sleep(Duration::from_millis(u64::try_from(round * 17 % 60).unwrap()));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
        let now = pictures(&out);
        assert!(now.iter().all(|(name, bytes)| whole.get(name) == Some(bytes)), "no half pictures");
    }
    assert!(kills >= 3, "only {kills} runs were killed");
    world.run(&arguments);
    assert_eq!(pictures(&out), whole);
    let logged = done(&out);
    assert_eq!((logged.len(), logged.iter().collect::<BTreeSet<_>>().len()), (18, 18));
    assert_eq!(leftovers(&out), [""; 0]);
    assert_eq!(world.run(&arguments), "");
}

/// What a torn line of the log has lost is put back.
#[test]
fn a_torn_log_is_mended() {
    let world = World::new();
    world.write("list.txt", "a\nb\nc\n");
    world.run(&quick(&["list.txt"]));
    let out = world.path("list-pictures");
    let log = out.join("manifest-0.jsonl");
    let text = fs::read(&log).unwrap();
    fs::write(&log, &text[..text.len() - 30]).unwrap();
    assert_eq!(done(&out).len(), 2);
    let output = world
        .command(&["batch", "-m", "starter", "--size", "64x64", "-s2", "list.txt"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && error.contains("not in the log"), "{error}");
    assert_eq!(done(&out).len(), 3);
}

#[test]
#[cfg(unix)]
fn a_signal_ends_a_batch_after_the_present_picture() {
    use std::os::unix::process::ExitStatusExt;
    for (signal, number) in [("-TERM", 15), ("-INT", 2)] {
        let world = World::new();
        world.write("list.txt", many(200));
        let out = world.path("out");
        let base = ["batch", "-m", "starter", "--size", "64x64"];
        let arguments = [&base[..], &["-s", "12", "list.txt", "-o", "out"]].concat();
        let mut child = start(&world, &arguments);
        wait_for(&out, 1, &mut child);
        let second = world.command(&quick(&["list.txt", "-o", "out"])).output().unwrap();
        assert_eq!(second.status.code(), Some(5), "two programs at one list: {second:?}");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.signal(), Some(number), "{error}");
        assert!(error.contains("run the same command again"), "{error}");
        let there = pictures(&out);
        assert!(!there.is_empty() && there.len() < 200, "{}", there.len());
        assert_eq!((done(&out).len(), leftovers(&out).len()), (there.len(), 0));
    }
}

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}

/// 10,000 damaged files: no panic, and no line of text or JSON is dropped without a word.
#[test]
fn damaged_files_are_refused_line_by_line() {
    use colora::batch::{Format, Source};
    let files = [
        (
            Format::Text,
            "a red apple\n# no\n\n--prompt it's a cat --steps 4 --lora flat:0.8 --size 64x64\n--seed=3 --prompt \"x y\"\n",
        ),
        (
            Format::Jsonl,
            "{\"prompt\": \"a\", \"steps\": 4, \"loras\": [\"flat:0.8\"]}\n{\"request\": {\"prompt\": \"b\"}, \"schema\": 1}\n",
        ),
        (Format::Csv, "prompt,steps,lora.flat,label.a\n\"a, \"\"b\"\"\",4,0.5,x\nc,,,\n"),
        (
            Format::Toml,
            "[defaults]\nsteps = 2\n[[job]]\nprompt = \"a\"\nloras = [\"flat:0.8\"]\n[matrix]\nseed = [1, 2]\n\"lora.gold\" = \"0..1:0.5\"\n",
        ),
    ];
    let pieces = [
        "\"", "'", "--", "\n", "{", "}", "[", "]", ",", "=", "..", ":", "\\", "#", "\u{feff}", "é",
        "0", "-1", "1e999", "null", "\t", "lora.",
    ];
    let mut chance = Chance(7);
    for round in 0..10_000 {
        let (format, text) = files[round % files.len()];
        let mut letters: Vec<char> = text.chars().collect();
        for _ in 0..=chance.below(4) {
            let at = chance.below(letters.len());
            let end = (at + chance.below(3)).min(letters.len());
            let piece = pieces[chance.below(pieces.len())].chars();
            letters.splice(at..end, piece.collect::<Vec<_>>());
        }
        let text: String = letters.into_iter().collect();
        let source = Source::parse(Path::new("x"), &text, Some(format), true).unwrap();
        let said = source.drafts.len() + source.mistakes.len();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        match format {
            Format::Text => {
                assert_eq!(said, lines.filter(|line| !line.starts_with('#')).count(), "{text}");
            }
            Format::Jsonl => assert_eq!(said, lines.count(), "{text}"),
            _ => {}
        }
        assert!(source.mistakes.iter().all(|mistake| mistake.line >= 1));
    }
}
