//! `colora lora` from outside: the real binary with tiny files.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "cli/world.rs"]
#[allow(dead_code, unreachable_pub)]
mod world;

use serde_json::Value;
use std::fs;
use std::path::Path;
use world::World;

const ZOO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo/good/sd15-kohya.safetensors");

/// The entry called `name` of `lora list --json`; the project's own LoRAs are listed too.
fn entry(world: &World, name: &str, flags: &[&str]) -> Value {
    let text = world.run(&[&["lora", "list", "--json"], flags].concat());
    let entries = text.lines().map(|line| {
        let value = world::json(line);
        assert_eq!(value["event"], "listed");
        value
    });
    entries.into_iter().find(|entry| entry["name"] == name).unwrap()
}

#[test]
fn what_is_added_is_listed() {
    let world = World::new();
    fs::create_dir(world.path("loras")).unwrap();
    let add = [
        "lora",
        "add",
        ZOO,
        "--name",
        "styles/my-ink",
        "--trigger",
        "ink style",
        "--trigger",
        "wash",
        "--weight",
        "0.8",
        "--title",
        "Ink",
        "--licence",
        "CC0-1.0",
    ];
    let path = world.run(&add);
    assert_eq!(path.trim_end(), "./loras/styles/my-ink.safetensors");
    assert_eq!(fs::read(world.path(path.trim_end())).unwrap(), fs::read(ZOO).unwrap());
    let card = fs::read_to_string(world.path("loras/styles/my-ink.toml")).unwrap();
    assert!(card.contains("sha256 = \"") && card.contains("weight = 0.8\n"), "{card}");
    let listed = entry(&world, "styles/my-ink", &["--verify"]);
    assert_eq!(listed["card"]["trigger_words"][1], "wash");
    assert_eq!(listed["card"]["licence"], "CC0-1.0");
    assert_eq!((&listed["verified"], &listed["warning"]), (&true.into(), &Value::Null));
    assert_eq!(listed["bytes"], fs::metadata(ZOO).unwrap().len());
    let text = world.run(&["lora", "list"]);
    let row = text.lines().find(|line| line.starts_with("styles/my-ink ")).unwrap();
    for part in ["0.8  ink style, wash ", " Ink ", " ./loras/styles"] {
        assert!(row.contains(part), "{row}");
    }

    let error = world.fail(2, &add);
    assert!(error.contains("exists already") && error.contains("--force"), "{error}");
    world.run(&[&add[..], &["--force"]].concat());
    fs::write(world.path("loras/styles/my-ink.safetensors"), "changed").unwrap();
    let output = world.command(&["lora", "list", "--verify"]).output().unwrap();
    assert!(output.status.success(), "a wrong sum is no error");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("warning: ./loras/styles/my-ink.safetensors is not"), "{talk}");
    assert_eq!(entry(&world, "styles/my-ink", &["--verify"])["verified"], false);
}

