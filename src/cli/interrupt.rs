//! Ctrl-C and its kin: the first stops between two layers or weights, the second at once. SIGTERM and SIGHUP, which
//! are not sent twice, do not wait for work that is blocked.

use super::style::say;
use crate::atomic_file;
use crate::cancel::Cancel;
use crate::error::{Error, Fault};
use anyhow::{Context, Result};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long work may give no sign of life after SIGTERM or SIGHUP.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long work that is busy may not look at the flag, or twice the longest that it did not before.
const BUSY: Duration = Duration::from_secs(60);
/// Time between two looks at the work.
const OFTEN: Duration = Duration::from_millis(250);

/// Makes Ctrl-C, and on unix SIGTERM and SIGHUP, set `cancel`.
///
/// # Errors
/// When the system refuses the handler, or the thread that it needs.
pub(super) fn install(cancel: &Cancel) -> Result<()> {
    let cancel = cancel.clone();
    let handler = move || {
        if cancel.is_set() {
            abort();
        }
        cancel.cancel();
        // This comes before any output, because its reader may have left.
        if signals::is_final() {
            watch(&cancel);
        }
        say("stopping; Ctrl-C again stops at once");
    };
    let ignored = signals::ignored();
    ctrlc::set_handler(handler).map_err(no_handler).context("cannot catch Ctrl-C")?;
    signals::forward(&ignored);
    Ok(())
}

/// What the handler lacks is a thread, more often than not.
fn no_handler(error: ctrlc::Error) -> anyhow::Error {
    match error {
        ctrlc::Error::System(source) => Error::Threads { source }.into(),
        other => other.into(),
    }
}

/// Ends the program when its work stays blocked; a thread of its own waits for that.
fn watch(cancel: &Cancel) {
    let mine = cancel.clone();
    let watcher = std::thread::Builder::new().name("watch".into());
    if watcher.spawn(move || end_when_blocked(&mine)).is_err() {
        // Then this thread gets no second signal.
        end_when_blocked(cancel);
    }
}

fn end_when_blocked(cancel: &Cancel) {
    let (asked, busy) = (Instant::now(), BUSY.max(2 * cancel.longest()));
    let (mut alive, mut used) = (asked, signals::time_used());
    loop {
        std::thread::sleep(OFTEN);
        let now = signals::time_used();
        // Bars and watchers take less than a hundredth of a processor, work most of one.
        if now.saturating_sub(used) > OFTEN / 20 {
            alive = Instant::now();
        }
        used = now;
        let silent = alive.elapsed().min(cancel.unseen());
        if silent >= PATIENCE || cancel.unseen().min(asked.elapsed()) >= busy {
            abort_blocked();
        }
    }
}

/// As [`abort`], when the work may hold what that would wait for.
fn abort_blocked() {
    for _ in 0..4 {
        if atomic_file::abandon_at_once() {
            break;
        }
        std::thread::sleep(OFTEN);
    }
    signals::die();
}

/// The end of a cancelled program: by the signal that asked for it, so that a shell's loop ends too.
pub(super) fn end() -> ExitCode {
    signals::die();
    ExitCode::from(Fault::Cancelled.exit_code())
}

#[allow(clippy::exit)] // the user asked twice; the main thread is deep in a network
fn abort() {
    atomic_file::abandon();
    signals::die();
    std::process::exit(i32::from(Fault::Cancelled.exit_code()));
}

/// What `ctrlc` does not do: other signals, those that are ignored, and dying by one.
#[cfg(unix)]
#[allow(unsafe_code)]
mod signals {
    use libc::{SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGTERM, c_int};
    use std::sync::atomic::{AtomicI32, Ordering};
    use std::time::Duration;

    /// The signal that came last; 0 for none.
    static LAST: AtomicI32 = AtomicI32::new(0);

    /// Notes the signal and passes it on as the one that `ctrlc` waits for.
    extern "C" fn note(signal: c_int) {
        LAST.store(signal, Ordering::Relaxed);
        // SAFETY: `raise` may be called in a handler.
        unsafe { libc::raise(SIGINT) };
    }

    /// The signals that the program was started with as ignored, as by `nohup`.
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

    /// Whether the last signal was one that is not repeated by hand.
    pub(super) fn is_final() -> bool {
        [SIGTERM, SIGHUP].contains(&LAST.load(Ordering::Relaxed))
    }

    /// Time that the processors spent on this program.
    pub(super) fn time_used() -> Duration {
        // SAFETY: all bits zero are such a report, and the place for the answer is valid.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        time(usage.ru_utime) + time(usage.ru_stime)
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
    pub(super) fn is_final() -> bool {
        false
    }
    pub(super) fn time_used() -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that may start no more threads was told that it is an internal error.
    #[test]
    fn no_thread_for_the_handler_is_no_bug() {
        let full = std::io::Error::from(std::io::ErrorKind::WouldBlock);
        let error = no_handler(ctrlc::Error::System(full)).context("cannot catch Ctrl-C");
        let ours = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
        assert_eq!(ours.map(Error::fault), Some(Fault::Resource));
    }

    #[test]
    #[cfg(unix)]
    fn work_is_seen_by_the_time_it_takes() {
        let (before, begin) = (signals::time_used(), Instant::now());
        while begin.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        assert!(signals::time_used().saturating_sub(before) > Duration::from_millis(5));
    }
}
