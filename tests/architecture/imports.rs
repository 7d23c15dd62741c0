//! The import graph of the crate, read from its sources: which module uses which, with re-exports followed to
//! the module that defines the item.

use std::collections::{BTreeMap, BTreeSet};

/// A module's path below the crate: `["sampling", "euler"]`; the crate itself is empty.
pub(crate) type ModulePath = Vec<String>;

/// The modules of the crate and what they use.
pub(crate) struct Imports {
    /// The code of each module, without comments and unit tests.
    code: BTreeMap<ModulePath, String>,
    /// For each module its imported names: the path that each stands for.
    names: BTreeMap<ModulePath, BTreeMap<String, ModulePath>>,
}

impl Imports {
    /// Reads the graph of `sources`: pairs of a file's path below `src` and its text.
    pub(crate) fn new(sources: &[(String, String)]) -> Self {
        let mut code = BTreeMap::new();
        for (name, text) in sources {
            if !name.ends_with("tests.rs") && name != "main.rs" {
                code.insert(module_of(name), without_tests(text));
            }
        }
        let mut imports = Self { code, names: BTreeMap::new() };
        imports.names = imports
            .code
            .iter()
            .map(|(module, text)| (module.clone(), imports.imported_names(module, text)))
            .collect();
        imports
    }

    /// Pairs of a module and a module that it uses.
    pub(crate) fn edges(&self) -> BTreeSet<(ModulePath, ModulePath)> {
        let mut edges = BTreeSet::new();
        for (module, text) in &self.code {
            for path in paths(text) {
                let home = self.home(&absolute(module, &path), 8);
                if home != *module {
                    edges.insert((module.clone(), home));
                }
            }
        }
        edges
    }

    /// For each folder the uses between its files and sub-folders; `mod.rs` belongs to the folder itself.
    pub(crate) fn siblings(&self) -> BTreeMap<ModulePath, BTreeSet<(String, String)>> {
        let mut folders: BTreeMap<ModulePath, BTreeSet<(String, String)>> = BTreeMap::new();
        for (from, to) in self.edges() {
            let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) {
                folders.entry(from[..shared].to_vec()).or_default().insert((a.clone(), b.clone()));
            }
        }
        folders
    }

    /// Whether a module lies at `path`.
    fn is_module(&self, path: &[String]) -> bool {
        self.code.contains_key(path)
    }

    /// The module that defines the item at `path`, with re-exports followed.
    fn home(&self, path: &[String], depth: usize) -> ModulePath {
        let mut module = ModulePath::new();
        for (at, name) in path.iter().enumerate() {
            let mut next = module.clone();
            next.push(name.clone());
            if self.is_module(&next) {
                module = next;
                continue;
            }
            let named = self.names.get(&module).and_then(|names| names.get(name));
            return match named {
                Some(target) if depth > 0 && *target != path[..=at] => {
                    let mut full = target.clone();
                    full.extend_from_slice(&path[at + 1..]);
                    self.home(&full, depth - 1)
                }
                _ => module,
            };
        }
        module
    }

    /// The names that `use` declarations bring into a module; of a path like `child::Item`, a child is meant.
    fn imported_names(&self, module: &ModulePath, text: &str) -> BTreeMap<String, ModulePath> {
        let mut names = BTreeMap::new();
        for declaration in declarations(text) {
            for mut path in tree(&declaration) {
                let name = match path.iter().position(|part| part == "as") {
                    Some(at) => {
                        let name = path.get(at + 1).cloned().unwrap_or_default();
                        path.truncate(at);
                        name
                    }
                    None => path.last().cloned().unwrap_or_default(),
                };
                let first = path.first().cloned().unwrap_or_default();
                let child = [module.as_slice(), std::slice::from_ref(&first)].concat();
                let target = match first.as_str() {
                    "crate" | "super" | "self" => absolute(module, &path),
                    _ if self.is_module(&child) => [module.as_slice(), &path].concat(),
                    _ => continue,
                };
                names.insert(name, target);
            }
        }
        names
    }
}

/// One circle of a graph, if there is any.
pub(crate) fn circle(edges: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    let mut left: BTreeSet<&(String, String)> = edges.iter().collect();
    loop {
        let sources: BTreeSet<&String> = left.iter().map(|(from, _)| from).collect();
        let before = left.len();
        // What leads nowhere is in no circle.
        left.retain(|(_, to)| sources.contains(to));
        if left.is_empty() {
            return None;
        }
        if left.len() == before {
            break;
        }
    }
    let mut way = vec![left.iter().next()?.0.clone()];
    loop {
        let last = way.last()?;
        let next = left.iter().find(|(from, _)| from == last)?.1.clone();
        if let Some(start) = way.iter().position(|name| *name == next) {
            return Some(way[start..].to_vec());
        }
        way.push(next);
    }
}