#[test]
fn folders_come_from_settings_and_flags() {
    let world = World::new();
    world.write("a/one-a.safetensors", "");
    world.write("b/one-b.pt", "");
    world.write("colora.toml", "loras_dirs = [\"a\"]");
    assert_eq!(entry(&world, "one-a", &[])["path"], "./a/one-a.safetensors");
    let listed = |variable: &str| {
        let output = world.command(&["lora", "list"]).env("COLORA_LORA_PATH", variable).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let both = std::env::join_paths(["a", "b"]).unwrap();
    let text = listed(both.to_str().unwrap());
    assert!(text.contains("one-a") && text.contains("one-b"), "{text}");
    assert!(!listed("b").contains("one-a"), "the variable wins");
    let to = world.run(&["lora", "add", ZOO, "--to", "new/folder", "--link"]);
    assert_eq!(to.trim_end(), "new/folder/sd15-kohya.safetensors");
    assert_eq!(fs::read(world.path(to.trim_end())).unwrap(), fs::read(ZOO).unwrap());
    let copied = world.run(&["lora", "add", ZOO]);
    assert_eq!(copied.trim_end(), "./a/sd15-kohya.safetensors", "the first folder of all");
    assert!(world.run(&["doctor"]).contains("loras     ./a"));
}

#[test]
fn mistakes_end_with_their_codes() {
    let world = World::new();
    world.write("page.safetensors", "<html>");
    assert!(world.fail(3, &["lora", "add", "page.safetensors"]).contains("web page"));
    world.fail(3, &["lora", "add", "."]);
    let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd15/unet");
    let whole = format!("{whole}/diffusion_pytorch_model.safetensors");
    assert!(world.fail(3, &["lora", "add", &whole]).contains("checkpoint"));
    world.fail(4, &["lora", "add", "nowhere.safetensors"]);
    for flags in [["--name", "../x"], ["--weight", "1e9"], ["--weight", "nan"]] {
        let error = world.fail(2, &[&["lora", "add", ZOO], &flags[..]].concat());
        assert!(error.contains(" = "), "{error}");
    }
    assert!(world.fail(2, &["lora", "add", ZOO, "--weight", "nan"]).contains("with --weight"));
    world.write("loras/broken-card.safetensors", "");
    world.write("loras/broken-card.toml", "wieght = 1");
    let warning = &entry(&world, "broken-card", &[])["warning"];
    assert!(warning.as_str().unwrap().contains("did you mean `weight`"), "{warning}");
    assert!(world.files().contains(&"loras".to_owned()));
    assert!(!world.path(".home/colora/loras").exists(), "nothing was made on failure");
}

/// A small picture of the starter model; the project's LoRAs are found beside the program.
fn draw(world: &World, name: &str, flags: &[&str]) -> Vec<u8> {
    let all = ["-m", "starter", "-q", "-S", "1", "-s", "3", "--no-metadata", "-o", name, "--force"];
    world.run(&[&["generate"], flags, &all[..]].concat());
    fs::read(world.path(name)).unwrap()
}

#[test]
fn loras_change_pictures_and_weight_zero_does_not() {
    let world = World::new();
    let plain = draw(&world, "plain.png", &["santa"]);
    let santa = draw(&world, "santa.png", &["-l", "santa", "santa"]);
    assert_ne!(plain, santa);
    assert_eq!(plain, draw(&world, "zero.png", &["-l", "santa:0", "-l", "flat:0", "santa"]));
    // A tag in the prompt is the same as the flag; order does not matter.
    assert_eq!(santa, draw(&world, "tag.png", &["santa <lora:santa:1>"]));
    let both = draw(&world, "both.png", &["-l", "flat:0.8", "-l", "santa", "santa"]);
    assert_eq!(both, draw(&world, "turned.png", &["-l", "santa", "-l", "flat:0.8", "santa"]));
    assert_ne!(both, santa);
    let bypass = draw(&world, "b.png", &["--apply", "bypass", "-l", "santa", "santa"]);
    assert_eq!(bypass.is_empty(), santa.is_empty());
}

#[test]
fn a_stack_is_its_loras() {
    let world = World::new();
    fs::create_dir_all(world.path("loras/stacks")).unwrap();
    let text =
        "method = \"sum\"\n[[lora]]\nname = \"flat\"\nweight = 0.8\n[[lora]]\nname = \"santa\"\n";
    fs::write(world.path("loras/stacks/card.toml"), text).unwrap();
    let stacked = draw(&world, "stack.png", &["--stack", "card", "santa"]);
    let named = draw(&world, "named.png", &["-l", "flat:0.8", "-l", "santa", "santa"]);
    assert_eq!(stacked, named);
}

#[test]
fn stacks_are_saved_listed_shown_and_removed() {
    let world = World::new();
    fs::create_dir(world.path("loras")).unwrap();
    let stack = |more: &[&str]| world.run(&[&["lora", "stack"], more].concat());
    let save = ["save", "sets/card", "-l", "flat:0.8", "-l", "santa:unet=1,text=0.5:steps=0..0.6"];
    let path = stack(&[&save[..], &["--lora-method", "ties:density=0.3"]].concat());
    assert_eq!(path.trim_end(), "./loras/stacks/sets/card.toml");
    let listed = stack(&["list"]);
    assert!(listed.contains("sets/card  flat:0.8  santa:unet=1,text=0.5:steps=0..0.6  (ties)"));
    let shown = stack(&["show", "card"]);
    assert_eq!(shown, fs::read_to_string(world.path(path.trim_end())).unwrap());
    assert!(shown.starts_with("method = \"ties\"\ndensity = 0.3\n"), "{shown}");
    let flags = stack(&["show", "card", "--flags"]);
    let expected =
        "--lora flat:0.8 --lora santa:unet=1,text=0.5:steps=0..0.6 --lora-method ties:density=0.3";
    assert_eq!(flags.trim_end(), expected);
    let value = world::json(&stack(&["list", "--json"]));
    assert_eq!((&value["name"], &value["stack"]["density"]), (&"sets/card".into(), &0.3.into()));
    let drawn = |name: &str, flags: &[&str]| draw(&world, name, &[flags, &["santa"]].concat());
    let words: Vec<&str> = expected.split(' ').collect();
    assert_eq!(drawn("a.png", &["--stack", "card"]), drawn("b.png", &words));

    let fail = |code, more: &[&str]| world.fail(code, &[&["lora", "stack"], more].concat());
    assert!(fail(2, &save).contains("exists already"));
    assert_eq!(stack(&[&save[..], &["--force"]].concat()), path);
    assert!(!stack(&["show", "card"]).contains("ties"));
    assert!(fail(2, &["save", "../card", "-l", "flat"]).contains("a plain name"));
    assert!(fail(4, &["save", "x", "-l", "falt"]).contains("did you mean `flat`"));
    assert!(fail(4, &["show", "sets/crad"]).contains("did you mean `sets/card`"));
    fail(2, &["save", "x"]);
    // A path leads to the file from every folder.
    fs::copy(ZOO, world.path("own.safetensors")).unwrap();
    stack(&["save", "own", "-l", "./own.safetensors:0.5"]);
    let own = fs::read_to_string(world.path("loras/stacks/own.toml")).unwrap();
    assert!(own.contains("name = \"/"), "{own}");
    world.write("loras/stacks/bad.toml", "metod = 1");
    assert_eq!(stack(&["list"]).lines().count(), 2, "the bad one hides no other");
    world.write("keep.toml", "[[lora]]\nname = \"flat\"");
    fail(4, &["rm", "./keep.toml"]);
    stack(&["rm", "card"]);
    assert!(
        world.path("keep.toml").is_file() && !world.path("loras/stacks/sets/card.toml").exists()
    );
    fail(4, &["show", "card"]);
}

#[test]
fn a_picture_remembers_its_loras() {
    let world = World::new();
    let flags = ["-l", "santa:0.9:steps=0..0.5", "--lora-method", "sequential", "santa"];
    let first = ["generate", "-m", "starter", "-q", "-S", "1", "-s", "2", "-o", "a.png"];
    world.run(&[&first, &flags[..]].concat());
    let command = world.run(&["inspect", "--as-command", "a.png"]);
    assert!(command.contains("--lora=santa:0.9:steps=0..0.5"), "{command}");
    assert!(command.contains("--lora-method=sequential"), "{command}");
    let settings: Value =
        serde_json::from_str(&world.run(&["inspect", "--json", "a.png"])).unwrap();
    assert_eq!(settings["request"]["loras"][0]["name"], "santa");
    world.run(&["generate", "-q", "--from", "a.png", "-o", "b.png"]);
    assert_eq!(fs::read(world.path("a.png")).unwrap(), fs::read(world.path("b.png")).unwrap());
}

#[test]
fn wrong_loras_end_with_their_codes() {
    let world = World::new();
    let fail = |code, flags: &[&str]| {
        world.fail(code, &[&["generate", "-q", "-o", "x.png"], flags, &["x"]].concat())
    };
    let error = fail(4, &["-l", "sanat"]);
    assert!(error.contains("did you mean `santa`"), "{error}");
    let sdxl = ZOO.replace("sd15-kohya", "sdxl-kohya");
    let error = fail(3, &["-l", &sdxl]);
    assert!(error.contains("SDXL"), "{error}");
    let error = fail(2, &["-l", "santa:blocks=1,2,3"]);
    assert!(error.contains("26 or 17"), "{error}");
    fail(2, &["-l", "santa:1000"]);
    fail(2, &["--lora-method", "tie"]);
    let error = world.fail(2, &["generate", "-q", "-o", "x.png", "a <lora:santa"]);
    assert!(error.contains('^'), "{error}");
    assert!(!world.path("x.png").exists());
}

#[test]
fn bad_files_are_refused_by_the_program() {
    let world = World::new();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let list = fs::read_to_string(format!("{root}/zoo/zoo.json")).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap().to_owned();
    let entries = list["bad"].as_array().unwrap();
    for entry in entries {
        let file = format!("{root}/zoo/{}", text(entry, "file"));
        let model = format!("{root}/goldens/{}", text(entry, "base"));
        let output = world.command(&["lora", "check", &file, "-m", &model]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        // 5: a kind or container that exists but is not supported.
        let code = output.status.code();
        assert!(matches!(code, Some(3 | 5)), "{file}: {code:?} {error}");
        assert!(error.starts_with("error: ") && !error.contains("panicked"), "{file}: {error}");
        let words: Vec<String> = serde_json::from_value(entry["error"].clone()).unwrap();
        let lower = error.to_lowercase();
        assert!(words.iter().any(|word| lower.contains(&word.to_lowercase())), "{file}: {error}");
    }
    assert!(entries.len() > 90);
    // Nothing is drawn with such a file, and nothing is left behind.
    for bad in ["truncated-data.safetensors", "pickle-call.pt", "nan-up.safetensors"] {
        let file = format!("{root}/zoo/bad/{bad}");
        world.fail(3, &["generate", "-q", "-s1", "-l", &file, "-o", "x.png", "x"]);
    }
    assert!(world.files().is_empty());
}

#[test]
fn the_card_says_the_weight_that_the_user_does_not() {
    let world = World::new();
    fs::create_dir(world.path("loras")).unwrap();
    let santa = concat!(env!("CARGO_MANIFEST_DIR"), "/loras/santa.safetensors");
    world.run(&["lora", "add", santa, "--name", "half-santa", "--weight", "0.5"]);
    let by_card = draw(&world, "card.png", &["-l", "half-santa", "santa"]);
    assert_eq!(by_card, draw(&world, "half.png", &["-l", "half-santa:0.5", "santa"]));
    assert_ne!(by_card, draw(&world, "whole.png", &["-l", "half-santa:1", "santa"]));
}

#[test]
fn a_lora_of_the_hub_is_found_in_the_shared_cache() {
    let world = World::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repo = "hf/hub/models--o--santa";
    let santa = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/loras/santa.safetensors")).unwrap();
    world.write(&format!("{repo}/snapshots/{commit}/pytorch_lora_weights.safetensors"), santa);
    world.write(&format!("{repo}/refs/main"), commit);
    let run = |name: &str, out: &str| {
        let flags = ["-m", "starter", "-q", "-S1", "-s3", "--no-metadata", "-o", out, "santa"];
        let mut command = world.command(&[&["-l", name], &flags[..]].concat());
        command.env("HF_HOME", world.path("hf")).env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    assert!(run("hub:o/santa:0.5", "hub.png").status.success());
    let named = draw(&world, "named.png", &["-l", "santa:0.5", "santa"]);
    assert_eq!(fs::read(world.path("hub.png")).unwrap(), named);
    let code = if cfg!(feature = "hub") { 4 } else { 5 };
    let error = world::failed(&run("hub:o/other", "x.png"), code);
    assert!(error.contains(if code == 4 { "HF_HUB_OFFLINE" } else { "--features hub" }), "{error}");
    let error = world::failed(&run("hub:other", "x.png"), 2);
    assert!(error.contains("owner/name"), "{error}");
}

#[test]
fn adapters_for_few_steps_say_so() {
    let world = World::new();
    fs::copy(ZOO, world.path("sd15_lightning_4step_lora.safetensors")).unwrap();
    let name = "sd15_lightning_4step_lora.safetensors";
    let output = world.command(&["-s1", "-g1", "-l", name, "-o", "a.png", "x"]).output().unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("for 4 steps and a guidance of 1, not 1 and 1"), "{talk}");
    let output = world.command(&["-s4", "-g1", "-l", name, "-o", "b.png", "x"]).output().unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !talk.contains("guidance"), "{talk}");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd15");
    let text = world.run(&["lora", "inspect", name, "-m", model]);
    assert!(text.contains("made for  4 steps, guidance 1 (Lightning)"), "{text}");
}

#[test]
fn inspecting_says_what_does_not_match_and_why() {
    let world = World::new();
    let stray = ZOO.replace("sd15-kohya", "sd15-unmatched");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd15");
    let text = world.run(&["lora", "inspect", &stray, "-m", model]);
    for part in [
        "unmatched  3 (the model has no such module)",
        "    lora_unet_no_such_module.alpha",
        "unmatched  1 (no adapter has keys that end like this)",
        "    something.else",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = world.run(&["lora", "inspect", "--json", &stray, "-m", model]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let reasons = &json["report"]["reasons"];
    assert_eq!(reasons["the model has no such module"].as_array().unwrap().len(), 3);
    let sum = json["sha256"].as_str().unwrap();
    assert_eq!(json["auto_v2"].as_str().unwrap(), &sum[..10]);
    assert_eq!(json["auto_v3"].as_str().unwrap().len(), 12);
}

#[test]
fn a_lora_is_looked_into_and_checked() {
    let world = World::new();
    let text = world.run(&["lora", "inspect", "santa"]);
    for word in ["AutoV2", "rank", "santa claus", "M00", "441 of 441"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json: Value =
        serde_json::from_str(&world.run(&["lora", "inspect", "--json", "flat"])).unwrap();
    assert_eq!(json["report"]["unmatched"], serde_json::json!([]));
    assert!(json["modules"].as_array().unwrap().len() > 100);
    assert!(world.run(&["lora", "check", "flat"]).contains("fits"));
    let stray = ZOO.replace("sd15-kohya", "sd15-unmatched");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd15");
    let error = world.fail(3, &["lora", "check", &stray, "-m", model]);
    assert!(error.contains("4 keys fit nothing"), "{error}");
}

#[test]
fn wrong_numbers_and_names_of_the_writing_verbs() {
    let world = World::new();
    let merge = |more: &[&str]| {
        let always = ["lora", "merge", "flat", "wizard", "-m", "starter", "-o", "x.safetensors"];
        world.fail(2, &[&always, more].concat())
    };
    for (flags, part) in [
        (&["--clamp=2"][..], "clamp = 2: expected more than 0.5"),
        (&["--density=7"], "density = 7: expected"),
        (&["--density=0.5"], "density = 0.5: the method cat does not use it"),
        (&["--seed=1", "--method=ties"], "--method dare or dare-ties"),
        (&["--clamp=0.9", "--method=cat"], "clamp = 0.9: the method cat"),
        (&["--rank=4", "--method=linear"], "rank = 4: the method linear"),
    ] {
        let error = merge(flags);
        assert!(error.contains(part), "{flags:?}: {error}");
    }
    let start = ["lora", "merge", "-m", "starter", "-o", "x.safetensors"];
    let error = world.fail(2, &[&start[..], &["flat", "wizard:steps=0..0.5"]].concat());
    assert!(!error.contains("--steps"), "this verb has no such flag: {error}");
    let error = world.fail(2, &[&start[..], &["flat:0"]].concat());
    assert!(error.contains("lora = flat: nothing is changed"), "{error}");
    let extract = ["lora", "extract", "starter", "starter", "--rank", "8", "-o", "e.safetensors"];
    let error = world.fail(2, &extract);
    assert!(error.contains("tuned = starter: "), "{error}");
    for threshold in ["nan", "-1"] {
        let error = world.fail(2, &[&extract[..], &["--threshold", threshold]].concat());
        assert!(error.to_lowercase().contains(&format!("threshold = {threshold}: exp")), "{error}");
    }
    if Path::new("/dev/zero").exists() {
        let error = world.fail(3, &["-l", "/dev/zero", "-o", "x.png", "x"]);
        assert!(error.contains("no regular file"), "{error}");
    }
    assert!(world.files().is_empty(), "{:?}", world.files());
    world.run(&[&start[..], &["flat", "--clamp=0.99", "-q"]].concat());
    assert_eq!(world.files(), ["x.safetensors"]);
    assert!(world.run(&["help", "lora", "add"]).contains("--weight"));
}
