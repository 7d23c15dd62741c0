//! Mutated inputs of every kind: each is refused by an error that names its file, or understood; none ends or
//! stops the program, fills the memory or is taken for the good one.
//!
//! `COLORA_MUTATIONS=N` sets how many inputs are tried, `COLORA_MUTATION_SECONDS=S` for how long (whatever
//! comes first), `COLORA_MUTATION_SEED=N` the seed. Every finding is saved with its input;
//! `COLORA_MUTATION_CASE=N`, with the seed, makes one again. What counts as a silent change stands in
//! `mutations/kinds.rs`.
#![cfg(feature = "cli")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::case_sensitive_file_extension_comparisons,
    unreachable_pub
)]

#[path = "mutations/bytes.rs"]
mod bytes;
#[path = "mutations/chance.rs"]
mod chance;
#[path = "mutations/child.rs"]
mod child;
#[path = "mutations/kinds.rs"]
mod kinds;
#[path = "mutations/pictures.rs"]
mod pictures;
mod support;
#[path = "mutations/tensors.rs"]
mod tensors;
#[path = "mutations/text.rs"]
mod text;
#[path = "mutations/verdict.rs"]
mod verdict;
#[path = "mutations/worker.rs"]
mod worker;

use kinds::Good;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::copy_folder;
use verdict::{Finding, Table};

/// Inputs that are tried when nobody says how many.
const USUAL: usize = 360;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a whole number")))
}

/// What the runs share.
struct Campaign {
    seed: u64,
    good: Good,
    next: AtomicUsize,
    end: usize,
    until: Option<Instant>,
    table: Mutex<Table>,
    folder: PathBuf,
}

#[test]
fn mutated_inputs_are_refused_or_understood() {
    let seconds = number("COLORA_MUTATION_SECONDS");
    let cases = number("COLORA_MUTATIONS").map(|n| n as usize);
    let only = number("COLORA_MUTATION_CASE").map(|n| n as usize);
    let temporary = tempfile::tempdir().unwrap();
    let usual = if seconds.is_some() { usize::MAX } else { USUAL };
    let campaign = Campaign {
        seed: number("COLORA_MUTATION_SEED").unwrap_or(1),
        good: Good::gather(temporary.path()),
        next: AtomicUsize::new(only.unwrap_or(0)),
        end: only.map_or(cases.unwrap_or(usual), |case| case + 1),
        until: seconds.map(|s| Instant::now() + Duration::from_secs(s)),
        table: Mutex::new(Table::default()),
        folder: temporary.path().to_path_buf(),
    };
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let campaign = &campaign;
            scope.spawn(move || campaign.run(thread));
        }
    });
    let table = campaign.table.into_inner().unwrap();
    println!("{table}seed {}, {:.0} s", campaign.seed, begun.elapsed().as_secs_f64());
    assert!(table.is_clean(), "see the findings above");
}

impl Campaign {
    /// Tries inputs until there are no more, or no more time.
    fn run(&self, thread: usize) {
        let mut child = child::Child::start();
        let mut baselines = verdict::Baselines::default();
        let folder = self.folder.join(format!("t{thread}"));
        loop {
            let case = self.next.fetch_add(1, Ordering::Relaxed);
            if case >= self.end || self.until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            std::fs::create_dir_all(&folder).unwrap();
            let input = self.good.mutate(self.seed, case, &folder);
            let good = baselines.of(&input, &mut child);
            let answer = child.ask(&input.order(&input.path));
            let mut finding = verdict::judge(&input, &answer, &good);
            if finding.is_none() && case.is_multiple_of(23) {
                finding = verdict::judge_program(&input);
            }
            if let Some(finding) = &finding {
                self.save(case, finding, &input, &folder);
            }
            self.table.lock().unwrap().count(&input, &answer, finding.as_ref());
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }

    /// Keeps what was found, to be looked at and made again.
    fn save(&self, case: usize, finding: &Finding, input: &kinds::Input, folder: &Path) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        let kept = kept.join(format!("{}-{case}", self.seed));
        let _ = std::fs::remove_dir_all(&kept);
        copy_folder(folder, &kept);
        let text = format!(
            "{finding}\nof {} ({})\nmade again by COLORA_MUTATION_SEED={} COLORA_MUTATION_CASE={case}\n",
            input.good.display(),
            input.what,
            self.seed
        );
        std::fs::write(kept.join("finding.txt"), &text).unwrap();
        println!("{text}kept in {}\n", kept.display());
    }
}
