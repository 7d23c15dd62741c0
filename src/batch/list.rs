//! From drafts to jobs: laid over the settings, repeated, each with its seed. The same file gives the same list on every
//! machine.

use super::draft::Draft;
use super::pictures;
use crate::app::expand::{Expand, Templates};
use crate::app::{Job, Layers, resolver};
use crate::error::{Error, LineError, Result};
use crate::family::Defaults;
use crate::prompt::expand::Collections;
use crate::store::Store;
use sha2::{Digest, Sha256};
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Most jobs of a file.
const MOST: usize = 1_000_000;

/// Where the seeds of jobs come from that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Seeds {
    /// Each one's own, from the seed of the batch, the place of the job in the file and the repeat.
    #[default]
    Own,
    /// The seed of the batch, then one more for every job of the file.
    Iterate,
    /// The seed of the batch for all.
    Same,
    /// As [`Own`](Self::Own), from a seed of the batch that is drawn once.
    Random,
}

impl FromStr for Seeds {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "own" => Ok(Self::Own),
            "iterate" => Ok(Self::Iterate),
            "same" => Ok(Self::Same),
            "random" => Ok(Self::Random),
            _ => Err(Error::bad_request("seeds", name, "expected own, iterate, same or random")),
        }
    }
}

/// How what a line leaves to chance is decided.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seeding {
    /// The seed of the batch.
    pub seed: u64,
    /// What is made of it.
    pub seeds: Seeds,
    /// What becomes of alternatives and wildcards in prompts.
    pub expand: Expand,
    /// Most jobs of the list; a million unless it says otherwise.
    pub most: Option<usize>,
}

/// A job of a file, or of a list that a program makes: one picture, whose seed is decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listed {
    /// The line that asks for it, from 1.
    pub line: usize,
    /// Which of the jobs of that line it is, from 0.
    pub repeat: usize,
    /// The name that the user gave to the picture.
    pub id: Option<String>,
    /// Model and request; its count is 1.
    pub job: Job,
    /// Words that are kept beside the picture.
    pub labels: BTreeMap<String, String>,
}

/// The jobs of `drafts` over the settings `base`, and what is wrong with others.
pub fn list(
    drafts: &[Draft],
    base: &Layers,
    store: &Store,
    seeding: Seeding,
) -> (Vec<Listed>, Vec<LineError>) {
    let (mut jobs, mut mistakes) = (Vec::new(), Vec::new());
    let words = Words::new(store, seeding);
    let most = seeding.most.unwrap_or(MOST);
    for (place, draft) in drafts.iter().enumerate() {
        let made = one(draft, base, store).and_then(|job| {
            let wordings = words.of(&job, most - jobs.len().min(most))?;
            let times = job.request.count.saturating_mul(draft.repeat.unwrap_or(1));
            let times = times.saturating_mul(wordings.len());
            let asked = jobs.len().saturating_add(times);
            if asked > most {
                let (what, allowed) = ("jobs of a file", most as u64);
                return Err(Error::Limit { what, allowed, asked: asked as u64 });
            }
            Ok((wordings, times))
        });
        match made {
            Ok((wordings, times)) => {
                for repeat in 0..times {
                    let job = &wordings[repeat * wordings.len() / times];
                    let before = jobs.len();
                    let at = Place { index: place, repeat, times, before };
                    match words.drawn(job, &at) {
                        Ok(job) => jobs.push(repeated(draft, &job, seeding, &at)),
                        Err(error) => {
                            mistakes.push(LineError::new(draft.line, error));
                            break;
                        }
                    }
                }
            }
            Err(error @ Error::Limit { .. }) => {
                mistakes.push(LineError::new(draft.line, error));
                break;
            }
            Err(error) => mistakes.push(LineError::new(draft.line, error)),
        }
    }
    (jobs, mistakes)
}

/// What becomes of the prompts of a list.
struct Words<'a> {
    store: &'a Store,
    seeding: Seeding,
    /// The wildcards, once they are needed.
    wildcards: OnceCell<Collections>,
}

impl<'a> Words<'a> {
    fn new(store: &'a Store, seeding: Seeding) -> Self {
        Self { store, seeding, wildcards: OnceCell::new() }
    }

    /// The templates of a job's prompts.
    fn templates(&self, job: &Job) -> Result<Templates> {
        let templates = Templates::with(job, Collections::default())?;
        if !templates.have_wildcards() {
            return Ok(templates);
        }
        if self.wildcards.get().is_none() {
            let _ = self.wildcards.set(self.store.wildcards()?);
        }
        Templates::with(job, self.wildcards.get().cloned().unwrap_or_default())
    }

