//! `colora lora` from outside: the real binary with tiny files.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "cli/world.rs"]
#[allow(dead_code, unreachable_pub)]
mod world;

use serde_json::Value;
use std::fs;
use world::World;

const ZOO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zoo/good/sd15-kohya.safetensors");

/// The entry called `name` of `lora list --json`; the project's own LoRAs are listed too.
fn entry(world: &World, name: &str, flags: &[&str]) -> Value {
    let text = world.run(&[&["lora", "list", "--json"], flags].concat());
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
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
    assert!(row.contains("0.8  ink style, wash  Ink  ./loras/styles"), "{row}");

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
    world.fail(4, &["lora", "add", "nowhere.safetensors"]);
    for flags in [["--name", "../x"], ["--weight", "1e9"], ["--weight", "nan"]] {
        let error = world.fail(2, &[&["lora", "add", ZOO], &flags[..]].concat());
        assert!(error.contains(" = "), "{error}");
    }
    world.write("loras/broken-card.safetensors", "");
    world.write("loras/broken-card.toml", "wieght = 1");
    let warning = &entry(&world, "broken-card", &[])["warning"];
    assert!(warning.as_str().unwrap().contains("did you mean `weight`"), "{warning}");
    assert!(world.files().contains(&"loras".to_owned()));
    assert!(!world.path(".home/colora/loras").exists(), "nothing was made on failure");
}
