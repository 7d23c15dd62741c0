//! Errors with their causes and a hint, on stderr.
//!
//! Floor 7.

use super::interrupt;
use super::style::{message, say, value};
use crate::error::{At, Error, Fault};
use crate::pipeline::fields;
use crate::plain;
use std::io;
use std::process::ExitCode;

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
        return interrupt::end();
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

/// The flag that sets a field of a request, or another value that a verb of ours refuses so.
fn flag(field: &'static str) -> Option<&'static str> {
    let row = fields::field(field).and_then(|field| field.flag);
    row.map(|flag| flag.long).or(match field {
        "batch_size" => Some("batch-size"),
        "weight" | "threshold" => Some(field),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