    /// The jobs that a job stands for, at most `most`.
    fn of(&self, job: &Job, most: usize) -> Result<Vec<Job>> {
        match self.seeding.expand {
            Expand::All => self.templates(job)?.listed(job, most),
            Expand::Random | Expand::Off => Ok(vec![job.clone()]),
        }
    }

    /// The job with the prompts that its place draws.
    fn drawn(&self, job: &Job, at: &Place) -> Result<Job> {
        match self.seeding.expand {
            Expand::Random => self.templates(job)?.drawn(job, own_seed(self.seeding.seed, at)),
            Expand::All | Expand::Off => Ok(job.clone()),
        }
    }
}

/// The job of a draft, checked as far as that needs no model.
fn one(draft: &Draft, base: &Layers, store: &Store) -> Result<Job> {
    let mut layers = base.clone();
    if let Some(path) = &draft.from {
        layers.picture_beneath(&pictures::record(path, draft, base, store)?, path)?;
    }
    layers.caller(draft.values.clone());
    let mut job = layers.job()?;
    if let Some(name) = &draft.stack {
        resolver::stack(store, name, draft.values.contains_key("lora_method"), &mut job.request)?;
    }
    for strength in &draft.strengths {
        let loras = &mut job.request.loras;
        match loras.iter_mut().find(|lora| lora.name == strength.name) {
            Some(lora) => *lora = strength.clone(),
            None => loras.push(strength.clone()),
        }
    }
    // A rough look that goes away again is nothing for a list.
    job.request.preview = 0;
    job.request.plan(&Defaults::of_unknown_model(), 0)?;
    Ok(job)
}

/// The place of a job in the list.
struct Place {
    /// The draft's number.
    index: usize,
    /// Which repeat of it.
    repeat: usize,
    /// How many repeats there are.
    times: usize,
    /// How many jobs stand before it.
    before: usize,
}

fn repeated(draft: &Draft, job: &Job, seeding: Seeding, at: &Place) -> Listed {
    let mut job = job.clone();
    let seed = match (job.request.seed, seeding.seeds) {
        (Some(seed), _) => seed.wrapping_add(at.repeat as u64),
        (None, Seeds::Own | Seeds::Random) => own_seed(seeding.seed, at),
        (None, Seeds::Iterate) => seeding.seed.wrapping_add(at.before as u64),
        (None, Seeds::Same) => seeding.seed.wrapping_add(at.repeat as u64),
    };
    job.request.seed = Some(seed);
    job.request.count = 1;
    let numbered = |id: &String| match at.times {
        1 => id.clone(),
        _ => format!("{id}-{}", at.repeat + 1),
    };
    let id = draft.id.as_ref().map(numbered);
    Listed { line: draft.line, repeat: at.repeat, id, job, labels: draft.labels.clone() }
}

