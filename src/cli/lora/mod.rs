//! Floor 7. `colora lora`: what there is, and putting new ones in place.

mod add;
mod list;

use super::style::Talk;
use anyhow::Result;
use clap::Subcommand;

/// What `colora lora` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora list
  colora lora add ink.safetensors --trigger \"ink style\" --weight 0.8")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the LoRAs that --lora can name
    List(list::Args),
    /// Copy a LoRA into a folder of LoRAs and describe it
    Add(add::Args),
}

/// Runs `colora lora`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::List(args) => list::run(&args, talk),
        Verb::Add(args) => add::run(args, talk),
    }
}
