//! `colora completions` and `colora man`: made from the same flags as the help.

use super::style::{result_bytes, result_path};
use super::tree;
use crate::atomic_file::make_folder;
use crate::error::Error;
use anyhow::Result;
use clap::ValueHint;
use clap_complete::Shell;
use std::path::PathBuf;

/// What `colora completions` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora completions bash > ~/.local/share/bash-completion/completions/colora
  colora completions zsh > ~/.zfunc/_colora
  colora completions fish > ~/.config/fish/completions/colora.fish")]
pub(super) struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// What `colora man` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: colora man | man -l -")]
pub(super) struct ManArgs {
    /// Write a page for each command into this folder instead
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// Runs `colora completions`.
pub(super) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut tree(), "colora", &mut script);
    result_bytes(&script)
}

/// Runs `colora man`.
pub(super) fn man(args: &ManArgs) -> Result<()> {
    let Some(folder) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(tree()).render(&mut page)?;
        return result_bytes(&page);
    };
    make_folder(folder)?;
    clap_mangen::generate_to(tree(), folder).map_err(|e| Error::write(folder, e))?;
    result_path(folder)
}
