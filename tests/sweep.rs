//! Sweeps with the real program: a cell is the picture that `generate` makes, whatever cells share.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "cli/world.rs"]
#[allow(dead_code)]
mod world;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use world::{World, json};

/// What every sweep here begins with: the starter, small and quick.
const QUICK: [&str; 8] = ["sweep", "-m", "starter", "--size", "64x64", "-q", "-o", "out"];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.into_iter().chain(more.iter().copied()).collect()
}

/// What the folder says that it holds.
fn record(world: &World) -> Value {
    serde_json::from_str(&fs::read_to_string(world.path("out/sweep.json")).unwrap()).unwrap()
}

/// Runs the command of every cell alone, and compares the pixels byte by byte.
fn cells_are_single_pictures(world: &World, expected: usize) {
    let record = record(world);
    let cells = record["cells"].as_array().unwrap();
    assert_eq!(cells.len(), expected);
    for (number, cell) in cells.iter().enumerate() {
        let command = cell["command"].as_str().unwrap();
        let line = command.strip_prefix("colora ").unwrap();
        // The command is one for a shell.
        let single = world.process(&[]);
        let name = format!("{number}.png");
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("'{}' -q {line} -o {name}", single.get_program().to_str().unwrap()));
        shell.current_dir(world.path("")).env_clear();
        for (key, value) in single.get_envs() {
            shell.env(key, value.unwrap_or_default());
        }
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let of_sweep = world.path("out").join(cell["file"].as_str().unwrap());
        // The record of a cell holds the id of its job beside what `generate` writes.
        let of_sweep = image::open(of_sweep).unwrap().to_rgb8();
        assert!(of_sweep == image::open(world.path(&name)).unwrap().to_rgb8(), "{command}");
        fs::remove_file(world.path(&name)).unwrap();
    }
}

#[test]
fn twenty_cells_are_twenty_single_pictures() {
    let world = World::new();
    let axes = [
        "a red apple",
        "-S5",
        "-s2",
        "-x",
        "lora.flat=0..1:0.25",
        "-y",
        "lora.gold=none,0.3,0.6,1",
    ];
    let lines = world.run(&quick(&axes));
    assert_eq!(lines.lines().collect::<Vec<_>>(), ["out/sweep.png", "out/sweep.html"]);
    cells_are_single_pictures(&world, 20);
    let files: BTreeSet<Vec<u8>> = fs::read_dir(world.path("out/cells"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "png"))
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert_eq!(files.len(), 20, "every strength is another picture");
}

/// Windows, edits and intervals end at different steps: what comes before is made once, to the bit, whatever the
/// sampler remembers and draws.
#[test]
fn cells_that_begin_alike_share_their_first_steps() {
    for (axes, shared, pictures) in [
        (
            &[
                "a fox",
                "-s8",
                "-x",
                "lora.flat.stop=0.25,0.5,0.75",
                "-y",
                "sampler=euler-a,dpmpp-2m,unipc",
            ][..],
            3 * 3 * 8 - 3 * (8 + 6 + 4),
            9,
        ),
        (&["a [cat:dog:0.5]", "-s8", "-x", "prompt:0.5=0.25,0.5,0.75"], 2 + 4, 3),
        (
            &["a fox", "-s8", "-x", "guidance-interval=0..0.5,0..0.75,none", "--sampler", "heun"],
            4 + 6,
            3,
        ),
        (
            &[
                "a fox",
                "-s4",
                "--lora-method",
                "composite",
                "-l",
                "gold",
                "-x",
                "lora.flat.stop=0.5,none",
            ],
            2,
            2,
        ),
    ] {
        let world = World::new();
        let plan = world.run(&quick(&[axes, &["-S3", "--dry-run", "--json"]].concat()));
        let plan = json(plan.lines().last().unwrap());
        let (steps, run) =
            (plan["steps"].as_u64().unwrap(), plan["steps_that_run"].as_u64().unwrap());
        assert_eq!(steps - run, shared, "{axes:?}");
        world.run(&quick(&[axes, &["-S3"]].concat()));
        cells_are_single_pictures(&world, pictures);
    }
}

#[test]
fn another_value_draws_only_the_new_cells() {
    let world = World::new();
    let seed = |record: &Value| record["cells"][0]["seed"].as_str().unwrap().to_owned();
    let run = |x: &str| {
        let lines = world.run(&quick(&["a cat", "-s1", "-x", x, "-y", "seed=-1,7", "--json"]));
        lines.lines().map(json).filter(|line| line["event"] == "saved").count()
    };
    assert_eq!(run("guidance=5,6"), 4);
    let first = seed(&record(&world));
    assert_eq!(run("guidance=5,6"), 0, "the random seed stays");
    assert_eq!(run("guidance=4,5,6,7"), 4);
    assert_eq!(seed(&record(&world)), first);
    let lost = record(&world)["cells"][2]["file"].as_str().unwrap().to_owned();
    fs::remove_file(world.path("out").join(&lost)).unwrap();
    assert_eq!(run("guidance=4,5,6,7"), 1);
    assert_eq!(record(&world)["cells"].as_array().unwrap().len(), 8);
    assert_eq!(run("guidance=7"), 0, "what is left is there");
}

