//! Floor 7. `colora lora`: adapters by themselves; a file a verb.

mod convert;
mod open;

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
}

/// Runs `colora lora`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::Convert(args) => convert::run(&args, talk),
    }
}
