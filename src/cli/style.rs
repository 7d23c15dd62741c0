//! How the program speaks: results on stdout, all talk on stderr, errors with their
//! causes and a hint.

use crate::error::{At, Error, Fault};
use crate::plain;
pub(crate) use crate::plain::bytes;
pub(crate) use crate::plain::{block, json as plain_json, message, value};
use anyhow::Result;
use clap::{ArgAction, Args};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// How much is said.
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
        self.say(&format!("warning: {error}{}", cause.unwrap_or_default()));
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

/// A line on stderr; what cannot be said is not worth failing for.
pub(crate) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A line of results.
///
/// # Errors
/// When nobody reads stdout any more, or it cannot be written.
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

/// Prints an error with causes and hint, and gives the exit code.
///
/// `flags`: the long flags of the command that ran, none other is advised.
pub(crate) fn report(error: &anyhow::Error, flags: &[String]) -> ExitCode {
    if reader_left(error) {
        return ExitCode::SUCCESS;
    }
    let ours = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let code = ours.map_or(Fault::Internal, Error::fault).exit_code();
    if let Some(Error::Cancelled) = ours {
        say("cancelled");
        return super::interrupt::end();
    }
    let (red, bold, plain) = ("\x1b[1;31m", "\x1b[1m", "\x1b[0m");
    let mut causes = error.chain().map(|cause| match cause.downcast_ref::<Error>() {
        Some(error) => split(error, flags).0,
        None => cause.to_string(),
    });
    let first = causes.next().unwrap_or_default();
    say(&format!("{red}error:{plain} {}", message(&first)));
    for cause in causes {
        say(&format!("{bold}caused by:{plain} {}", message(&cause)));
    }
    if let Some(hint) = ours.and_then(|error| split(error, flags).1) {
        say(&format!("{bold}hint:{plain} {}", message(&hint)));
    }
    ExitCode::from(code)
}

/// Whether the error is only that nobody reads stdout any more.
fn reader_left(error: &anyhow::Error) -> bool {
    // An error of ours is about a file, whatever its source.
    let ours = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    ours.is_none() && io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// What is wrong, and what to do about it.
fn split(error: &Error, flags: &[String]) -> (String, Option<String>) {
    match error {
        Error::At(At { path, error }) => {
            let (wrong, hint) = split(error, flags);
            (format!("{}: {wrong}", plain::path(path)), hint)
        }
        Error::NotFound { what, name, hint } => {
            let parted = hint.strip_prefix("; ");
            let tail = if parted.is_some() { "" } else { hint.as_str() };
            (format!("no {what} named `{}`{tail}", value(name)), parted.map(str::to_owned))
        }
        Error::Unsupported { what, how } => {
            (format!("{what} is not supported here"), Some(how.clone()))
        }
        Error::Exists { path } => {
            let hint = "choose another name or pass --force".to_owned();
            (format!("{} exists already", plain::path(path)), Some(hint))
        }
        Error::BadRequest { field, value, why } => {
            let flag = flag(field).filter(|flag| flags.iter().any(|known| known == flag));
            (
                format!("{field} = {}: {why}", plain::value(value)),
                flag.map(|flag| format!("set it with --{flag}")),
            )
        }
        Error::Memory { .. } | Error::NoRoom { .. } => {
            let text = error.to_string();
            match text.split_once("; ") {
                Some((what, how)) => (what.to_owned(), Some(how.to_owned())),
                None => (text, None),
            }
        }
        Error::TensorMissing { .. } | Error::WrongFamily { .. } => {
            let hint = "`colora model inspect MODEL` shows what a file holds".to_owned();
            (error.to_string(), Some(hint))
        }
        other => (other.to_string(), None),
    }
}

/// The flag that sets a field of a request.
fn flag(field: &str) -> Option<&'static str> {
    Some(match field {
        "guidance_scale" => "guidance",
        "reuse" => "reuse",
        "merge_tokens" => "merge-tokens",
        "clip_skip" => "clip-skip",
        "width" => "width",
        "height" => "height",
        "steps" => "steps",
        "count" => "count",
        "weight" => "weight",
        "threshold" => "threshold",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_safe_from_file_contents() {
        assert_eq!(message("a\x1b[2Jb\nc\u{9b}"), "a\\u{1b}[2Jb\n  c\\u{9b}");
    }

    #[test]
    fn a_closed_pipe_is_no_error_but_a_file_is() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_left(&pipe().into()));
        assert!(!reader_left(&Error::io("x", pipe()).into()));
    }

    #[test]
    fn hints_stand_apart() {
        let missing =
            |hint: &str| Error::NotFound { what: "model", name: "x".into(), hint: hint.into() };
        assert_eq!(
            split(&missing("; try y"), &[]),
            ("no model named `x`".into(), Some("try y".into()))
        );
        assert_eq!(split(&missing(" there"), &[]), ("no model named `x` there".into(), None));
        let hint = |flags: &[String]| split(&Error::bad_request("guidance_scale", 0, "w"), flags).1;
        assert_eq!(hint(&["guidance".into()]).unwrap(), "set it with --guidance");
        assert_eq!(hint(&["steps".into()]), None, "that command has no such flag");
        let inside = Error::unsupported("`act_fn` gelu", "use silu").at("unet/config.json");
        let (wrong, hint) = split(&inside, &[]);
        assert_eq!(wrong, "unet/config.json: `act_fn` gelu is not supported here");
        assert_eq!(hint.as_deref(), Some("use silu"));
    }
}
