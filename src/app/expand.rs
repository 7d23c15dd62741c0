//! Prompts with alternatives and wildcards: what becomes of a job.

use super::job::Job;
use crate::error::{Error, Result};
use crate::prompt::expand::{Collections, ExpandError, Template};
use crate::prompt::{pointed, underlined};
use crate::store::Store;
use std::str::FromStr;

/// What is done with `{a|b}` and `__name__` in prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expand {
    /// They are text.
    #[default]
    Off,
    /// One of the options is drawn for each picture, by its seed.
    Random,
    /// Every combination of options makes a picture.
    All,
}

impl FromStr for Expand {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "off" => Ok(Self::Off),
            "random" => Ok(Self::Random),
            "all" => Ok(Self::All),
            _ => Err(Error::bad_request("expand", text, "expected off, random or all")),
        }
    }
}

/// The prompts of a job as templates, and the wildcards that they use.
#[derive(Debug)]
pub struct Templates {
    prompt: Template,
    negative: Template,
    wildcards: Collections,
}

impl Templates {
    /// Reads the prompts of `job`. The folders of wildcards are read if there are wildcards in them.
    ///
    /// # Errors
    /// [`Error::BadRequest`] that points at the place in the prompt, and as [`Store::wildcards`].
    pub fn of(job: &Job, store: &Store) -> Result<Self> {
        let mut found = Self::read(job)?;
        if found.have_wildcards() {
            found.wildcards = store.wildcards()?;
        }
        Ok(found)
    }

    /// As [`of`](Self::of), with wildcards that were read before.
    ///
    /// # Errors
    /// [`Error::BadRequest`] that points at the place in the prompt.
    pub fn with(job: &Job, wildcards: Collections) -> Result<Self> {
        Ok(Self { wildcards, ..Self::read(job)? })
    }

    fn read(job: &Job) -> Result<Self> {
        let template =
            |field, text: &str| Template::parse(text).map_err(|error| wrong(field, &error));
        Ok(Self {
            prompt: template("prompt", &job.request.prompt)?,
            negative: template("negative_prompt", &job.request.negative_prompt)?,
            wildcards: Collections::default(),
        })
    }

    /// Whether there are wildcards in them.
    pub fn have_wildcards(&self) -> bool {
        self.prompt.has_wildcards() || self.negative.has_wildcards()
    }

    /// Whether both prompts are text: there is nothing to choose.
    pub fn are_text(&self) -> bool {
        self.prompt.is_text() && self.negative.is_text()
    }

    /// `job` with the prompts that `seed` draws.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for an unknown wildcard or variable, pointing at it.
    pub fn drawn(&self, job: &Job, seed: u64) -> Result<Job> {
        let one = |field, template: &Template| {
            let drawn = template.random(&self.wildcards, seed).next();
            drawn.transpose().map(Option::unwrap_or_default).map_err(|error| wrong(field, &error))
        };
        let mut job = job.clone();
        job.request.prompt = one("prompt", &self.prompt)?;
        job.request.negative_prompt = one("negative_prompt", &self.negative)?;
        Ok(job)
    }

    /// A job for every combination of options of both prompts; those of the negative prompt change faster.
    ///
    /// # Errors
    /// [`Error::Limit`] with the number of combinations when they are more than `most`; as [`drawn`](Self::drawn).
    pub fn listed(&self, job: &Job, most: usize) -> Result<Vec<Job>> {
        let all = |field, template: &Template| {
            // Counted further than they are wanted, so that the error can name how many there are.
            let all = template.all(&self.wildcards).take(most.saturating_mul(10).saturating_add(1));
            let texts: std::result::Result<Vec<String>, _> = all.collect();
            texts.map_err(|error| wrong(field, &error))
        };
        let (prompts, negatives) =
            (all("prompt", &self.prompt)?, all("negative_prompt", &self.negative)?);
        let asked = prompts.len().saturating_mul(negatives.len());
        if asked > most {
            let what = "prompts that a template expands to";
            return Err(Error::Limit { what, allowed: most as u64, asked: asked as u64 });
        }
        if asked == 0 {
            let why = "no prompt fulfils this: it asks for more different options than there are";
            return Err(Error::bad_request("prompt", &job.request.prompt, why));
        }
        let mut jobs = Vec::with_capacity(asked);
        for prompt in &prompts {
            for negative in &negatives {
                let mut job = job.clone();
                job.request.prompt.clone_from(prompt);
                job.request.negative_prompt.clone_from(negative);
                jobs.push(job);
            }
        }
        Ok(jobs)
    }
}