#[test]
fn what_does_not_fit_is_a_grey_cell_and_what_is_wrong_is_an_error() {
    let world = World::new();
    let axes = ["a cat", "-s1", "-S1", "-x", "sampler=euler-a,dpmpp-2m", "-y", "eta=0.5,1"];
    let output = world.command(&quick(&axes)).assert().code(7).get_output().clone();
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 of 4"));
    let cells = record(&world)["cells"].clone();
    assert!(cells[1]["error"].as_str().unwrap().contains("no options"));
    let grid = colora::Picture::open(world.path("out/sweep.png")).unwrap();
    let grey = grid.bytes().chunks(3).filter(|pixel| **pixel == [208, 208, 208]).count();
    assert!(grey > 64 * 64, "{grey}");
    let page = fs::read_to_string(world.path("out/sweep.html")).unwrap();
    assert!(page.contains("2 could not be made") && page.contains("no options"));

    fs::remove_dir_all(world.path("out")).unwrap();
    for (code, axes, part) in [
        (2, &["a cat", "-x", "stepz=1"][..], "`steps`"),
        (2, &["a cat", "-x", "steps=1,x"], "steps=x"),
        (2, &["a cat", "-x", "prompt:dog=fox"], "neither the prompt"),
        (2, &["a cat", "-n2", "-x", "steps=1"], "seed=1..4"),
        (2, &["a cat", "-x", "steps=1", "-z", "seed=1"], "--y"),
        (4, &["a cat", "-x", "lora=flt,none"], "flat"),
        (4, &["a cat", "-x", "model=nowhere,starter"], "nowhere"),
        (2, &["a cat", "-x", "lora=nothing-*"], "no LoRA file"),
    ] {
        let text = world.fail(code, &quick(axes));
        assert!(text.contains(part), "{axes:?}: {text}");
        assert!(!world.path("out").exists(), "{axes:?}");
    }
    // A grid of someone else's is not replaced.
    world.write("out/sweep.png", "mine");
    world.fail(2, &quick(&["a cat", "-s1", "-x", "seed=1"]));
    assert_eq!(fs::read(world.path("out/sweep.png")).unwrap(), b"mine");
}

/// From a folder of LoRAs and a file of prompts to a contact sheet.
#[test]
fn a_folder_of_loras_and_a_file_of_prompts() {
    let world = World::new();
    let loras = concat!(env!("CARGO_MANIFEST_DIR"), "/loras");
    world.write("prompts.txt", "# two\na red apple\na cat, sitting\n");
    let x = format!("lora={loras}/*.safetensors,none");
    let axes = ["-s1", "-S1", "-x", &x, "-y", "prompt=@prompts.txt", "--webp", "--inline"];
    let lines = world.run(&quick(&axes));
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        ["out/sweep.png", "out/sweep.webp", "out/sweep.html"]
    );
    let record = record(&world);
    let labels: Vec<&str> =
        record["axes"][0]["labels"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(labels, ["flat", "gold", "santa", "wizard", "LoRA: none"]);
    let page = fs::read_to_string(world.path("out/sweep.html")).unwrap();
    assert_eq!(page.matches("<img src=\"data:image/png;base64,").count(), 10);
    assert_eq!(
        colora::Picture::open(world.path("out/sweep.webp")).unwrap(),
        colora::Picture::open(world.path("out/sweep.png")).unwrap()
    );
    let texts = colora::picture::png::read_texts(world.path("out/sweep.png")).unwrap();
    let parameters = colora::picture::Parameters::parse(&texts.parameters.unwrap());
    assert_eq!(parameters.get("Script"), Some("X/Y/Z plot"));
    assert_eq!(parameters.get("Y Values"), Some("a red apple,\"a cat, sitting\""));

    world.run(&["batch", "-m", "starter", "--size", "64", "-s1", "-q", "prompts.txt"]);
    let lines = world.run(&["sheet", "prompts-pictures", "--columns", "2"]);
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        ["prompts-pictures/sheet.png", "prompts-pictures/sheet.html"]
    );
    let page = fs::read_to_string(world.path("prompts-pictures/sheet.html")).unwrap();
    let first = page.find("aria-label=\"a red apple\"").unwrap();
    assert!(
        first < page.find("aria-label=\"a cat, sitting\"").unwrap(),
        "in the order of the file"
    );
    assert!(page.contains("colora generate"));
    let again = world.run(&["sheet", "prompts-pictures", "--json"]);
    assert_eq!(again.lines().map(json).count(), 2, "the sheet is not a picture of the sheet");
    assert!(world.run(&["sheet", "out"]).contains("out/sweep.html"));
    world.write("empty/words.txt", "");
    world.fail(3, &["sheet", "empty"]);
}
