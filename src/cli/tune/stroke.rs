//! A line on a terminal that shows how far pictures are.

use crate::cli::style::Talk;
use crate::tune::Stroke;
use std::io::{IsTerminal, Write};

/// The line; nothing where there is no terminal.
#[derive(Debug)]
pub(super) struct StrokeLine {
    shown: bool,
    on: bool,
}

impl StrokeLine {
    pub(super) fn new(talk: Talk) -> Self {
        Self { shown: false, on: !talk.quiet && std::io::stderr().is_terminal() }
    }

    /// Shows how far the pictures are.
    pub(super) fn show(&mut self, stroke: Stroke) {
        let Stroke { picture, of, step, steps } = stroke;
        if self.on {
            self.shown = true;
            // A line that cannot be written is no failure of the search.
            let _ =
                write!(std::io::stderr(), "\r\x1b[Kdrawing {picture}/{of}  step {step}/{steps}");
        }
    }

    /// Removes it.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
