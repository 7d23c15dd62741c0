//! The flags that say which jobs there are: the file, and what its lines leave open.

use super::Order;
use crate::app::expand::Expand;
use crate::batch::{Format, Head, Seeding, Seeds};
use crate::cli::flags::lossy;
use crate::cli::machine_flags::MachineFlags;
use crate::cli::request_flags::RequestFlags;
use crate::error::Error;
use crate::pipeline::random_seed;
use anyhow::Result;
use clap::ValueHint;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The flags of a list of jobs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListArgs {
    /// The file of jobs, `-` for stdin, or a picture or a folder of pictures to make again
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath, required = true)]
    file: Option<PathBuf>,
    /// More pictures or folders of pictures
    #[arg(value_name = "PICTURE", value_hint = ValueHint::AnyPath)]
    pub(super) more: Vec<PathBuf>,
    /// text, csv, jsonl, toml or yaml [default: by the file's name]
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// Model where a line names none [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    pub(super) model: Option<String>,
    /// The fields of requests.
    #[command(flatten)]
    pub(super) request: RequestFlags,
    /// Seeds of jobs without one: own (each another), iterate (--seed, then one more each), same, or random (drawn once and
    /// kept in plan.json)
    #[arg(
        long,
        value_name = "HOW",
        default_value = "own",
        help_heading = "Picture",
        display_order = 6
    )]
    pub(super) seeds: Seeds,
    /// What `{a|b}` and `__name__` (prompts/wildcards/name.txt) are: off (text), all (every combination is a job) or
    /// random (one is drawn for each picture, by --seed and its place in the file)
    #[arg(long, value_name = "HOW", default_value = "off", help_heading = "Picture")]
    pub(super) expand: Expand,
    /// Most jobs that the file may stand for
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(super) max_jobs: usize,
    /// Lines of text that begin with # are prompts, too
    #[arg(long)]
    pub(super) no_comments: bool,
    /// Make the pictures of good lines although others are wrong; exit code 7
    #[arg(long)]
    pub(super) keep_going: bool,

    /// The flags of the machine.
    #[command(flatten)]
    pub(super) machine: MachineFlags,
    /// cost (model, LoRAs, size and prompt change as seldom as they can) or file
    #[arg(long, value_enum, value_name = "ORDER", default_value_t, help_heading = "Output")]
    pub(super) job_order: Order,
}

impl ListArgs {
    /// The file of jobs. It is missing only where a verb stands in its place.
    pub(super) fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("-"))
    }

    /// The values that flags give to what lines leave open.
    pub(super) fn values(&self) -> Map<String, Value> {
        let mut values = self.machine.values(self.request.values(), None, self.model.as_ref());
        values.remove("seed");
        values
    }

    /// How jobs without a seed get one; `place`: where an earlier run may have kept a seed that was drawn.
    ///
    /// # Errors
    /// What reading the list in the folder gives; [`Error::BadRequest`] where no folder keeps a seed.
    pub(super) fn seeding(&self, place: Option<&Path>) -> Result<Seeding, Error> {
        let seed = self.request.values().get("seed").map(Value::as_u64);
        let is_random = self.seeds == Seeds::Random || seed == Some(None);
        let seed = match (seed.flatten(), is_random) {
            (seed, false) => seed.unwrap_or(0),
            (Some(seed), true) => {
                return Err(Error::bad_request("seeds", "random", format!("--seed is {seed}")));
            }
            (None, true) => {
                let why =
                    "a seed that is drawn is kept in a folder, so that the batch can go on later";
                let folder = place.filter(|place| !super::shared::is_url(place));
                let folder = folder.ok_or_else(|| Error::bad_request("seed", "random", why))?;
                Head::read(folder)?.map_or_else(random_seed, |there| there.seed)
            }
        };
        let (most, expand) = (Some(self.max_jobs), self.expand);
        Ok(Seeding { seed, seeds: self.seeds, most, expand })
    }
}
