//! The other commands, progress, pipes and signals.

use super::world::{World, json};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command as Process, Stdio};

#[test]
fn settings_files_are_layered() {
    let world = World::new();
    world.write("colora.toml", "steps = 3\nwidth = 128\noutput = \"c-{seed}\"");
    world.write(".home/colora/config.toml", "steps = 9\nheight = 72");
    let plan = |arguments: &[&str]| json(&world.run(arguments))["plan"].clone();
    let value = plan(&["--dry-run", "--json", "-W64", "x"]);
    assert_eq!(
        (&value["steps"], &value["width"], &value["height"]),
        (&3.into(), &64.into(), &72.into())
    );
    let shown = world.run(&["config", "show", "--origin"]);
    assert!(shown.contains("steps = 3  # ./colora.toml"), "{shown}");
    assert!(shown.contains("# COLORA_MODEL") && shown.contains("config.toml"), "{shown}");
    assert_eq!(world.run(&["config", "path"]).lines().count(), 2);
    world.write("colora.toml", "width = 7");
    let error = world.fail(2, &["x"]);
    assert!(error.contains("error: cannot use `width` of ./colora.toml"), "{error}");
    assert!(world.fail(2, &["-W7", "x"]).starts_with("error: width = 7"), "the flag's own fault");
    // In a model's folder the file of this name is about the model.
    world.write("colora.toml", "default_steps = 3\ndefault_guidance = 2.0");
    assert!(world.fail(3, &["x"]).contains("unknown key `default_"));
    world.write("model_index.json", "{}");
    world.run(&["config", "show"]);
    world.write("colora.toml", "stepz = 3");
    let error = world.fail(3, &["x"]);
    assert!(error.contains("unknown key `stepz`; did you mean `steps`"), "{error}");
    world.fail(2, &["config", "init", "--local"]);
    world.run(&["config", "init", "--local", "--force"]);
    assert_eq!(world.run(&["config", "show"]).lines().count(), 3, "all keys are comments");
    world.write("colora.toml", "device = \"toaster\"");
    let error = world.fail(2, &["x"]);
    assert!(
        error.contains("colora.toml") && error.contains("caused by: device = toaster"),
        "{error}"
    );
}

#[test]
fn completions_and_manual_pages() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = world.run(&["completions", shell]);
        assert!(script.contains("--guidance") || script.contains("-l guidance"), "{shell}");
    }
    world.fail(2, &["completions", "tcsh"]);
    assert!(world.run(&["man"]).contains(".TH colora 1"));
    world.run(&["man", "--dir", "man"]);
    assert!(fs::read_dir(world.path("man")).unwrap().count() > 7);
}

#[test]
fn help_is_as_recorded() {
    let world = World::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli_snapshots");
    let pages: [(&str, &[&str]); 10] = [
        ("help", &["-h"]),
        ("long", &["--help"]),
        ("generate", &["generate", "-h"]),
        ("batch", &["batch", "-h"]),
        ("sweep", &["sweep", "-h"]),
        ("sheet", &["sheet", "-h"]),
        ("model", &["help", "model"]),
        ("bench", &["bench", "-h"]),
        ("inspect", &["inspect", "--help"]),
        ("verify", &["verify", "--help"]),
        ("embedding", &["embedding", "--help"]),
        ("config", &["config", "--help"]),
    ];
    for (name, arguments) in pages {
        let text = world.run(arguments);
        let path = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let recorded = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, recorded, "{name}: if this is meant, run again with UPDATE_SNAPSHOTS=1");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{name} is too wide");
    }
    assert!(world.run(&["--version"]).starts_with("colora "));
}

