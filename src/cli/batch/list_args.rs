//! The flags that say which jobs there are: the file, and what its lines leave open.

use super::Order;
use crate::batch::{Format, Seeding, Seeds};
use crate::cli::flags::lossy;
use crate::cli::request_flags::RequestFlags;
use crate::error::Error;
use crate::pipeline::{DTypeChoice, DeviceChoice};
use crate::weights::Quantisation;
use anyhow::Result;
use clap::ValueHint;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The flags of a list of jobs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListArgs {
    /// The file of jobs, or `-` for stdin
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, required = true)]
    file: Option<PathBuf>,
    /// text, csv, jsonl, toml or yaml [default: by the file's name]
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// Model where a line names none [env: COLORA_MODEL] [default: starter]
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    pub(super) model: Option<String>,
    /// The fields of requests.
    #[command(flatten)]
    pub(super) request: RequestFlags,
    /// Seeds of jobs without one: own (each another), iterate (--seed, then one more each) or same
    #[arg(
        long,
        value_name = "HOW",
        default_value = "own",
        help_heading = "Picture",
        display_order = 6
    )]
    pub(super) seeds: Seeds,
    /// Lines of text that begin with # are prompts, too
    #[arg(long)]
    pub(super) no_comments: bool,
    /// Make the pictures of good lines although others are wrong; exit code 7
    #[arg(long)]
    pub(super) keep_going: bool,

    /// auto, cpu, cuda, cuda:1 or metal [env: COLORA_DEVICE]
    #[arg(long, value_name = "DEVICE", help_heading = "Machine")]
    pub(super) device: Option<DeviceChoice>,
    /// f32, tf32, f16 or bf16 [env: COLORA_DTYPE] [default: f32 on a CPU, f16 on a GPU]
    #[arg(long, value_name = "TYPE", help_heading = "Machine")]
    pub(super) dtype: Option<DTypeChoice>,
    /// Keep the UNet in q8_0 or q4_0 [default: as the file holds it]
    #[arg(long, value_name = "KIND", help_heading = "Machine")]
    pub(super) quantize: Option<Quantisation>,
    /// A VAE to use instead of the model's own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Machine")]
    pub(super) vae: Option<PathBuf>,
    /// Worker threads on the CPU [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(super) threads: Option<usize>,
    /// Keep one network in memory at a time: the same pixels with less memory, slower
    #[arg(long, help_heading = "Machine")]
    pub(super) low_memory: bool,
    /// cost (model, LoRAs, size and prompt change as seldom as they can) or file
    #[arg(long, value_enum, value_name = "ORDER", default_value_t, help_heading = "Output")]
    pub(super) order: Order,
}

impl ListArgs {
    /// The file of jobs. It is missing only where a verb stands in its place.
    pub(super) fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("-"))
    }

    /// The values that flags give to what lines leave open.
    pub(super) fn values(&self) -> Map<String, Value> {
        let words = [
            ("model", self.model.clone().filter(|name| !name.is_empty())),
            ("vae", self.vae.as_ref().map(|path| path.to_string_lossy().into_owned())),
            ("dtype", self.dtype.map(|dtype| dtype.to_string())),
            ("quantize", self.quantize.map(|kind| kind.to_string())),
            ("device", self.device.map(|device| device.to_string())),
        ];
        let words =
            words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), word?.into())));
        let mut values: Map<String, Value> =
            self.request.values().clone().into_iter().chain(words).collect();
        values.remove("seed");
        values
    }

    /// How jobs without a seed get one.
    pub(super) fn seeding(&self) -> Result<Seeding, Error> {
        let seed = match self.request.values().get("seed") {
            None => 0,
            Some(seed) => seed.as_u64().ok_or_else(|| {
                let why = "a batch needs a seed that stays the same, so that it can go on later";
                Error::bad_request("seed", "random", why)
            })?,
        };
        Ok(Seeding { seed, seeds: self.seeds })
    }
}
