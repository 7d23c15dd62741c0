//! Floor 7. `colora lora`: adapters by themselves; a file a verb.

mod checkpoint;
mod convert;
mod extract;
mod merge;
mod open;
mod resize;

use super::style::Talk;
use anyhow::Result;
use clap::Subcommand;

/// What `colora lora` accepts.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a LoRA under the names of other tools
    Convert(convert::Args),
    /// Make one LoRA, or a whole model, of several LoRAs
    Merge(merge::Args),
    /// Make a LoRA of the difference of two models
    Extract(extract::Args),
    /// Make a LoRA smaller
    Resize(resize::Args),
}

/// Runs `colora lora`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::Convert(args) => convert::run(&args, talk),
        Verb::Merge(args) => merge::run(&args, talk),
        Verb::Extract(args) => extract::run(&args, talk),
        Verb::Resize(args) => resize::run(&args, talk),
    }
}