#[test]
fn models_are_converted_to_blocks() {
    let world = World::new();
    let convert = |kind: &str, more: &[&str]| {
        let base = ["model", "convert", "starter", "--quantize", kind, "-o", "small.safetensors"];
        base.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let run = |words: &[String]| world.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(run(&convert("q4_0", &[])), "small.safetensors\n");
    let words = convert("q8_0", &[]);
    let again = world.fail(2, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(again.contains("exists already"), "{again}");
    let value = json(&run(&convert("q8_0", &["--force", "--json"])));
    assert_eq!((&value["event"], &value["kind"]), (&"converted".into(), &"q8_0".into()));
    assert_eq!(value["bytes"], fs::metadata(world.path("small.safetensors")).unwrap().len());
    let text = world.run(&["model", "inspect", "./small.safetensors"]);
    assert!(text.contains("F16, q8_0"), "{text}");
    let draw = |name: &str, more: &[&str]| {
        let base = ["-s2", "-S1", "-o", name, "a red apple"];
        let words: Vec<&str> = base.into_iter().chain(more.iter().copied()).collect();
        world.run(&words);
        world.pixels(&format!("{name}.png"))
    };
    let exact = draw("a", &["-m", "starter"]);
    let near = |pixels: Vec<u8>, most: u8| {
        pixels.len() == exact.len()
            && pixels != exact
            && pixels.iter().zip(&exact).all(|(a, b)| a.abs_diff(*b) <= most)
    };
    assert!(near(draw("b", &["-m", "./small.safetensors"]), 24));
    assert!(near(draw("c", &["-m", "starter", "--quantize", "q8_0"]), 24));
    let error = world.fail(2, &["--quantize", "q5_k", "x"]);
    assert!(error.contains("expected q8_0 or q4_0"), "{error}");
}

#[test]
fn progress_goes_to_stderr() {
    let world = World::new();
    let arguments = ["--progress", "json", "-s2", "-o", "x", "x"];
    let output = world.command(&arguments).output().unwrap();
    let lines: Vec<Value> = String::from_utf8(output.stderr).unwrap().lines().map(json).collect();
    let steps: Vec<&Value> = lines.iter().filter(|v| v["event"] == "step").collect();
    assert_eq!(steps.len(), 2);
    let order: Vec<&str> = lines.iter().map(|v| v["event"].as_str().unwrap()).collect();
    let sampling = order.iter().position(|event| *event == "sampling").unwrap();
    assert_eq!(&order[sampling..sampling + 2], ["sampling", "step"], "{order:?}");
    assert_eq!((&steps[1]["step"], &steps[1]["steps"]), (&2.into(), &2.into()));
    let verbose = world.command(&["-v", "-s1", "-oy", "x"]).output().unwrap();
    assert!(String::from_utf8(verbose.stderr).unwrap().contains("seed="));
    let quiet = world.command(&["-q", "-s1", "-o", "new/z", "x"]).output().unwrap();
    assert!(quiet.stderr.is_empty() && quiet.status.success());
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let world = World::new();
    for arguments in [&["-s1", "-n3", "x"][..], &["model", "list"], &["--help"], &["man"]] {
        let mut child =
            world.process(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), error.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_no_file() {
    let world = World::new();
    let arguments = ["--progress", "json", "--preview", "1", "-s900", "-o", "x.png", "x"];
    let mut child =
        world.process(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().any(|line| line.unwrap().contains("\"step\":2,"));
    assert!(begun && world.path("x.preview.png").is_file());
    let kill = Process::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    assert!(interrupted(status), "{status:?} {rest:?}");
    assert!(rest.iter().any(|line| line == "cancelled"), "{rest:?}");
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "");
    assert!(world.files().is_empty(), "{:?}", world.files());
}

/// Whether a program died by Ctrl-C's signal, which shells show as 130.
#[cfg(unix)]
fn interrupted(status: std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(2)
}

#[test]
#[cfg(unix)]
fn a_second_signal_leaves_no_file_either() {
    use std::os::unix::process::ExitStatusExt;
    // Steps of some length: the first signal alone would wait for one.
    let arguments = ["--preview", "1", "--size=320", "--threads=1", "-s99", "-o", "x.png", "x"];
    for (first, second, by) in [("-INT", "-INT", 2), ("-TERM", "-INT", 15), ("-HUP", "-HUP", 1)] {
        if by == 1 && hangups_are_ignored() {
            println!("skipped: these tests run under nohup, whose wish is respected");
            continue;
        }
        let world = World::new();
        let mut child = world.process(&arguments).stderr(Stdio::piped()).spawn().unwrap();
        let id = child.id().to_string();
        let kill = |signal: &str| Process::new("kill").args([signal, &id]).status().unwrap();
        while !world.path("x.preview.png").is_file() {
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(child.try_wait().unwrap().is_none(), "there are previews");
        }
        assert!(kill(first).success());
        // The first signal has to be taken before the second one comes.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("stopping")));
        kill(second);
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(by), "{first} {second}: {status:?}");
        assert!(world.files().is_empty(), "{first}: {:?}", world.files());
    }
}

/// Whether whoever started this process, and so the program, has SIGHUP ignored.
#[cfg(unix)]
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

#[test]
#[cfg(unix)]
fn what_cannot_be_written_is_found_before_the_work() {
    let world = World::new();
    world.write("file", "");
    let long = "n".repeat(300);
    let long_png = format!("{long}.png");
    for (arguments, part) in [
        (&["-s999", "-o", "file/x.png", "x"][..], "cannot write file"),
        (&["-m", "nothing", "-o", "file/x.png", "x"], "cannot write file"),
        (&["-s999", "-o", &long_png, "x"], "cannot write nnn"),
        (
            &["lora", "resize", "santa", "--rank=1", "-o", "file/x", "-m", "starter"],
            "cannot write file",
        ),
        (&["model", "convert", "starter", "--quantize=q8_0", "-o", &long], "cannot write nnn"),
    ] {
        let error = world.fail(6, arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    for arguments in [
        &["model", "convert", "starter", "--quantize=q8_0", "-o", "x.gguf"][..],
        &["lora", "resize", "santa", "--rank=1", "-m", "starter", "-o", "r.ckpt"],
    ] {
        assert!(world.fail(2, arguments).contains("ends with .safetensors"), "{arguments:?}");
    }
    assert_eq!(world.files(), ["file"]);
    world.run(&["lora", "resize", "santa", "--rank=1", "-m", "starter", "-o", "new/deep/x"]);
    assert!(world.path("new/deep/x").is_file());
    for arguments in [&["model", "list"][..], &["--help"]] {
        let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { continue };
        let output = world.process(arguments).stdout(full).output().unwrap();
        let error = super::world::failed(&output, 6);
        assert!(error.contains("cannot write stdout"), "{error}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn threads_that_cannot_start_are_no_panic() {
    let world = World::new();
    let program = env!("CARGO_BIN_EXE_colora");
    // A process of its own may have so little memory, and threads so large stacks, that not all fit.
    let script = format!("ulimit -v 3000000; exec {program} -s1 --threads 16 -o x.png x");
    let mut shell = Process::new("sh");
    shell.args(["-c", &script]).current_dir(world.path(".")).env("RUST_MIN_STACK", "1000000000");
    let error = super::world::failed(&shell.output().unwrap(), 6);
    assert!(error.contains("worker threads") && error.contains("--threads"), "{error}");
}
