//! Pictures: names, streams, settings, repeats.

use super::world::{MODEL, World, json};
use serde_json::Value;
use std::fs;

#[test]
fn a_picture_and_its_path_and_nothing_else() {
    let world = World::new();
    let output = world.command(&["-s", "2", "-S", "5", "-o", "fox.png", "a fox"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"fox.png\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "nothing to say about a quick one");
    assert_eq!(world.files(), ["fox.png"]);
    assert_eq!(world.pixels("fox.png").len(), 64 * 64 * 3);
    // The same seed is the same picture, another seed another one.
    world.run(&["generate", "-s2", "--seed=5", "-osame", "a fox"]);
    world.run(&["g", "-s2", "--seed=6", "-oother", "a fox"]);
    assert_eq!(world.pixels("fox.png"), world.pixels("same.png"));
    assert_ne!(world.pixels("fox.png"), world.pixels("other.png"));
}

#[test]
fn default_names_never_collide() {
    let world = World::new();
    let first = world.run(&["-s1", "-S7", "-n2", "x"]);
    let names: Vec<&str> = first.lines().collect();
    assert!(names[0].ends_with("-7-0.png") && names[1].ends_with("-8-1.png"), "{names:?}");
    let again = world.run(&["-s1", "-S7", "x"]);
    assert!(again.trim().ends_with("-7-0-2.png"), "{again}");
    assert_eq!(world.files().len(), 3);
    let random = world.run(&["-s1", "-n2", "x", "-0"]);
    assert_eq!(random.matches('\0').count(), 2);
    assert_eq!(world.files().len(), 5);
}

#[test]
fn batches_are_the_same_pictures() {
    let world = World::new();
    world.run(&["-s2", "-S5", "-n3", "-o", "one-{seed}", "a fox"]);
    world.run(&["-s2", "-S5", "-n3", "--batch-size", "2", "-o", "two-{seed}", "a fox"]);
    for seed in 5..8 {
        let bytes = |name: &str| fs::read(world.path(&format!("{name}-{seed}.png"))).unwrap();
        assert_eq!(bytes("one"), bytes("two"));
    }
    assert!(world.fail(2, &["--batch-size", "0", "x"]).contains("--batch-size"));
}

#[test]
fn numbers_of_the_sampler_change_the_picture_and_come_back() {
    let world = World::new();
    world.run(&["-s3", "-S5", "--sampler=euler", "--schedule=karras", "-o", "euler", "a fox"]);
    let noisy = ["-s3", "-S5", "--sampler=euler-a", "--schedule=karras"];
    world.run(&[&noisy[..], &["-o", "noisy", "a fox"]].concat());
    // Without noise the ancestral sampler is Euler's method.
    world.run(&[&noisy[..], &["--sampler-options", "eta=0", "-o", "quiet", "a fox"]].concat());
    assert_ne!(world.pixels("noisy.png"), world.pixels("euler.png"));
    assert_eq!(world.pixels("quiet.png"), world.pixels("euler.png"));
    world.run(&["--from", "quiet.png", "-o", "again"]);
    assert_eq!(world.pixels("again.png"), world.pixels("quiet.png"));
    assert!(
        world.run(&["inspect", "--as-command", "quiet.png"]).contains("--sampler-options=eta=0")
    );
    let text = world.fail(2, &["--sampler=dpmpp-2m", "--sampler-options", "eta=0.5", "x"]);
    assert!(text.contains("eta"), "{text}");
    let text = world.fail(2, &["--sampler=euler-a", "--sampler-options", "etta=0.5", "x"]);
    assert!(text.contains("did you mean `eta`"), "{text}");
}

#[test]
fn templates_stay_in_their_folder_and_make_it() {
    let world = World::new();
    let name = "new/{model}/{prompt}.png";
    let output = world.command(&["-s1", "-n2", "-o", name, "../../../etc: x"]).output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("created the folder"));
    let names = ["new/sd15/etc-x-0.png", "new/sd15/etc-x-1.png"];
    assert_eq!(String::from_utf8(output.stdout).unwrap(), names.map(|n| format!("{n}\n")).concat());
    assert!(names.iter().all(|name| world.path(name).is_file()));
    assert!(world.fail(2, &["-o", "{sed}.png", "x"]).contains("did you mean `seed`"));
    assert!(world.fail(2, &["-o", "x.gif", "x"]).contains(".png, .jpg and .webp"));
}

#[test]
fn json_lines_have_a_schema() {
    let world = World::new();
    let lines = world.run(&["--json", "-s2", "-S3", "-n2", "-N", "fog", "-o", "{index}", "a fox"]);
    let lines: Vec<Value> = lines.lines().map(json).collect();
    assert_eq!(lines.len(), 2);
    for (index, value) in lines.iter().enumerate() {
        assert_eq!(
            (&value["event"], &value["path"]),
            (&"saved".into(), &format!("{index}.png").into())
        );
        assert_eq!(value["seed"], 3 + index);
        assert_eq!((&value["width"], &value["height"]), (&64.into(), &64.into()));
        assert_eq!(value["model"], "sd15");
        for part in ["load", "encode", "sample", "decode"] {
            assert!(value["timings"][part].as_f64().unwrap() >= 0.0);
        }
        let request: colora::Request = serde_json::from_value(value["request"].clone()).unwrap();
        assert_eq!((request.prompt.as_str(), request.negative_prompt.as_str()), ("a fox", "fog"));
        assert_eq!((request.steps, request.count), (Some(2), 1));
    }
}

#[test]
fn standard_streams_carry_prompt_and_picture() {
    let world = World::new();
    let mut command = world.command(&["-s1", "-S1", "-o", "-", "-"]);
    let png = command.write_stdin("a fox\n").assert().success().get_output().stdout.clone();
    assert!(png.starts_with(b"\x89PNG"));
    assert!(world.files().is_empty());
    world.write("piped.png", png);
    world.run(&["-s1", "-S1", "-o", "named", "a fox"]);
    assert_eq!(world.pixels("piped.png"), world.pixels("named.png"));
    assert_eq!(world.run(&["inspect", "piped.png"]).lines().next(), Some("a fox"));
    for flags in [["-n2", "x"], ["--json", "x"], ["--preview=1", "x"]] {
        let error = world.fail(2, &["-o", "-", flags[0], flags[1]]);
        assert!(error.contains("output = -"), "{error}");
    }
}

#[test]
fn files_are_not_overwritten_without_force() {
    let world = World::new();
    world.write("a.png", "precious");
    let error = world.fail(2, &["-s1", "-o", "a.png", "x"]);
    assert!(error.contains("error: a.png exists already") && error.contains("hint:"), "{error}");
    assert_eq!(fs::read(world.path("a.png")).unwrap(), b"precious");
    world.run(&["-s1", "-o", "a.png", "--force", "x"]);
    assert_ne!(fs::read(world.path("a.png")).unwrap(), b"precious");
    world.run(&["-s1", "-S1", "-o", "folder/", "x"]);
    assert!(world.path("folder").is_dir());
    assert_eq!(world.files(), ["a.png", "folder"]);
}

#[test]
fn a_picture_makes_itself_again() {
    let world = World::new();
    world.run(&[
        "-s2",
        "-S41",
        "-n2",
        "-g3",
        "-N",
        "fog",
        "--sampler=euler",
        "-o{seed}",
        "it's a fox",
    ]);
    world.run(&["--from", "42.png", "-m", MODEL, "-o", "again.png"]);
    assert_eq!(world.pixels("42.png"), world.pixels("again.png"));
    world.run(&["--from", "42.png", "-m", MODEL, "-S", "41", "-o", "first"]);
    assert_eq!(world.pixels("41.png"), world.pixels("first.png"));
    let request = json(&world.run(&["inspect", "--json", "42.png"]))["request"].clone();
    assert_eq!((&request["seed"], &request["sampler"]), (&42.into(), &"euler".into()));
    let command = world.run(&["inspect", "--as-command", "42.png"]);
    assert!(
        command.ends_with("'it'\\''s a fox'\n") && command.contains("--guidance=3"),
        "{command}"
    );
    // The picture knows how its model was named.
    world.run(&["--from", "42.png", "-o", "named"]);
    assert_eq!(world.pixels("42.png"), world.pixels("named.png"));
    world.run(&["-s1", "--no-metadata", "-o", "bare", "x"]);
    assert!(world.fail(3, &["inspect", "bare.png"]).contains("no settings"));
    world.fail(3, &["--from", "bare.png"]);
    world.fail(4, &["inspect", "absent.png"]);
    world.write("text.png", "no picture");
    world.fail(3, &["inspect", "text.png"]);
}

#[test]
fn a_picture_knows_what_it_was_made_with() {
    let world = World::new();
    let santa = concat!(env!("CARGO_MANIFEST_DIR"), "/loras/santa.safetensors");
    fs::create_dir_all(world.path("made/sub")).unwrap();
    // A name that is the built-in model's, weights that are not.
    let copied = "made/sub/starter.safetensors";
    world.run(&["model", "convert", "starter", "--quantize", "q4_0", "-o", copied]);
    // Weights that no other file has: a picture's files are found by their hash under any name.
    let half = format!("{santa}:0.5");
    world.run(&["lora", "merge", &half, "-m", "starter", "-o", "made/mine.safetensors"]);
    let draw = |flags: &[&str], name: &str| {
        let always = ["-s2", "-S1", "-o", name, "santa"];
        let mut command = world.command(&[flags, &always[..]].concat());
        command.current_dir(world.path("made")).assert().success();
        world.pixels(&format!("made/{name}.png"))
    };
    let again = |flags: &[&str]| {
        world.run(&[&["-o", "again", "--force"], flags].concat());
        world.pixels("again.png")
    };
    let plain = draw(&["-m", "starter"], "plain");
    let file = draw(&["-m", "sub/starter.safetensors", "-l", "./mine.safetensors"], "file");
    let few = draw(&["-m", "starter", "--quantize=q4_0", "--dtype=bf16"], "few");
    let exact = draw(&["-m", "starter", "--quantize=q4_0"], "exact");
    assert!(plain != file && plain != few && few != exact);
    // From another folder, where the relative paths are found beside the picture.
    assert_eq!(again(&["--from", "made/file.png"]), file);
    assert_eq!(again(&["--from", "made/few.png"]), few);
    assert_eq!(again(&["--from", "made/few.png", "--dtype=f32"]), exact);
    assert_eq!(again(&["--from", "again.png"]), exact);
    let vae = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd2/vae");
    let tiny = draw(&["--vae", vae], "tiny");
    assert_ne!(tiny, draw(&[], "own"));
    let error = world.fail(2, &["--from", "made/tiny.png", "-o", "x"]);
    assert!(error.contains("the VAE") && error.contains("--vae"), "{error}");
    assert_eq!(again(&["--from", "made/tiny.png", "--trust-picture"]), tiny);
    let command = world.run(&["inspect", "--as-command", "made/file.png"]);
    for part in ["--model=made/sub/starter.safetensors ", "--lora=made/./mine.safetensors:1 "] {
        assert!(command.contains(part), "{command}");
    }
    let command = world.run(&["inspect", "--as-command", "made/few.png"]);
    assert!(command.contains("--model=starter --quantize=q4_0 --dtype=bf16 "), "{command}");
    let value = json(&world.run(&["inspect", "--json", "made/file.png"]));
    assert_eq!(value["made_with"]["model"], "sub/starter.safetensors", "no more than was given");

    fs::remove_file(world.path("made/mine.safetensors")).unwrap();
    let error = world.fail(4, &["--from", "made/file.png", "-o", "x"]);
    assert!(error.contains("made/file.png") && error.contains("the LoRA"), "{error}");
    fs::remove_file(world.path(copied)).unwrap();
    let error = world.fail(4, &["--from", "made/file.png", "-o", "x"]);
    assert!(error.contains("made/file.png") && error.contains("the model"), "{error}");
    let error = world.fail(4, &["--from", "made/file.png", "-m", "nothing", "-o", "x"]);
    assert!(!error.contains("names a model"), "{error}");
}

#[test]
fn step_savers_save_or_do_nothing() {
    let world = World::new();
    let draw = |name: &str, flags: &[&str]| {
        let always = ["-s6", "-S3", "-g5", "-N", "fog", "-o", name, "--force", "a fox"];
        world.run(&[&always, flags].concat());
        world.pixels(&format!("{name}.png"))
    };
    for dtype in ["--dtype=f32", "--dtype=bf16"] {
        let plain = draw("plain", &[dtype]);
        for nothing in [
            &["--reuse", "1"][..],
            &["--guidance-interval", "0..1"],
            &["--merge-tokens", "0"],
            &["--low-memory"],
            &["--deepcache=1", "--guidance-interval=0..6", "--merge-tokens=0.0"],
        ] {
            assert_eq!(draw("same", &[nothing, &[dtype]].concat()), plain, "{nothing:?}");
        }
        let lora = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo/good/sd15-kohya.safetensors");
        for also in
            [&["--lora", lora][..], &["--lora", lora, "--apply=bypass"], &["--quantize=q8_0"]]
        {
            let held = draw("held", &[also, &[dtype]].concat());
            assert_eq!(draw("low", &[also, &[dtype, "--low-memory"]].concat()), held, "{also:?}");
            assert_ne!(held, plain, "{also:?}");
        }
        let mut seen = vec![plain];
        for flags in [
            &["--reuse", "2"][..],
            &["--reuse", "3"],
            &["--guidance-interval", "0.2..0.8"],
            &["--merge-tokens", "0.5"],
            &["--reuse=2", "--guidance-interval=..4", "--merge-tokens=0.75"],
        ] {
            let other = draw("other", &[flags, &[dtype]].concat());
            assert!(!seen.contains(&other), "{flags:?}");
            seen.push(other);
        }
    }
    // The last picture says how it was made, to us and to others.
    world.run(&["--from=other.png", "-m", MODEL, "-o=again", "--dtype=bf16"]);
    assert_eq!(world.pixels("again.png"), world.pixels("other.png"));
    let command = world.run(&["inspect", "--as-command", "other.png"]);
    assert!(command.contains("--guidance-interval=..4 --reuse=2 --merge-tokens=0.75"), "{command}");
    // Guidance at no step is guidance of 1; without guidance an interval does nothing.
    let never = draw("never", &["--guidance-interval", "6.."]);
    world.run(&["-s6", "-S3", "-g1", "-oone", "a fox"]);
    assert_eq!(never, world.pixels("one.png"));
    world.run(&["-s6", "-S3", "-g1", "--guidance-interval=0..0.5", "-otwo", "a fox"]);
    assert_eq!(never, world.pixels("two.png"));
}

#[test]
fn threads_and_previews() {
    let world = World::new();
    world.run(&["--threads", "1", "-s2", "-S1", "-o", "one", "x"]);
    world.run(&["--preview", "1", "-s2", "-S1", "-o", "two", "x"]);
    assert_eq!(world.pixels("one.png"), world.pixels("two.png"));
    assert_eq!(world.files(), ["one.png", "two.png"], "previews are gone");
    world.write("three.preview.png", "mine");
    world.run(&["--preview", "1", "-s1", "-o", "three", "x"]);
    assert_eq!(fs::read(world.path("three.preview.png")).unwrap(), b"mine");
}

#[test]
fn tiles_make_pictures_of_any_size() {
    let world = World::new();
    let draw = |name: &str, flags: &[&str]| {
        world.run(&[flags, &["-s1", "-S1", "-o", name, "x"]].concat());
        world.pixels(name)
    };
    // One tile is the whole picture.
    let whole = draw("whole.png", &["--no-tile"]);
    assert_eq!(whole, draw("one.png", &["--tile"]));
    let wide = draw("wide.png", &["--tile", "--size", "640x64"]);
    assert_eq!(wide.len(), 640 * 64 * 3);
    let plain = draw("plain.png", &["--no-tile", "--size", "640x64"]);
    assert!(wide != plain, "two tiles have statistics of their own");
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let world = World::new();
    let text = world.run(&["--dry-run", "-S18446744073709551615", "-o", "new/x.png", "x"]);
    let plan: toml::Table = text.parse().unwrap();
    assert_eq!(plan["outputs"][0].as_str(), Some("new/x.png"));
    assert_eq!(plan["plan"]["seed"].as_str(), Some("18446744073709551615"));
    let value = json(&world.run(&["--dry-run", "--json", "-n3", "-s4", "x"]));
    assert_eq!((&value["event"], &value["plan"]["steps"]), (&"plan".into(), &4.into()));
    assert_eq!(value["outputs"].as_array().unwrap().len(), 3);
    assert!(world.files().is_empty());
}

#[test]
fn inspecting_hides_nothing() {
    let world = World::new();
    let arguments = [
        "-m",
        "starter",
        "-s1",
        "-S1",
        "--tile",
        "--dtype=bf16",
        "-l",
        "santa:0.5",
        "--lora-method=sequential",
        "--apply=merge",
        "-o",
        "a",
        "red\u{9b}2J\napple",
    ];
    world.run(&arguments);
    let text = world.run(&["inspect", "a.png"]);
    for (name, value) in [
        ("LoRA", "santa:0.5"),
        ("LoRA method", "sequential"),
        ("Apply", "merge"),
        ("Tile", "yes"),
        ("Dtype", "bf16"),
    ] {
        let is = |line: &str| line.starts_with(&format!("{name}  ")) && line.ends_with(value);
        assert!(text.lines().any(is), "{name}: {text}");
    }
    // What a terminal would obey is written so that a shell makes the same of it.
    let command = world.run(&["inspect", "--as-command", "a.png"]);
    assert!(command.ends_with("$'red\\xc2\\x9b2J\\napple'\n"), "{command}");
    let line = world.run(&["inspect", "--json", "a.png"]);
    assert!(line.contains("red\\u009b2J\\napple") && !line.contains('\u{9b}'), "{line}");
    assert_eq!(json(&line)["request"]["prompt"], "red\u{9b}2J\napple");
}

/// A picture of another program.
fn foreign(world: &World, name: &str, parameters: &str) {
    let texts = colora::picture::png::Texts { parameters: Some(parameters.into()), colora: None };
    let picture = colora::Picture::new(1, 1, vec![0; 3]).unwrap();
    world.write(name, colora::picture::png::encode(&picture, &texts).unwrap());
}

#[test]
fn what_is_not_followed_is_said() {
    let world = World::new();
    let talk = |arguments: &[&str]| {
        let output = world.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    foreign(
        &world,
        "a.png",
        "a (red:1.3) apple, {a|b} pear\nSteps: 1, Sampler: Euler, Size: 60x64, Seed: 1",
    );
    let said = talk(&["--from", "a.png", "-o", "b.png"]);
    assert!(said.contains("Size: 60x64, `{a|b}`\n"), "{said}");
    foreign(&world, "c.png", "x\nSteps: 1, Sampler: Euler, Seed: 1, Model: unknown");
    let error = world.fail(4, &["--from", "c.png", "-o", "d.png"]);
    assert!(error.contains("c.png names a model") && error.contains("`unknown`"), "{error}");
    let said = talk(&["-s1", "-o", "e.png", "(red:1.4) apple, {a|b} pear"]);
    assert!(said.contains("`{a|b}`") && said.matches("warning").count() == 1, "{said}");
    // Our own pictures were drawn so; there is nothing to warn of.
    assert_eq!(talk(&["--from", "e.png", "-o", "f.png"]), "");
    let late = "santa:steps=500..600";
    let said = talk(&["-m", "starter", "-s2", "-l", late, "-o", "g.png", "x"]);
    assert!(said.contains("santa: none of 2 steps is in 500..600"), "{said}");
}
