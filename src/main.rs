//! The `colora` binary: parse, run, exit code; nothing else.

use colora::cli::LastResort;
use std::process::ExitCode;

/// The system's, with exit code 6 when it gives nothing more.
#[global_allocator]
static MEMORY: LastResort = LastResort::new();

fn main() -> ExitCode {
    colora::cli::run()
}