fn module_of(file: &str) -> ModulePath {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Code without comments and unit tests; what lies in a module inside of the file is one `super` nearer.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let (mut inner, mut skipped) = (false, false);
    let mut test_next = false;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let opens = line.ends_with('{')
            && ["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "]
                .iter()
                .any(|head| line.starts_with(head));
        if opens {
            (inner, skipped) = (true, test_next);
        }
        test_next = line.starts_with("#[cfg(test)]") || test_next && line.starts_with("#[");
        if !skipped {
            let nearer = line.replace("super::super::", "\u{0}").replace("super::", "self::");
            code += &if inner { nearer.replace('\u{0}', "super::") } else { line.to_owned() };
            code.push('\n');
        }
        if line == "}" {
            (inner, skipped) = (false, false);
        }
    }
    code
}

/// The text of every `use` declaration, from its path to before the semicolon.
fn declarations(code: &str) -> Vec<String> {
    let starts = code.match_indices("use ").filter(|(at, _)| {
        let before = code[..*at].trim_end_matches(' ');
        before.is_empty() || before.ends_with(['\n', ')', '{', ';']) || before.ends_with("pub")
    });
    starts.map(|(at, _)| code[at + 4..].split(';').next().unwrap_or_default().to_owned()).collect()
}

/// Every path of the code that begins with `crate`, `super` or `self`.
fn paths(code: &str) -> Vec<ModulePath> {
    let mut found = Vec::new();
    for head in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(head) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            found.extend(tree(&code[at..]));
        }
    }
    found
}

/// The paths of a `use` tree, or the one path at the start of an expression.
fn tree(text: &str) -> Vec<ModulePath> {
    let mut rest = text.trim_start();
    let mut path = ModulePath::new();
    loop {
        let name: String =
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '*').collect();
        if name.is_empty() {
            break;
        }
        rest = &rest[name.len()..];
        if name != "self" || path.is_empty() {
            path.push(name);
        }
        if let Some(after) = rest.strip_prefix("::") {
            rest = after.trim_start();
            if let Some(group) = rest.strip_prefix('{') {
                return branches(group)
                    .iter()
                    .flat_map(|branch| tree(branch))
                    .map(|tail| {
                        let tail = if tail == ["self"] { Vec::new() } else { tail };
                        [path.clone(), tail].concat()
                    })
                    .collect();
            }
            continue;
        }
        if let Some(after) = rest.strip_prefix(" as ") {
            let alias: String =
                after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            path.extend(["as".to_owned(), alias]);
        }
        break;
    }
    vec![path]
}

/// The parts of a group of a `use` tree, at its first level.
fn branches(group: &str) -> Vec<String> {
    let (mut depth, mut parts, mut part) = (0usize, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// A path that begins with `crate`, `super` or `self`, seen from `module`.
fn absolute(module: &ModulePath, path: &[String]) -> ModulePath {
    let mut base = module.clone();
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => base.clear(),
            "super" => {
                base.pop();
            }
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    base.extend(rest.iter().take_while(|part| *part != "as").cloned());
    base
}

#[test]
fn trees_of_use_declarations() {
    let found = tree("crate::a::{self, b::{C, d as e}, F};");
    let shown: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(shown, ["crate::a", "crate::a::b::C", "crate::a::b::d::as::e", "crate::a::F"]);
}

#[test]
fn reexports_lead_home_and_circles_are_found() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let imports = Imports::new(&[
        file("lib.rs", "mod a;\nmod b;\npub use b::inner::Deep;\n"),
        file("a.rs", "use crate::Deep;\n#[cfg(test)]\nmod tests {\n    use crate::c::No;\n}\n"),
        file("b/mod.rs", "mod inner;\nmod other;\npub use inner::Deep;\n"),
        file("b/inner.rs", "use super::other::Thing; // crate::a::Never\n"),
        file("b/other.rs", "fn f() { super::Deep::new() }\nmod deep {\n    use super::Thing;\n}\n"),
        file("c.rs", "pub struct No;\n"),
    ]);
    let edges: Vec<String> =
        imports.edges().iter().map(|(a, b)| format!("{}>{}", a.join("."), b.join("."))).collect();
    assert_eq!(edges, ["a>b.inner", "b.inner>b.other", "b.other>b.inner"]);
    let inside = &imports.siblings()[&vec!["b".to_owned()]];
    assert_eq!(circle(inside).unwrap().len(), 2);
}