/// The jobs of one picture each that `job` stands for, when its prompts are drawn for each picture by its seed. One job
/// as it is where there is nothing to choose.
///
/// `random_seed`: the seed where the job has none.
///
/// # Errors
/// As [`Templates::of`] and [`Templates::drawn`].
pub fn for_each_picture(job: &Job, store: &Store, random_seed: u64) -> Result<Vec<Job>> {
    let templates = Templates::of(job, store)?;
    if templates.are_text() {
        // Comments are gone all the same.
        return Ok(vec![templates.drawn(job, 0)?]);
    }
    let first = job.request.seed.unwrap_or(random_seed);
    (0..job.request.count.max(1))
        .map(|index| {
            let seed = first.wrapping_add(index as u64);
            let mut job = templates.drawn(job, seed)?;
            job.request.seed = Some(seed);
            job.request.count = job.request.count.min(1);
            Ok(job)
        })
        .collect()
}

fn wrong(field: &'static str, error: &ExpandError) -> Error {
    match &error.collection {
        None => pointed(field, &error.text, &error.span, &error.why),
        Some(name) => {
            let place = underlined(&error.text, &error.span);
            Error::bad_request("wildcards", name, format!("{}\n{place}", error.why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Request;

    fn job(prompt: &str, negative: &str) -> Job {
        let request = Request {
            prompt: prompt.into(),
            negative_prompt: negative.into(),
            seed: Some(42),
            count: 3,
            ..Request::default()
        };
        Job { request, ..Job::default() }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let wildcards = folder.path().join("prompts/wildcards");
        std::fs::create_dir_all(&wildcards).unwrap();
        std::fs::write(wildcards.join("colour.txt"), "red\ngreen\n").unwrap();
        let home = folder.path().to_path_buf();
        let store = Store::new(&[], folder.path(), &move |_| Some(home.clone().into_os_string()));
        (folder, store)
    }

    #[test]
    fn each_picture_gets_the_prompt_of_its_seed() {
        let (_folder, store) = store();
        let many =
            for_each_picture(&job("a __colour__ {fox|cat|owl}", "{x|y}"), &store, 1).unwrap();
        assert_eq!(many.len(), 3);
        for (place, one) in many.iter().enumerate() {
            assert_eq!((one.request.seed, one.request.count), (Some(42 + place as u64), 1));
            // The same picture by itself.
            let mut alone = job("a __colour__ {fox|cat|owl}", "{x|y}");
            alone.request.seed = one.request.seed;
            alone.request.count = 1;
            assert_eq!(for_each_picture(&alone, &store, 7).unwrap(), std::slice::from_ref(one));
        }
        let text = for_each_picture(&job("a (fox:1.2) # x", ""), &store, 1).unwrap();
        assert_eq!(
            (text.len(), text[0].request.count, &*text[0].request.prompt),
            (1, 3, "a (fox:1.2) ")
        );
    }

    #[test]
    fn every_combination_is_listed() {
        let (_folder, store) = store();
        let job = job("{a|b} __colour__", "{x|y}");
        let templates = Templates::of(&job, &store).unwrap();
        let all = templates.listed(&job, 100).unwrap();
        let prompts: Vec<(&str, &str)> =
            all.iter().map(|job| (&*job.request.prompt, &*job.request.negative_prompt)).collect();
        assert_eq!(prompts.len(), 8);
        assert_eq!(prompts[..3], [("a green", "x"), ("a green", "y"), ("a red", "x")]);
        let error = templates.listed(&job, 7).unwrap_err().to_string();
        assert!(error.contains("8 asked, at most 7"), "{error}");
    }

    #[test]
    fn mistakes_have_carets() {
        let (_folder, store) = store();
        let message = |text| for_each_picture(&job(text, ""), &store, 0).unwrap_err().to_string();
        let unknown = message("a __color__ fox");
        assert!(
            unknown.contains("did you mean `colour`?\na __color__ fox\n  ^^^^^^^^^"),
            "{unknown}"
        );
        assert!(message("a {b").contains("not closed"));
        assert!(matches!("some".parse::<Expand>(), Err(Error::BadRequest { .. })));
    }
}
