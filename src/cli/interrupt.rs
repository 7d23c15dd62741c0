//! Floor 7. Ctrl-C and its kin: the first stops after the current step, the second at once.

use super::style::say;
use crate::cancel::Cancel;
use crate::error::Fault;
use crate::whole;
use anyhow::{Context, Result};
use std::process::ExitCode;

/// Makes Ctrl-C, and on unix SIGTERM and SIGHUP, set `cancel`.
///
/// # Errors
/// When the system refuses the handler.
pub(super) fn install(cancel: &Cancel) -> Result<()> {
    let cancel = cancel.clone();
    let handler = move || {
        if cancel.is_cancelled() {
            abort();
        }
        cancel.cancel();
        say("stopping after this step; Ctrl-C again stops at once");
    };
    let ignored = signals::ignored();
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")?;
    signals::forward(&ignored);
    Ok(())
}

/// The end of a cancelled program: by the signal that asked for it, so that a shell's loop ends too.
pub(super) fn end() -> ExitCode {
    signals::die();
    ExitCode::from(Fault::Cancelled.exit_code())
}

#[allow(clippy::exit)] // the user asked twice; the main thread is deep in a network
fn abort() {
    whole::abandon();
    signals::die();
    std::process::exit(i32::from(Fault::Cancelled.exit_code()));
}

/// What `ctrlc` does not do: other signals, those that are ignored, and dying by one.
#[cfg(unix)]
#[allow(unsafe_code)]
mod signals {
    use libc::{SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int};
    use std::sync::atomic::{AtomicI32, Ordering};

    /// The signal that came last; 0 for none.
    static LAST: AtomicI32 = AtomicI32::new(0);

    /// Notes the signal and passes it on as the one that `ctrlc` waits for.
    extern "C" fn note(signal: c_int) {
        LAST.store(signal, Ordering::Relaxed);
        // SAFETY: `raise` may be called in a handler.
        unsafe { libc::raise(SIGINT) };
    }

    /// Those of the signals that whoever started the program wants to be ignored, as `nohup` does.
    pub(super) fn ignored() -> Vec<c_int> {
        let is_ignored = |signal: &c_int| {
            // SAFETY: a null pointer changes nothing; the other is a valid place for the answer.
            unsafe {
                let mut now: libc::sigaction = std::mem::zeroed();
                libc::sigaction(*signal, std::ptr::null(), &raw mut now) == 0
                    && now.sa_sigaction == SIG_IGN
            }
        };
        [SIGTERM, SIGHUP].into_iter().filter(is_ignored).collect()
    }

    /// Makes SIGTERM and SIGHUP do what SIGINT does, but for the `ignored` ones.
    pub(super) fn forward(ignored: &[c_int]) {
        let handler = note as extern "C" fn(c_int) as libc::sighandler_t;
        for signal in [SIGTERM, SIGHUP].into_iter().filter(|signal| !ignored.contains(signal)) {
            // SAFETY: the handler stores a number and raises a signal, nothing else.
            unsafe { libc::signal(signal, handler) };
        }
    }

    /// Dies by the last signal; returns when that one does not kill.
    pub(super) fn die() {
        let signal = match LAST.load(Ordering::Relaxed) {
            0 => SIGINT,
            other => other,
        };
        // SAFETY: the default handler replaces ours, and the signal comes before `raise` returns.
        unsafe {
            libc::signal(signal, SIG_DFL);
            libc::raise(signal);
        }
    }
}

/// Elsewhere `ctrlc` does all that can be done.
#[cfg(not(unix))]
mod signals {
    pub(super) fn ignored() {}
    pub(super) fn forward(_: &()) {}
    pub(super) fn die() {}
}
