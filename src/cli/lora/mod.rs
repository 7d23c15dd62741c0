//! Floor 7. `colora lora`: what there is, and putting new ones in place.

mod add;
mod against;
mod check;
mod inspect;
mod list;

use super::style::Talk;
use anyhow::Result;
use clap::Subcommand;

/// What `colora lora` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora list
  colora lora inspect anime
  colora lora check anime --model dreamshaper
  colora lora add ink.safetensors --trigger \"ink style\" --weight 0.8")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the LoRAs that --lora can name
    List(list::Args),
    /// Show what a LoRA is and what it changes
    Inspect(inspect::Args),
    /// Check that a LoRA is whole and fits a model
    Check(check::Args),
    /// Copy a LoRA into a folder of LoRAs and describe it
    Add(add::Args),
}

/// Runs `colora lora`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::List(args) => list::run(&args, talk),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Add(args) => add::run(args, talk),
    }
}
