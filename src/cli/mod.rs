//! The command line: one file a sub-command, [`run`] for the program.
//!
//! Floor 7.

mod as_command;
mod batch;
mod bench;
mod completions;
mod config;
mod doctor;
mod dry_run;
mod embedding;
mod flags;
mod from_picture;
mod generate;
mod hints;
mod inspect;
mod interrupt;
mod last_resort;
mod lora;
mod machine_flags;
mod model;
mod origin;
mod output;
mod progress;
mod report;
mod request_flags;
mod samplers;
mod sheet;
mod style;
mod sweep;
mod threads;
mod tune;
mod verb;
mod verify;
mod warnings;

pub use last_resort::LastResort;

use crate::app::Setup;
use crate::error::Error;
use anyhow::Result;
use clap::error::ContextValue;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  colora \"a red fox in the snow\"
  colora -m dreamshaper -s 25 -n 4 -o \"fox-{seed}.png\" \"a red fox\"
  colora --from fox.png --seed random

`colora PROMPT` is short for `colora generate PROMPT`; its flags: colora generate --help";

const CODES: &str = "\
Exit codes:
  0 ok   1 internal   2 usage   3 bad input file   4 not found   5 unsupported here
  6 resources: memory, disk, what cannot be written
  7 some jobs of a batch failed, some pictures are not equal   130 interrupted

Environment:
  COLORA_MODEL, COLORA_MODELS (folders), COLORA_LORA_PATH (folders), COLORA_PROMPTS (folders),
  COLORA_DEVICE, COLORA_DTYPE, COLORA_LOG (log filter), NO_COLOR, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE

Files:
  ./colora.toml and the user's own; see `colora config`. Both are trusted: in a folder of someone
  else's look into ./colora.toml first. What a picture names is not: see --trust-picture";

#[derive(Debug, Parser)]
#[command(
    name = "colora",
    version,
    about = "Makes pictures from words with Stable Diffusion models",
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{CODES}"),
    subcommand_required = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    talk: style::Talk,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make pictures (the default)
    #[command(visible_alias = "g")]
    Generate(Box<flags::Flags>),
    /// Make the pictures of a file of prompts; go on where a run before ended
    Batch(Box<batch::Args>),
    /// Make pictures that differ along axes, side by side (an X/Y/Z plot)
    Sweep(Box<sweep::Args>),
    /// Put the pictures of a folder on one sheet and on a page to look through
    Sheet(sheet::Args),
    /// Find the weights of LoRAs by choosing between two pictures
    Tune(Box<tune::Args>),
    /// List, look into and download models
    Model(model::Args),
    /// List, look into, check, convert, merge and make LoRAs
    Lora(lora::Args),
    /// List, look into and add textual inversions
    Embedding(embedding::Args),
    /// Show the settings stored in a picture
    Inspect(inspect::Args),
    /// Draw pictures again and compare
    Verify(verify::Args),
    /// List samplers and schedules
    Samplers(samplers::Args),
    /// Show or write settings files
    Config(config::Args),
    /// Measure this machine and a model on it
    Bench(bench::Args),
    /// Check devices, folders and the built-in model
    Doctor(doctor::Args),
    /// Print completions for a shell
    Completions(completions::Args),
    /// Print the manual page
    Man(completions::ManArgs),
}

/// Runs the program on the process's arguments.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.len() < 2 {
        style::say(&format!(
            "colora makes pictures from words.\n\n{EXAMPLES}\nAll commands: colora --help"
        ));
        return ExitCode::from(2);
    }
    let arguments = match verb::complete(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return report::report(&error.into(), &[]),
    };
    let flags = flags_of(&arguments);
    match Cli::try_parse_from(arguments) {
        Ok(cli) => {
            cli.talk.start_log();
            dispatch(cli)
                .map_or_else(|error| report::report(&error, &flags), |()| ExitCode::SUCCESS)
        }
        Err(usage) => {
            let usage = plainly(usage);
            let printed = usage.print();
            // Help goes to stdout, whose reader may have left.
            let left = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
            if let Err(error) = printed
                && usage.exit_code() == 0
                && !left(&error)
            {
                return report::report(&Error::write("stdout", error).into(), &flags);
            }
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    }
}

/// A usage error whose values, which are the user's or a script's, are shown as values.
fn plainly(mut usage: clap::Error) -> clap::Error {
    let word = |text: &String| style::value(text).into_owned();
    let plain = |value: &ContextValue| match value {
        ContextValue::String(text) => Some(ContextValue::String(word(text))),
        ContextValue::Strings(texts) => {
            Some(ContextValue::Strings(texts.iter().map(word).collect()))
        }
        _ => None,
    };
    let shown = |(kind, value)| Some((kind, plain(value)?));
    let context: Vec<_> = usage.context().filter_map(shown).collect();
    for (kind, value) in context {
        usage.insert(kind, value);
    }
    usage
}

/// The long flags of the command that `arguments` call.
fn flags_of(arguments: &[OsString]) -> Vec<String> {
    let tree = tree();
    let mut command = &tree;
    for word in arguments.iter().skip(1).filter_map(|word| word.to_str()) {
        match command.find_subcommand(word) {
            Some(below) => command = below,
            // What follows the verb belongs to it.
            None if !word.starts_with('-') => break,
            None => {}
        }
    }
    command.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect()
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Generate(flags) => generate::run(&flags, cli.talk),
        Command::Batch(args) => batch::run(&args, cli.talk),
        Command::Sweep(args) => sweep::run(&args, cli.talk),
        Command::Sheet(args) => sheet::run(&args, cli.talk),
        Command::Tune(args) => tune::run(&args, cli.talk),
        Command::Model(args) => {
            threads::limit(None, cli.talk)?;
            model::run(args, cli.talk)
        }
        Command::Lora(args) => {
            threads::limit(None, cli.talk)?;
            lora::run(args, cli.talk)
        }
        Command::Embedding(args) => embedding::run(args, cli.talk),
        Command::Inspect(args) => inspect::run(&args, cli.talk),
        Command::Verify(args) => verify::run(&args, cli.talk),
        Command::Samplers(args) => samplers::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Bench(args) => bench::run(&args, cli.talk),
        Command::Doctor(args) => {
            threads::bound(None, cli.talk)?;
            doctor::run(&args)
        }
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => completions::man(&args),
    }
}

/// The command tree, for completions and manual pages.
fn tree() -> clap::Command {
    Cli::command()
}

fn env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Files, environment and the store that they lead to; every verb reads them once.
fn setup() -> Result<Setup, Error> {
    Setup::load(Path::new("."), &env)
}
