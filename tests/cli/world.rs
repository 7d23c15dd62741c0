//! A folder to run the program in.

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command as Process, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_colora");
/// A tiny model.
pub(crate) const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd15");

/// An empty folder to work in, with nothing of the user's in reach.
pub(crate) struct World(tempfile::TempDir);

impl World {
    pub(crate) fn new() -> Self {
        World(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn process(&self, arguments: &[&str]) -> Process {
        let mut process = Process::new(PROGRAM);
        process.args(arguments).current_dir(self.0.path()).env_clear();
        for name in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"] {
            process.env(name, self.path(".home"));
        }
        process.env("COLORA_MODEL", MODEL);
        process
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        Command::from_std(self.process(arguments))
    }

    /// Runs to success and returns stdout.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs to the exit code `code` and returns stderr; stdout must be empty.
    pub(crate) fn fail(&self, code: i32, arguments: &[&str]) -> String {
        failed(&self.command(arguments).output().unwrap(), code)
    }

    /// Visible files in the folder, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let items = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".home");
        names.sort();
        names
    }

    pub(crate) fn pixels(&self, name: &str) -> Vec<u8> {
        colora::Picture::open(self.path(name)).unwrap().bytes().to_vec()
    }
}

/// The stderr of a run that ended with the exit code `code`; stdout must be empty.
pub(crate) fn failed(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "no results on failure");
    text
}

/// A line of JSON of the schema that is promised.
pub(crate) fn json(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap();
    assert_eq!(value["schema"], 1);
    value
}
