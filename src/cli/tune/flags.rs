//! The flags of a request, in which LoRAs may have ranges.

use crate::cli::flags::lossy;
use crate::cli::request_flags::RequestFlags;
use clap::builder::TypedValueParser;
use clap::{ArgMatches, Command};
use serde_json::{Map, Value};

/// The argument of LoRAs, as the table of fields names it.
const LORAS: &str = "loras";
/// What `--lora` takes here.
const HELP: &str = "A LoRA with ranges in the place of numbers: NAME:0..1, NAME:unet=0..1,text=0.5, \
                    NAME:0.8:mid=0..1, NAME:1:stop=0.3..1; repeat for more";

/// The fields of a request that flags set; LoRAs stand apart, as they were written.
#[derive(Debug, Clone, Default)]
pub(super) struct TuneFlags {
    values: Map<String, Value>,
    loras: Vec<String>,
}

impl TuneFlags {
    /// Key and value of each field that a flag sets, but for LoRAs.
    pub(super) fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// Whether a flag sets the field `key`.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The LoRAs as they were written.
    pub(super) fn loras(&self) -> &[String] {
        &self.loras
    }
}

impl clap::Args for TuneFlags {
    fn augment_args(command: Command) -> Command {
        let written = lossy().map(Value::String);
        RequestFlags::augment_args(command)
            .mut_arg(LORAS, |arg| arg.value_parser(written).required(true).help(HELP))
            // One picture for each prompt and seed.
            .mut_arg("count", |arg| arg.hide(true))
            .mut_arg("preview", |arg| arg.hide(true))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for TuneFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut values = RequestFlags::from_arg_matches(matches)?.values().clone();
        let loras = values.remove(LORAS);
        let loras = loras.as_ref().and_then(Value::as_array).into_iter().flatten();
        self.loras = loras.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        self.values = values;
        Ok(())
    }
}
