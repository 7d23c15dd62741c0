//! The process lives: streams that cannot be written, memory that runs out, work that is blocked, threads without
//! number. The real binary, from outside.

use crate::support::golden;
use std::fs::{File, OpenOptions};
use std::process::{Command, Output, Stdio};

/// The program in an empty folder, with nothing of the user's in reach and a tiny model.
fn program(folder: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colora"));
    at_home(&mut command, folder).args(arguments);
    command
}

fn at_home<'a>(command: &'a mut Command, folder: &tempfile::TempDir) -> &'a mut Command {
    command.current_dir(folder.path()).env_clear().env("COLORA_MODEL", golden("sd15"));
    for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
        command.env(name, folder.path().join(".home"));
    }
    command.stdin(Stdio::null())
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program under `ulimit -v`, in kilobytes.
#[cfg(target_os = "linux")]
fn limited(folder: &tempfile::TempDir, kilobytes: usize, arguments: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_colora");
    let script = format!("ulimit -v {kilobytes}; exec {program} {arguments}");
    let mut shell = Command::new("sh");
    at_home(&mut shell, folder).args(["-c", &script]).env("COLORA_MODEL", "");
    shell.output().unwrap()
}

/// A stream that is full: every write fails.
fn full() -> Option<File> {
    OpenOptions::new().write(true).open("/dev/full").ok()
}

/// A pipe whose reader has left.
fn broken() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Runs of every verb, and whether they say something on stdout.
fn verbs() -> Vec<(Vec<String>, bool)> {
    let lora = concat!(env!("CARGO_MANIFEST_DIR"), "/loras/gold.safetensors");
    let model = golden("sd15").display().to_string();
    let picture = ["--size=64x64", "-s1", "-S1", "--force", "-n2", "x"];
    let verbs: [(&[&str], bool); 17] = [
        (&["-o", "x-{index}.png"], true),
        (&["-o", "x-{index}.png", "--json", "--progress=json"], true),
        (&["-o", "y-{index}.png", "--preview=1"], true),
        (&["--dry-run"], true),
        (&["model", "list"], true),
        (&["model", "inspect", &model], true),
        (&["lora", "list"], false),
        (&["lora", "inspect", lora], true),
        (&["lora", "check", lora, "-m", "starter"], true),
        (&["lora", "resize", lora, "--rank=1", "-m", "starter", "-o", "r", "--force"], true),
        (&["inspect", "nothing.png"], false),
        (&["config"], true),
        (&["bench", "--steps=1", "--size=64x64"], true),
        (&["doctor"], true),
        (&["completions", "bash"], true),
        (&["man"], true),
        (&["lora", "inspect", "no-such-file"], false),
    ];
    let whole = |(words, says): (&[&str], bool)| {
        let draws = words[0].starts_with("--dry") || words[0] == "-o";
        let rest: &[&str] = if draws { &picture } else { &[] };
        let words = ["-vv"].iter().chain(words).chain(rest);
        (words.map(|word| (*word).to_owned()).collect(), says)
    };
    verbs.into_iter().map(whole).collect()
}

/// With `-v` the log wrote its own complaint about a full stderr by a macro that panics: exit 101, pictures lost.
#[test]
fn streams_that_cannot_be_written_are_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let folder = &folder;
    for (arguments, says) in verbs() {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = |out: Stdio, error: Stdio| {
            let mut command = program(folder, &arguments);
            command.env("RUST_BACKTRACE", "0").env("COLORA_LOG", "trace");
            command.stdout(out).stderr(error).status().unwrap().code()
        };
        let usual = run(Stdio::null(), Stdio::null());
        assert!(matches!(usual, Some(0..=6)), "{arguments:?}: {usual:?}");
        assert_eq!(run(Stdio::null(), broken()), usual, "{arguments:?}, stderr left");
        // Nobody reads results: that is no error.
        assert_eq!(run(broken(), broken()), usual, "{arguments:?}, both left");
        if let (Some(out), Some(error), Some(alone)) = (full(), full(), full()) {
            assert_eq!(run(Stdio::null(), alone.into()), usual, "{arguments:?}, stderr full");
            let wanted = if usual == Some(0) && says { Some(6) } else { usual };
            assert_eq!(run(out.into(), error.into()), wanted, "{arguments:?}, both full");
        }
    }
}

/// Too little memory ended in an abort with a backtrace.
#[test]
#[cfg(target_os = "linux")]
fn too_little_memory_is_exit_six_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for megabytes in [120, 150, 180, 200, 250, 300, 400, 500, 700] {
        let arguments = "--size 128x128 -s 1 -S 1 --threads 2 --force -o x.png x";
        let output = limited(&folder, megabytes * 1000, arguments);
        let error = errors(&output);
        match output.status.code() {
            Some(0) => {}
            Some(6) => {
                refused += 1;
                assert!(error.contains("memory") || error.contains("threads"), "{error}");
                assert!(!folder.path().join("x.png").exists() || refused < 9, "{error}");
            }
            _ => panic!("{megabytes} MB: {:?}\n{error}", output.status),
        }
    }
    assert!(refused > 0, "some of it is too little");
}

