//! Whether what became of an input is right, and the table of all.

use crate::child::{Answer, Child};
use crate::kinds::{Input, Meaning};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Most memory for a small input, in kB.
const MEMORY: u64 = 2 << 20;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Panic,
    Signal,
    Hang,
    Memory,
    Internal,
    NoFile,
    Silent,
}

const FAULTS: [(Fault, &str); 7] = [
    (Fault::Panic, "panics"),
    (Fault::Signal, "signals"),
    (Fault::Hang, "hangs"),
    (Fault::Memory, "> 2 GB"),
    (Fault::Internal, "exit 1"),
    (Fault::NoFile, "no file"),
    (Fault::Silent, "silent"),
];

/// A fault that an input brought up.
#[derive(Debug)]
pub struct Finding {
    pub fault: Fault,
    pub why: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.fault, self.why)
    }
}

/// What the good files say, each asked once a worker.
#[derive(Default)]
pub struct Baselines(BTreeMap<PathBuf, Answer>);

impl Baselines {
    pub fn of(&mut self, input: &Input, child: &mut Child) -> Answer {
        let ask = || {
            let answer = child.ask(&input.order(&input.good));
            assert_eq!(answer.code, 0, "{}: {}", input.good.display(), answer.message);
            answer
        };
        self.0.entry(input.good.clone()).or_insert_with(ask).clone()
    }
}

/// What is wrong with `answer`.
pub fn judge(input: &Input, answer: &Answer, good: &Answer) -> Option<Finding> {
    let Answer { code, message, .. } = answer;
    let find = |fault, why: &str| Some(Finding { fault, why: why.to_owned() });
    if answer.hung {
        return find(Fault::Hang, "no answer within 10 s, twice");
    }
    if answer.peak > MEMORY {
        return find(Fault::Memory, &format!("{} kB", answer.peak));
    }
    let silent = match input.meaning {
        Meaning::Anything => false,
        Meaning::Changed => answer.report == good.report && answer.notes <= good.notes,
        Meaning::Nonsense => answer.notes <= good.notes,
    };
    match code {
        0 if silent => find(Fault::Silent, "accepted without a word"),
        0 => None,
        1 => find(Fault::Internal, message),
        101 => find(Fault::Panic, message),
        128.. => find(Fault::Signal, message),
        _ if !message.contains(&*input.folder.to_string_lossy()) => find(Fault::NoFile, message),
        _ => None,
    }
}

/// The same input to the program.
pub fn judge_program(input: &Input) -> Option<Finding> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_colora"));
    program.args(input.arguments()).current_dir(&input.folder).stdin(Stdio::null());
    let output =
        program.env("RAYON_NUM_THREADS", "1").env("XDG_CONFIG_HOME", "/nowhere").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let find = |fault| Some(Finding { fault, why: format!("{:?}: {text}", input.arguments()) });
    match output.status.code() {
        None => find(Fault::Signal),
        Some(101) => find(Fault::Panic),
        Some(1) => find(Fault::Internal),
        Some(0) => None,
        _ if !text.contains(&*input.folder.to_string_lossy()) => find(Fault::NoFile),
        _ => None,
    }
}

/// Counts by kind.
#[derive(Default)]
pub struct Table(BTreeMap<&'static str, Row>);

#[derive(Default)]
struct Row {
    tried: usize,
    accepted: usize,
    peak: u64,
    faults: BTreeMap<Fault, usize>,
}

impl Table {
    pub fn count(&mut self, input: &Input, answer: &Answer, finding: Option<&Finding>) {
        let row = self.0.entry(input.kind).or_default();
        row.tried += 1;
        row.accepted += usize::from(answer.code == 0 && !answer.hung);
        row.peak = row.peak.max(answer.peak);
        if let Some(finding) = finding {
            *row.faults.entry(finding.fault).or_default() += 1;
        }
    }

    pub fn is_clean(&self) -> bool {
        self.0.values().all(|row| row.faults.is_empty())
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "| {:14} | {:>6} | {:>8} | {:>8} |", "kind", "tried", "accepted", "memory")?;
        FAULTS.iter().try_for_each(|(_, name)| write!(f, " {name:>7} |"))?;
        write!(f, "\n|{:-<16}|{:->8}|{:->10}|{:->10}|", "", ":", ":", ":")?;
        FAULTS.iter().try_for_each(|_| write!(f, "{:->9}|", ":"))?;
        writeln!(f)?;
        for (kind, row) in &self.0 {
            let memory = format!("{} MB", row.peak >> 10);
            write!(f, "| {kind:14} | {:6} | {:8} | {memory:>8} |", row.tried, row.accepted)?;
            for (fault, _) in FAULTS {
                write!(f, " {:7} |", row.faults.get(&fault).unwrap_or(&0))?;
            }
            writeln!(f)?;
        }
        let all: usize = self.0.values().map(|row| row.tried).sum();
        writeln!(f, "{all} inputs")
    }
}
