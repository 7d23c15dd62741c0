//! `colora lora`: adapters by themselves; a file a verb.

mod add;
mod check;
mod checkpoint;
mod convert;
mod extract;
mod inspect;
mod list;
mod merge;
mod open;
mod resize;
mod stack;

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
  colora lora add ink.safetensors --trigger \"ink style\" --weight 0.8
  colora lora stack save card -l ink:0.8 -l gold:0.4")]
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
    /// Write a LoRA under the names of other tools
    Convert(convert::Args),
    /// Make one LoRA, or a whole model, of several LoRAs
    Merge(merge::Args),
    /// Make a LoRA of the difference of two models
    Extract(extract::Args),
    /// Make a LoRA smaller
    Resize(resize::Args),
    /// Save, list, show and remove stacks: several LoRAs under one name, for --stack
    Stack(stack::Args),
}

/// Runs `colora lora`.
pub(super) fn run(args: Args, talk: Talk) -> Result<()> {
    match args.verb {
        Verb::List(args) => list::run(&args, talk),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Add(args) => add::run(args, talk),
        Verb::Convert(args) => convert::run(&args, talk),
        Verb::Merge(args) if args.checkpoint => checkpoint::run(&args, talk),
        Verb::Merge(args) => merge::run(&args, talk),
        Verb::Extract(args) => extract::run(&args, talk),
        Verb::Resize(args) => resize::run(&args, talk),
        Verb::Stack(args) => stack::run(&args, talk),
    }
}
