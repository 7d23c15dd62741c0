//! Floor 7. The number of worker threads.

use crate::error::Error;
use anyhow::{Context, Result};
use std::process::Command;

/// Starts the worker threads.
///
/// # Errors
/// [`Error::Threads`] when the system gives no more; later that would be a panic.
pub(super) fn start() -> Result<(), Error> {
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
/// More threads than any machine has cores.
const MOST: usize = 4096;

/// Runs with `count` worker threads; returns when this process does.
///
/// Changing one's own environment is not safe in Rust, so the program starts itself anew with the
/// variables set.
///
/// # Errors
/// [`Error::BadRequest`] for a count that cannot be, or when the program cannot start itself.
pub(super) fn limit(count: Option<usize>) -> Result<()> {
    let Some(count) = count else { return Ok(start()?) };
    if !(1..=MOST).contains(&count) {
        let why = format!("expected 1 to {MOST}");
        return Err(Error::bad_request("threads", count, why).into());
    }
    let count = count.to_string();
    if VARIABLES.iter().all(|name| std::env::var(name).is_ok_and(|value| value == count)) {
        return Ok(start()?);
    }
    let program =
        std::env::current_exe().context("cannot find the program itself for --threads")?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    command.envs(VARIABLES.map(|name| (name, &count)));
    restart(&mut command).context("cannot start the program anew for --threads")
}

#[cfg(unix)]
fn restart(command: &mut Command) -> std::io::Result<()> {
    // Only returns when it failed.
    Err(std::os::unix::process::CommandExt::exec(command))
}

#[cfg(not(unix))]
#[allow(clippy::exit)] // the child has said all there is to say
fn restart(command: &mut Command) -> std::io::Result<()> {
    let status = command.status()?;
    std::process::exit(status.code().unwrap_or(1))
}
