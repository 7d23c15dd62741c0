//! The sampling steps at which an adapter works.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const WHY: &str = "expected A..B: fractions of the run (0..0.6) or steps counted from 0 (5..15); \
     either end may be left out (..0.5, 10..)";

/// The steps `start ≤ step < stop` of a run, as fractions of it or counted from 0.
///
/// Written `0..0.6` or `5..15`. The ends are fractions when one has a decimal point or when both are
/// given and at most 1 (`0..1`: the whole run); an open end is the run's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StepWindow(Ends);

/// The ends of a window, which is never empty: start < stop.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ends {
    /// Fractions of the run, 0 to 1.
    Fractions { start: f64, stop: f64 },
    /// Steps counted from 0; `None` = to the end.
    Steps { start: usize, stop: Option<usize> },
}

impl StepWindow {
    /// The window from `start` to before `stop`, both fractions of the run.
    ///
    /// # Errors
    /// [`Error::BadRequest`] unless 0 ≤ start < stop ≤ 1.
    pub fn fractions(start: f64, stop: f64) -> Result<Self> {
        let shown = || format!("{start}..{stop}");
        if !(0.0..=1.0).contains(&start) || !(0.0..=1.0).contains(&stop) {
            let why = "expected fractions of the run from 0 to 1; steps are whole numbers (5..15)";
            return Err(Error::bad_request("steps", shown(), why));
        }
        if start < stop { Ok(Self(Ends::Fractions { start, stop })) } else { Err(empty(shown())) }
    }

    /// The window from step `start` to before step `stop`, counted from 0; `None` = to the end.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when no step can be between them.
    pub fn steps(start: usize, stop: Option<usize>) -> Result<Self> {
        match stop {
            Some(stop) if stop <= start => Err(empty(format!("{start}..{stop}"))),
            _ => Ok(Self(Ends::Steps { start, stop })),
        }
    }

    /// A window from ends as they are written; an empty one is open.
    pub(super) fn between(start: &str, stop: &str) -> Result<Self> {
        let (start, stop) = (start.trim(), stop.trim());
        let shown = || format!("{start}..{stop}");
        let bad = || Error::bad_request("steps", shown(), WHY);
        let both = !start.is_empty() && !stop.is_empty();
        if !both && start.is_empty() && stop.is_empty() {
            return Err(bad());
        }
        let number = |text: &str, open: f64| {
            if text.is_empty() { Ok(open) } else { text.parse::<f64>().map_err(|_| bad()) }
        };
        let (low, high) = (number(start, 0.0)?, number(stop, 1.0)?);
        let whole = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if !whole(start) || !whole(stop) || (both && low <= 1.0 && high <= 1.0) {
            return Self::fractions(low, high);
        }
        let step = |text: &str| text.parse().map_err(|_| bad());
        let first = if start.is_empty() { 0 } else { step(start)? };
        Self::steps(first, if stop.is_empty() { None } else { Some(step(stop)?) })
    }

    /// Whether an adapter works at `step`, counted from 0, of a run of `steps`.
    ///
    /// A fraction is not rounded: step i stands for the fraction i/steps and is active when
    /// start ≤ i/steps < stop.
    pub fn active(&self, step: usize, steps: usize) -> bool {
        match self.0 {
            Ends::Fractions { start, stop } => {
                let at = step as f64 / steps.max(1) as f64;
                start <= at && at < stop
            }
            Ends::Steps { start, stop } => start <= step && stop.is_none_or(|stop| step < stop),
        }
    }
}

fn empty(shown: String) -> Error {
    Error::bad_request("steps", shown, "no step lies between these ends; the first must be less")
}

impl FromStr for StepWindow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ends = text.split_once("..").ok_or_else(|| Error::bad_request("steps", text, WHY))?;
        Self::between(ends.0, ends.1)
    }
}

impl TryFrom<String> for StepWindow {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<StepWindow> for String {
    fn from(window: StepWindow) -> Self {
        window.to_string()
    }
}

impl fmt::Display for StepWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ends::Fractions { start, stop } => write!(f, "{start}..{stop}"),
            Ends::Steps { start, stop: None } => write!(f, "{start}.."),
            // `0..1` would be the whole run.
            Ends::Steps { start: 0, stop: Some(stop) } => write!(f, "..{stop}"),
            Ends::Steps { start, stop: Some(stop) } => write!(f, "{start}..{stop}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(window: &str, steps: usize) -> Vec<usize> {
        let window: StepWindow = window.parse().unwrap();
        (0..steps).filter(|step| window.active(*step, steps)).collect()
    }

    #[test]
    fn windows_open_and_close() {
        assert_eq!(active("0..0.6", 5), [0, 1, 2]);
        assert_eq!(active("0.6..1", 5), [3, 4]);
        assert_eq!(active("..0.5", 3), [0, 1], "1/3 and not 2/3 is below 0.5");
        assert_eq!(active("0.3..0.7", 10), [3, 4, 5, 6]);
        assert_eq!(active("0..1", 3), [0, 1, 2], "the whole run");
        assert_eq!(active("..1", 3), [0], "the first step");
        assert_eq!(active("1..", 3), [1, 2]);
        assert_eq!(active(" 2 .. 4 ", 9), [2, 3]);
        assert!(active("5..15", 3).is_empty());
        assert!(!StepWindow::steps(1, None).unwrap().active(0, 0));
    }

    #[test]
    fn impossible_windows_are_refused() {
        for text in [
            "",
            "..",
            "5",
            "a..b",
            "0.5..0.5",
            "5..5",
            "9..3",
            "0.5..10",
            "-1..5",
            "..nan",
            "..inf",
            "0..-0.5",
            "1..1",
            "0..0",
            "1...",
            "..99999999999999999999999",
        ] {
            let error = text.parse::<StepWindow>().unwrap_err();
            assert!(matches!(error, Error::BadRequest { field: "steps", .. }), "{text}: {error}");
        }
    }

    #[test]
    fn windows_are_written_as_they_are_read() {
        for text in ["0..0.6", "..1", "0..1", "1..", "0..", "5..15", "..7", "0.0000001..1"] {
            assert_eq!(text.parse::<StepWindow>().unwrap().to_string(), text);
        }
        let json = serde_json::to_string(&"..0.5".parse::<StepWindow>().unwrap()).unwrap();
        assert_eq!(json, "\"0..0.5\"");
        assert!(serde_json::from_str::<StepWindow>("\"5\"").is_err());
    }
}
