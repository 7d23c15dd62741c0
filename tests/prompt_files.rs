//! Every file in `prompts/` is read by the program that it is for.
#![cfg(feature = "cli")]
#![allow(clippy::case_sensitive_file_extension_comparisons, clippy::unwrap_used)]

#[path = "cli/world.rs"]
#[allow(dead_code)]
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use world::{World, json};

/// The files of `prompts/`, those in its folders with their folder's name.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            names.extend(files(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.insert(name);
        }
    }
    names
}

#[test]
fn every_file_is_checked() {
    let prompts = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts");
    let readme = fs::read_to_string(prompts.join("README.md")).unwrap();
    let world = World::new();
    let mut wildcards = Vec::new();
    for name in files(&prompts) {
        let path = prompts.join(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            _ if name == "README.md" => continue,
            // What it holds are styles, no jobs; a test of styles reads it.
            _ if name == "styles.toml" => {}
            Some("txt") if name.starts_with("wildcards/") => wildcards.push(name.clone()),
            Some("txt" | "csv" | "jsonl" | "toml") => check_jobs(&world, &path),
            other => panic!("{name}: nothing checks files of the kind {other:?}"),
        }
        let listed = name.split('/').next().unwrap();
        assert!(readme.contains(listed), "README.md does not name {listed}");
    }
    for wildcard in wildcards {
        let stem = Path::new(&wildcard).file_stem().unwrap().to_str().unwrap().to_owned();
        let dynamic = fs::read_to_string(prompts.join("dynamic.txt")).unwrap();
        assert!(dynamic.contains(&format!("__{stem}__")), "nothing uses {wildcard}");
    }
}

/// The list of a file has at least as many jobs as the file has lines of them, and can be drawn.
fn check_jobs(world: &World, path: &Path) {
    let path = path.to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let is_dynamic =
        text.contains("__") || text.lines().any(|l| !l.starts_with('#') && l.contains('|'));
    let expand: &[&str] = if is_dynamic { &["--expand", "all"] } else { &[] };
    let none = world.path("none");
    let none = none.to_str().unwrap();
    let base = ["batch", path, "-m", "starter", "--dry-run", "--json", "-o", none];
    // Wildcards are found in the folder `prompts` of the current folder.
    let mut command = world.command(&[&base[..], expand].concat());
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let plan = json(printed.lines().last().unwrap());
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    let jobs = plan["jobs"].as_u64().unwrap_or_else(|| panic!("{path}: {plan}"));
    let least =
        if path.ends_with(".toml") { 2 } else { lines as u64 - u64::from(path.ends_with(".csv")) };
    assert!(jobs >= least, "{path}: {jobs} jobs of {lines} lines");
    assert!(!world.path("none").exists(), "a dry run makes nothing");
}
