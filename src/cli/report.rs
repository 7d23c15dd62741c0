//! Errors with their causes and a hint, on stderr.

use super::style::{message, say, value};
use super::{hints, interrupt};
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

/// Whether the error is only that the reader of stdout has left.
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
        Error::NotFound { what, name, hint, how } => {
            let parted = hint.strip_prefix("; ").map(str::to_owned);
            let tail = if parted.is_some() { "" } else { hint.as_str() };
            let how = how.as_ref().map(hints::worded);
            let advice: Vec<String> = parted.into_iter().chain(how).collect();
            let advice = Some(advice.join("; ")).filter(|advice| !advice.is_empty());
            (format!("no {what} named `{}`{tail}", value(name)), advice)
        }
        other => {
            let hint = other.hint().map(|hint| hints::worded(&hint));
            (other.message(), hint.or_else(|| usual(other, flags)))
        }
    }
}

/// The hint for a kind of error that carries none.
fn usual(error: &Error, flags: &[String]) -> Option<String> {
    match error {
        Error::BadRequest { field, .. } => {
            let flag = flag(field).filter(|flag| flags.iter().any(|known| known == flag));
            flag.map(|flag| format!("set it with --{flag}"))
        }
        Error::TensorMissing { .. } | Error::WrongFamily { .. } => {
            Some("`colora model inspect MODEL` shows what a file holds".to_owned())
        }
        _ => None,
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
        let missing = |hint: &str| {
            let (name, hint) = ("x".into(), hint.into());
            Error::NotFound { what: "model", name, hint, how: None }
        };
        assert_eq!(
            split(&missing("; try y"), &[]),
            ("no model named `x`".into(), Some("try y".into()))
        );
        assert_eq!(split(&missing(" there"), &[]), ("no model named `x` there".into(), None));
        let brought = missing("; try y").with_hint(crate::hint::Hint::BuildWith("hub"));
        let hint = "try y; build colora with `--features hub`";
        assert_eq!(split(&brought, &[]).1.as_deref(), Some(hint));
        let hint = |flags: &[String]| split(&Error::bad_request("guidance_scale", 0, "w"), flags).1;
        assert_eq!(hint(&["guidance".into()]).unwrap(), "set it with --guidance");
        assert_eq!(hint(&["steps".into()]), None, "that command has no such flag");
        let inside = Error::unsupported("`act_fn` gelu", "use silu").at("unet/config.json");
        let (wrong, hint) = split(&inside, &[]);
        assert_eq!(wrong, "unet/config.json: `act_fn` gelu is not supported here");
        assert_eq!(hint.as_deref(), Some("use silu"));
    }
}