/// 32 bits that depend on nothing but the seed of the batch and the place.
fn own_seed(batch: u64, at: &Place) -> u64 {
    let text = format!("colora seed 1\n{batch}\n{}\n{}", at.index, at.repeat);
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(4).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::super::source::{Format, Source};
    use super::*;
    use std::path::Path;

    fn listed(text: &str, format: Format, seeding: Seeding) -> (Vec<Listed>, Vec<LineError>) {
        let source = Source::parse(Path::new("x"), text, Some(format), true).unwrap();
        assert!(source.mistakes.is_empty(), "{:?}", source.mistakes);
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_path_buf();
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        list(&source.drafts, &Layers::default(), &store, seeding)
    }

    /// The same jobs in every format are the same list.
    #[test]
    fn formats_agree() {
        let formats = [
            (
                Format::Text,
                "# x\n--prompt a red apple --steps 2 --lora flat:0.8\n--prompt a cat --seed 5 --repeat 2\n",
            ),
            (
                Format::Csv,
                "prompt,steps,loras,seed,repeat\na red apple,2,flat:0.8,,\na cat,,,5,2\n",
            ),
            (
                Format::Jsonl,
                "{\"prompt\":\"a red apple\",\"steps\":2,\"loras\":[\"flat:0.8\"]}\n{\"prompt\":\"a cat\",\"seed\":5,\"repeat\":2}\n",
            ),
            (
                Format::Toml,
                "[[job]]\nprompt = \"a red apple\"\nsteps = 2\nloras = [\"flat:0.8\"]\n[[job]]\nprompt = \"a cat\"\n[matrix]\nseed = [5, 6]\n",
            ),
        ];
        let jobs = formats.map(|(format, text)| {
            let (jobs, mistakes) = listed(text, format, Seeding::default());
            assert!(mistakes.is_empty(), "{mistakes:?}");
            jobs.into_iter().map(|listed| listed.job).collect::<Vec<_>>()
        });
        assert_eq!(jobs[0].len(), 3);
        assert_eq!((jobs[0][1].request.seed, jobs[0][2].request.seed), (Some(5), Some(6)));
        assert!(jobs[0][0].request.seed.is_some_and(|seed| seed > 6));
        assert_eq!((&jobs[1], &jobs[2]), (&jobs[0], &jobs[0]));
        // The matrix holds for all jobs of its file: its first job comes twice.
        assert_eq!(jobs[3][2..], jobs[0][1..]);
    }

    #[test]
    fn seeds_are_decided_when_the_list_is_made() {
        let seeds = |seeds, seed| {
            let (jobs, _) = listed(
                "a\nb\n--prompt c --repeat 2",
                Format::Text,
                Seeding { seed, seeds, ..Seeding::default() },
            );
            jobs.iter().map(|listed| listed.job.request.seed.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(seeds(Seeds::Iterate, 7), [7, 8, 9, 10]);
        assert_eq!(seeds(Seeds::Same, 7), [7, 7, 7, 8]);
        let own = seeds(Seeds::Own, 0);
        assert_eq!(own, seeds(Seeds::Own, 0));
        assert_ne!(own, seeds(Seeds::Own, 1));
        let mut distinct = own.clone();
        distinct.dedup();
        assert_eq!(distinct, own);
    }

    #[test]
    fn alternatives_are_listed_or_drawn() {
        let prompts = |text: &str, expand, seed| {
            let (jobs, mistakes) =
                listed(text, Format::Text, Seeding { seed, expand, ..Seeding::default() });
            assert!(mistakes.is_empty(), "{mistakes:?}");
            jobs.into_iter()
                .map(|listed| {
                    (listed.line, listed.job.request.prompt, listed.id, listed.job.request.seed)
                })
                .collect::<Vec<_>>()
        };
        let text = "{a|b} c\nd\n--prompt \"{x|y}\" --id z --repeat 2";
        let words = |jobs: &[(usize, String, Option<String>, Option<u64>)]| -> Vec<String> {
            jobs.iter().map(|job| format!("{} {}", job.0, job.1)).collect()
        };
        let all = prompts(text, Expand::All, 0);
        assert_eq!(words(&all), ["1 a c", "1 b c", "2 d", "3 x", "3 x", "3 y", "3 y"]);
        let ids: Vec<&str> = all.iter().filter_map(|job| job.2.as_deref()).collect();
        assert_eq!(ids, ["z-1", "z-2", "z-3", "z-4"]);
        let mut seeds: Vec<_> = all.iter().map(|job| job.3).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 7);
        let drawn = prompts(text, Expand::Random, 3);
        assert_eq!(drawn.len(), 4);
        assert_eq!(drawn, prompts(text, Expand::Random, 3));
        assert!((0..9).any(|seed| words(&prompts(text, Expand::Random, seed)) != words(&drawn)));
        // What is drawn for a line does not depend on the others.
        assert_eq!(words(&drawn)[0], words(&prompts("{a|b} c", Expand::Random, 3))[0]);
        assert_eq!(words(&prompts(text, Expand::Off, 0))[0], "1 {a|b} c");
        let (_, mistakes) =
            listed("a\n{b", Format::Text, Seeding { expand: Expand::All, ..Seeding::default() });
        assert_eq!(mistakes[0].line, 2);
    }

    #[test]
    fn mistakes_name_their_line() {
        let text = "a\n--prompt b --steps 0\n--prompt c --repeat 9999999\nd";
        let (jobs, mistakes) = listed(text, Format::Text, Seeding::default());
        assert_eq!(jobs.len(), 1, "nothing after a limit is looked at");
        assert_eq!((mistakes[0].line, mistakes[1].line), (2, 3));
        assert!(mistakes[0].error.to_string().starts_with("steps = 0"));
        let (jobs, _) = listed("--prompt a --id x --repeat 2", Format::Text, Seeding::default());
        let ids: Vec<_> = jobs.iter().map(|listed| listed.id.as_deref().unwrap()).collect();
        assert_eq!(ids, ["x-1", "x-2"]);
    }
}