/// A picture far too large for the machine took half a minute of steps before it failed.
#[test]
#[cfg(target_os = "linux")]
fn what_does_not_fit_is_said_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = "--size 1024x1024 -s 20 -S 1 --threads 2 --progress json -o x.png x";
    let output = limited(&folder, 600_000, arguments);
    let error = errors(&output);
    assert_eq!(output.status.code(), Some(6), "{error}");
    assert!(error.contains("1024x1024 takes at least ") && error.contains(" are free"), "{error}");
    assert!(error.contains("--tile takes ") && error.contains("--size"), "{error}");
    assert!(!error.contains("\"sampling\"") && !error.contains("\"loading\""), "{error}");
    let plan = limited(&folder, 10_000_000, &format!("--dry-run {arguments}"));
    let plan = String::from_utf8(plan.stdout).unwrap();
    assert!(plan.contains(", at least ") && plan.contains(" of memory, nothing was run"), "{plan}");
    let plan = limited(&folder, 10_000_000, "--dry-run --json --size 1024x1024 --tile x");
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    let stage = |name: &str| plan["memory"][name].as_u64().unwrap();
    assert!(stage("sample") > 1_000_000 && stage("peak") >= stage("decode"), "{plan}");
}

/// What is estimated is surely needed: no plan that runs would be refused.
#[test]
#[cfg(target_os = "linux")]
fn estimates_are_no_larger_than_what_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let models = ["starter".to_owned(), golden("sdxl").display().to_string()];
    for model in &models {
        for extra in ["--low-memory", "--tile", "--guidance=1"] {
            let shared = ["-m", model.as_str(), "--size=384x512", "-s1", "-S1", extra, "x"];
            let plan = program(&folder, &[&["--dry-run", "--json"], &shared[..]].concat()).output();
            let plan: serde_json::Value = serde_json::from_slice(&plan.unwrap().stdout).unwrap();
            let estimate = plan["memory"]["peak"].as_u64().unwrap();
            let bench = ["bench", "--json", "--steps=1", "-m", model, "--size=384x512"];
            let extra: &[&str] = if extra == "--low-memory" { &["--low-memory"] } else { &[] };
            let bench = program(&folder, &[&bench[..], extra].concat()).output().unwrap();
            let bench: serde_json::Value = serde_json::from_slice(&bench.stdout).unwrap();
            let Some(peak) = bench["peak_bytes"].as_u64().or(bench["peak"].as_u64()) else {
                println!("skipped: no peak in {bench}");
                return;
            };
            assert!(estimate < peak, "{model} {extra:?}: {estimate} of {peak}");
        }
    }
}

/// A run whose reader stopped reading: it is blocked in the middle of writing a picture to stdout.
#[cfg(unix)]
fn blocked(folder: &tempfile::TempDir) -> std::process::Child {
    use std::io::Read;
    let arguments = ["--size=512x512", "-s1", "-S1", "-o", "-", "x"];
    let mut child = program(folder, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut signature = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut signature).unwrap();
    assert_eq!(&signature[1..4], b"PNG");
    child
}

/// SIGTERM only set a flag, which a run that waits for a pipe or for a network never looks at.
#[test]
#[cfg(unix)]
fn blocked_runs_end_by_sigterm_and_wait_for_ctrl_c() {
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};
    let folder = tempfile::tempdir().unwrap();
    let (mut terminated, mut interrupted) = (blocked(&folder), blocked(&folder));
    let kill = |signal: &str, id: u32| {
        Command::new("kill").args([signal, &id.to_string()]).status().unwrap()
    };
    let begin = Instant::now();
    kill("-TERM", terminated.id());
    kill("-INT", interrupted.id());
    let status = terminated.wait().unwrap();
    assert_eq!(status.signal(), Some(15), "{status:?}");
    let took = begin.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(40)).contains(&took), "{took:?}");
    assert!(interrupted.try_wait().unwrap().is_none(), "Ctrl-C waits for ever");
    kill("-INT", interrupted.id());
    assert_eq!(interrupted.wait().unwrap().signal(), Some(2));
    // A prompt that never ends is waited for before the handler is there.
    let mut prompt = program(&folder, &["-"]).stdin(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kill("-TERM", prompt.id());
    assert_eq!(prompt.wait().unwrap().signal(), Some(15));
}

/// A thousand threads made a step a hundred times slower, and the variable of the tensor libraries had no bound.
#[test]
fn threads_without_number_are_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let lora = concat!(env!("CARGO_MANIFEST_DIR"), "/loras/gold.safetensors");
    let draw = ["--threads", "100000", "--size=64x64", "-s1", "-S1", "-o", "x.png", "x"];
    let output = program(&folder, &draw).output().unwrap();
    let error = errors(&output);
    assert!(output.status.success(), "{error}");
    assert_eq!(error.matches("100000 threads would only wait").count(), 1, "{error}");
    for arguments in [&["doctor"][..], &["lora", "inspect", lora], &["--dry-run", "x"]] {
        let mut command = program(&folder, arguments);
        let output = command.env("RAYON_NUM_THREADS", "99999").output().unwrap();
        assert!(output.status.success() && errors(&output).contains("99999 threads"));
        let quiet = program(&folder, &[&["-q"], arguments].concat())
            .env("RAYON_NUM_THREADS", "99999")
            .output()
            .unwrap();
        assert_eq!(errors(&quiet), "");
    }
}
