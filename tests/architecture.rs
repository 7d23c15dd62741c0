//! The architecture as a test: floors are respected, files and functions stay small.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "architecture/flags.rs"]
mod flags;
#[path = "architecture/imports.rs"]
mod imports;
#[path = "architecture/table.rs"]
mod table;

use imports::{Imports, circle};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Floor of each top-level module, as in the crate documentation.
const FLOORS: &[(u8, &[&str])] = &[
    (
        0,
        &[
            "error",
            "hint",
            "input",
            "cancel",
            "atomic_file",
            "size",
            "suggest",
            "plain",
            "room",
            "csv",
            "written",
        ],
    ),
    (1, &["rng", "picture", "kernels", "prompt"]),
    (2, &["weights", "sampling"]),
    (3, &["nn", "lora"]),
    (4, &["models"]),
    (5, &["conditioning", "family", "pipeline", "starter"]),
    (6, &["store", "config", "app"]),
    (7, &["cli", "batch", "sweep"]),
];

/// Peers that must not know each other although they share a floor or lie below.
const FORBIDDEN: &[(&str, &str)] = &[
    ("sampling", "weights"),
    ("weights", "sampling"),
    ("models", "sampling"),
    ("nn", "sampling"),
    ("nn", "lora"),
    ("lora", "nn"),
    ("sampling", "lora"),
    ("lora", "sampling"),
    ("store", "app"),
    ("config", "app"),
    ("batch", "cli"),
    ("sweep", "cli"),
    ("batch", "sweep"),
];

/// Lines of a file, its unit tests included.
const FILE_LIMIT: usize = 800;
/// Lines of a function, and the share of functions that may exceed the softer limit.
const FUNCTION_LIMIT: usize = 130;
const FUNCTION_SOFT: usize = 50;
const SOFT_SHARE: f64 = 0.05;

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    source_files(&root)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn modules_use_only_lower_floors() {
    let floors: BTreeMap<&str, u8> =
        FLOORS.iter().flat_map(|(floor, names)| names.iter().map(|name| (*name, *floor))).collect();
    let floor_of =
        |module: &str| *floors.get(module).unwrap_or_else(|| panic!("{module} has no floor"));
    let mut wrong = Vec::new();
    for (from, to) in Imports::new(&sources()).edges() {
        let (Some(module), Some(used)) = (from.first(), to.first()) else { continue };
        let (floor, target) = (floor_of(module), floor_of(used));
        let forbidden = FORBIDDEN.contains(&(module.as_str(), used.as_str()));
        if target > floor || forbidden {
            let (from, to) = (from.join("::"), to.join("::"));
            wrong.push(format!("{from} (floor {floor}) uses {to} (floor {target})"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two files that use each other are one concept in two places, or a part that belongs elsewhere.
#[test]
fn no_circle_between_the_files_of_a_folder() {
    let siblings = Imports::new(&sources()).siblings();
    assert!(siblings.len() > 10, "the import scan found only {} folders", siblings.len());
    let circles: Vec<String> = siblings
        .iter()
        .filter_map(|(folder, edges)| {
            let circle = circle(edges)?;
            Some(format!("src/{}: {}", folder.join("/"), circle.join(" -> ")))
        })
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn module_documentation_ends_with_its_floor() {
    for (name, text) in sources() {
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some((floor, _)) = FLOORS.iter().find(|(_, names)| names.contains(&module)) else {
            continue;
        };
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert_eq!(header.last(), Some(&&*format!("//! Floor {floor}.")), "{name}");
        assert!(header.len() > 2, "{name} has no sentence");
    }
}

#[test]
fn the_crate_documentation_lists_the_floors() {
    let (_, text) = sources().into_iter().find(|(name, _)| name == "lib.rs").unwrap();
    for (floor, names) in FLOORS {
        let row = text.lines().find(|l| l.starts_with(&format!("//! | {floor} |"))).unwrap();
        for name in *names {
            assert!(row.contains(&format!("`{name}`")), "floor {floor} of lib.rs lacks {name}");
        }
    }
}

#[test]
fn files_are_short() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LIMIT, "{name} has {lines} lines, at most {FILE_LIMIT}");
    }
}

/// Lines of each function, by the indentation that rustfmt guarantees.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let head = line.trim_start();
        let is_function = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn "]
            .iter()
            .any(|prefix| head.starts_with(prefix));
        if !is_function {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines[start..].iter().position(|l| *l == close || l.trim_end().ends_with(';'));
        let closing = lines[start..].iter().position(|l| *l == close);
        if let (Some(first), Some(closing)) = (end, closing)
            && (first == closing || lines[start..=start + first].iter().any(|l| l.contains('{')))
        {
            found.push((head.chars().take(60).collect(), closing + 1));
        }
    }
    found
}

#[test]
fn functions_are_short() {
    let mut all = Vec::new();
    for (name, text) in sources() {
        for (head, lines) in functions(&text) {
            assert!(lines <= FUNCTION_LIMIT, "{name}: `{head}` has {lines} lines");
            all.push(lines);
        }
    }
    assert!(all.len() > 200, "the function scan found only {}", all.len());
    let long = all.iter().filter(|lines| **lines > FUNCTION_SOFT).count();
    let share = long as f64 / all.len() as f64;
    assert!(share <= SOFT_SHARE, "{long} of {} functions exceed {FUNCTION_SOFT} lines", all.len());
}
