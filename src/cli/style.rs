//! How the program prints: results on stdout, everything else on stderr.

use super::hints;
use crate::error::Error;
pub(crate) use crate::plain::bytes;
pub(crate) use crate::plain::{block, json as plain_json, message, value};
use anyhow::Result;
use clap::{ArgAction, Args};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// How much is printed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Talk {
    /// Say errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Say more (-vv: everything)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    pub(crate) verbose: u8,
}

impl Talk {
    /// Starts logging to stderr; `COLORA_LOG` overrules the flags.
    pub(crate) fn start_log(self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "warn,colora=info",
            _ => "info,colora=debug",
        };
        let filter = tracing_subscriber::EnvFilter::try_from_env("COLORA_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        // The log's own complaint about a stream that cannot be written would be a panic.
        let log = log.log_internal_errors(false);
        // What messages name is of files: it must not pass for a line of ours.
        let log = log.fmt_fields(debug_fn(field).delimited(" "));
        // Fails only when a log runs already, which is as good.
        let _ = log.with_ansi(colour).with_target(false).without_time().try_init();
    }

    /// A remark, made safe as [`message`] does, unless `--quiet`.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            say(&message(text));
        }
    }
}

impl Talk {
    /// A warning of an error that ends nothing, with its cause.
    pub(crate) fn warn_of(self, error: &Error) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        self.say(&format!("warning: {}{}", hints::of_error(error), cause.unwrap_or_default()));
    }
}

/// A field of a log's line.
fn field(to: &mut Writer<'_>, field: &Field, content: &dyn std::fmt::Debug) -> std::fmt::Result {
    let content = format!("{content:?}");
    match field.name() {
        "message" => write!(to, "{}", value(&content)),
        name => write!(to, "{name}={}", value(&content)),
    }
}

/// Prints a line on stderr; a failure is ignored.
pub(crate) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A line of results.
///
/// # Errors
/// When the reader of stdout has left, or it cannot be written.
pub(crate) fn result_line(line: &str) -> Result<()> {
    result_bytes(format!("{line}\n").as_bytes())
}

/// A path as a line of results, byte by byte.
///
/// # Errors
/// As [`result_line`].
pub(crate) fn result_path(path: &Path) -> Result<()> {
    let line = [path.as_os_str().as_encoded_bytes(), b"\n"].concat();
    result_bytes(&line)
}

/// A JSON object as a line of results.
///
/// # Errors
/// As [`result_line`].
pub(crate) fn result_json(json: &str) -> Result<()> {
    result_line(&plain_json(json))
}

/// Results as they are.
///
/// # Errors
/// As [`result_line`].
pub(crate) fn result_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => e.into(),
        _ => Error::write("stdout", e).into(),
    })
}

/// Whether stdout is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `text` as a [`value`], cut where it is long.
pub(crate) fn excerpt(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", value(&text[..end])),
        None => value(text).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_safe_from_file_contents() {
        assert_eq!(message("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\n  c\\u{9b}");
    }
}
