//! `colora lora stack`: several LoRAs under one name.

use super::open;
use crate::app::SCHEMA;
use crate::cli::as_command::stack_flags;
use crate::cli::flags::{lora, lossy};
use crate::cli::setup;
use crate::cli::style::{Talk, result_bytes, result_json, result_line, result_path, value};
use crate::lora::{LoraRef, Method};
use crate::store::{Stack, Store};
use anyhow::Result;
use clap::{Subcommand, ValueHint};
use serde_json::json;
use std::path::PathBuf;

/// What `colora lora stack` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora stack save card -l ink:0.8 -l gold:unet=0.4,text=0.2:steps=0..0.6
  colora lora stack save card -l ink:0.8 -l gold:0.5 --lora-method ties:density=0.3 --force
  colora lora stack list
  colora lora stack show card
  colora --stack card \"a fox\"                  all LoRAs of the stack
  colora --stack card -l fog:0.3 \"a fox\"       and one more

A stack is a file stacks/NAME.toml in a folder of LoRAs. `colora tune` finds weights and saves
them as one.")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Save LoRAs with their weights, blocks, steps and method under a name
    Save(SaveArgs),
    /// List the stacks that --stack can name
    List {
        /// Print one JSON object a stack
        #[arg(long)]
        json: bool,
    },
    /// Print a stack as its file has it
    Show {
        /// A name, or a .toml file
        #[arg(value_name = "NAME", value_parser = lossy())]
        name: String,
        /// Print the flags of `colora generate` that mean the same
        #[arg(long, conflicts_with = "json")]
        flags: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove a stack; its LoRAs stay
    #[command(visible_alias = "remove")]
    Rm {
        /// A name
        #[arg(value_name = "NAME", value_parser = lossy())]
        name: String,
    },
}

/// What `colora lora stack save` accepts.
#[derive(Debug, clap::Args)]
struct SaveArgs {
    /// Its name, with a sub-folder if wanted: card, styles/card
    #[arg(value_name = "NAME", value_parser = lossy())]
    name: String,
    /// A LoRA as --lora of generate takes it; repeat for more
    #[arg(short, long = "lora", value_name = "NAME[:W]", value_parser = lora(), required = true, value_hint = ValueHint::AnyPath)]
    loras: Vec<LoraRef>,
    /// How they are put together: sum, sequential, svd, ties, dare, dare-ties, switch or composite;
    /// with numbers: ties:density=0.3 [default: sum]
    #[arg(long, value_name = "METHOD")]
    lora_method: Option<Method>,
    /// The folder of LoRAs to save it in [default: the first that exists]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    to: Option<PathBuf>,
    /// Overwrite a stack of the same name
    #[arg(long)]
    force: bool,
}

/// Runs `colora lora stack`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let store = setup()?.store;
    match &args.verb {
        Verb::Save(args) => save(args, &store),
        Verb::List { json } => list(&store, *json, talk),
        Verb::Show { name, flags, json } => {
            let stack = store.stack(name)?;
            if *json {
                return print_json(&store, name, &stack);
            }
            if *flags {
                return result_line(&stack_flags(&stack.loras, stack.method()?));
            }
            result_bytes(stack.to_toml()?.as_bytes())
        }
        Verb::Rm { name } => {
            let path = store.remove_stack(name)?;
            talk.say(&format!("removed {}", path.display()));
            Ok(())
        }
    }
}

fn save(args: &SaveArgs, store: &Store) -> Result<()> {
    let cancel = open::cancel()?;
    // Those of the hub are looked for when they are used.
    for lora in args.loras.iter().filter(|lora| !lora.name.starts_with("hub:")) {
        store.lora(&lora.name, &cancel, &|_| ())?;
    }
    let stack = Stack::of(args.loras.clone(), args.lora_method.unwrap_or_default());
    let path = store.save_stack(&args.name, &stack, args.to.as_deref(), args.force)?;
    result_path(&path)
}

/// A stack that cannot be read is no reason to hide the others.
fn list(store: &Store, json: bool, talk: Talk) -> Result<()> {
    let stacks = store.stacks();
    if stacks.is_empty() && !json {
        talk.say("no stacks yet; `colora lora stack save NAME -l LORA:WEIGHT` makes one");
    }
    let width = stacks.iter().map(|(name, _)| value(name).chars().count()).max().unwrap_or(0);
    for (name, path) in &stacks {
        let stack = match Stack::read(path) {
            Ok(stack) => stack,
            Err(error) => {
                talk.warn_of(&error);
                continue;
            }
        };
        if json {
            print_one(name, path, &stack)?;
            continue;
        }
        let words = stack_words(&stack);
        result_line(&format!("{:width$}  {}", value(name), value(&words)))?;
    }
    Ok(())
}

/// The LoRAs of a stack with their weights, and its method unless that is their sum.
fn stack_words(stack: &Stack) -> String {
    let loras: Vec<String> = stack.loras.iter().map(ToString::to_string).collect();
    let method = stack.method.iter().map(|name| format!("({name})"));
    loras.into_iter().chain(method).collect::<Vec<_>>().join("  ")
}

fn print_json(store: &Store, name: &str, stack: &Stack) -> Result<()> {
    print_one(name, &store.stack_path(name)?, stack)
}

fn print_one(name: &str, path: &std::path::Path, stack: &Stack) -> Result<()> {
    let path = path.to_string_lossy();
    let value =
        json!({ "schema": SCHEMA, "event": "stack", "name": name, "path": path, "stack": stack });
    result_json(&value.to_string())
}
