//! `colora sheet`: the pictures of a folder as one picture and as a page.

use super::as_command::as_command;
use super::style::{Talk, result_json, result_path};
use crate::app::SCHEMA;
use crate::error::Error;
use crate::sweep::{Gallery, GridOptions};
use anyhow::Result;
use clap::ValueHint;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  colora batch prompts.txt && colora sheet prompts-pictures
  colora sheet pictures --columns 6 --cell 192        sheet.png and sheet.html in the folder
  colora sheet sweep-a-fox --inline                   a sweep's page as one file that can be sent

Pictures of a batch come in the order of its list, others by name. A folder of a sweep keeps its axes.";

/// What `colora sheet` accepts.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The folder of the pictures
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: PathBuf,
    /// Pictures beside each other [default: about as many as below each other]
    #[arg(long, value_name = "N")]
    columns: Option<usize>,
    /// Longest side of a picture on the sheet, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256)]
    cell: usize,
    /// Write the sheet as WebP, too
    #[arg(long)]
    webp: bool,
    /// Put the pictures into the page, so that it can be sent as one file
    #[arg(long)]
    inline: bool,
    /// One JSON object a file on stdout
    #[arg(long)]
    json: bool,
}

/// Runs `colora sheet`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    for (field, number) in [("columns", args.columns), ("cell", Some(args.cell))] {
        if number == Some(0) {
            return Err(Error::bad_request(field, 0, "expected at least 1").into());
        }
    }
    let folder = &args.folder;
    let (gallery, name, cell) = match Gallery::read(folder)? {
        Some(sweep) => (sweep, "sweep", None),
        None => (Gallery::of_folder(folder, "sheet", &as_command)?, "sheet", Some(args.cell)),
    };
    let missing = gallery.cells.iter().filter(|cell| cell.error.is_some()).count();
    if missing > 0 {
        talk.say(&format!("warning: {missing} pictures cannot be read or were not made"));
    }
    let options = GridOptions { webp: args.webp, columns: args.columns, cell, parameters: None };
    // The grid of a sweep has its settings in it and stays.
    if name == "sheet" || args.webp {
        for written in gallery.draw(folder, name, &options)? {
            print(args, "grid", &written.path)?;
        }
    }
    print(args, "page", &gallery.write_page(folder, name, args.inline)?)
}

fn print(args: &Args, event: &str, path: &Path) -> Result<()> {
    if args.json {
        let line =
            serde_json::json!({"schema": SCHEMA, "event": event, "path": path.to_string_lossy()});
        return result_json(&line.to_string());
    }
    result_path(path)
}
