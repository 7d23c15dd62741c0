//! The number of worker threads.

use super::style::Talk;
use crate::error::Error;
use anyhow::{Context, Result};
use std::process::Command;

/// Starts the worker threads.
///
/// # Errors
/// [`Error::Threads`] when the system gives no more; later that would be a panic.
fn start() -> Result<(), Error> {
    let started = rayon::ThreadPoolBuilder::new().build_global();
    // Without a cause they run already.
    match started.as_ref().err().and_then(std::error::Error::source) {
        Some(cause) => {
            let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let kind = kind.unwrap_or(std::io::ErrorKind::Other);
            Err(Error::Threads { source: std::io::Error::new(kind, cause.to_string()) })
        }
        None => Ok(()),
    }
}

/// The variables that the tensor libraries read, once, when their pools are made.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];
/// Threads a core at most: more only wait for each other.
const A_CORE: usize = 4;
/// So many may run wherever it is, to try what they change.
const ALWAYS: usize = 16;

/// The most threads that are started.
fn most() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (A_CORE * cores).max(ALWAYS)
}

/// Runs with `count` worker threads, or as many as the environment sets; returns when this process does.
///
/// # Errors
/// [`Error::BadRequest`] for none, or when the program cannot start itself; [`Error::Threads`].
pub(super) fn limit(count: Option<usize>, talk: Talk) -> Result<()> {
    bound(count, talk)?;
    Ok(start()?)
}

/// As [`limit`], without starting any.
///
/// Changing one's own environment is not safe in Rust, so the program starts itself anew with the
/// variables set.
///
/// # Errors
/// As [`limit`].
pub(super) fn bound(count: Option<usize>, talk: Talk) -> Result<()> {
    if count == Some(0) {
        return Err(Error::bad_request("threads", 0, "at least 1 is needed").into());
    }
    let set = VARIABLES.map(|name| std::env::var(name).ok()?.parse::<usize>().ok());
    let Some(wanted) = wanted(count, set, most()) else { return Ok(()) };
    if wanted.asked > wanted.count {
        let (asked, count) = (wanted.asked, wanted.count);
        talk.say(&format!(
            "warning: {asked} threads would only wait for each other; {count} are started"
        ));
    }
    let count = wanted.count.to_string();
    let program =
        std::env::current_exe().context("cannot find the program itself for --threads")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    command.envs(VARIABLES.map(|name| (name, &count)));
    restart(&mut command).context("cannot start the program anew for --threads")
}

/// How many threads are asked for and how many there will be, if the variables have to be set for that.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    asked: usize,
    count: usize,
}

/// `count`: of the flag or the settings; `set`: of the variables.
fn wanted(count: Option<usize>, set: [Option<usize>; 2], most: usize) -> Option<Wanted> {
    let asked = match count {
        Some(count) => count,
        None => set.into_iter().flatten().filter(|count| *count > most).max()?,
    };
    let wanted = Wanted { asked, count: asked.min(most) };
    let done = set.iter().all(|set| *set == Some(wanted.count));
    (!done).then_some(wanted)
}

#[cfg(unix)]
fn restart(command: &mut Command) -> std::io::Result<()> {
    // Only returns when it failed.
    Err(std::os::unix::process::CommandExt::exec(command))
}

#[cfg(not(unix))]
#[allow(clippy::exit)] // the child has printed everything
fn restart(command: &mut Command) -> std::io::Result<()> {
    let status = command.status()?;
    std::process::exit(status.code().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand threads took forty seconds for a step of a sixth of one, and a variable had no bound at all.
    #[test]
    fn nobody_starts_more_threads_than_wait() {
        let some = |asked, count| Some(Wanted { asked, count });
        assert_eq!(wanted(None, [None, None], 16), None);
        assert_eq!(wanted(None, [Some(5), Some(16)], 16), None);
        assert_eq!(wanted(None, [Some(99_999), None], 16), some(99_999, 16));
        assert_eq!(wanted(None, [None, Some(17)], 16), some(17, 16));
        assert_eq!(wanted(Some(3), [None, Some(3)], 16), some(3, 3));
        assert_eq!(wanted(Some(3), [Some(3), Some(3)], 16), None);
        assert_eq!(wanted(Some(1000), [Some(3), Some(3)], 16), some(1000, 16));
        assert_eq!(wanted(Some(1000), [Some(16), Some(16)], 16), None);
        assert!(most() >= 16);
    }
}
