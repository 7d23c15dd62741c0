//! Ranges of numbers, written as text.

use crate::error::{Error, Result};
use serde_json::Value;

/// Most values of a range.
const MOST: usize = 100_000;
/// A range has an end that a step misses by less than this part of a step.
pub(crate) const NEAR: f64 = 1e-3;

/// The numbers of `A..B:STEP`, of which B is one when a step hits it, or of `A..B/N`: N numbers at equal distances.
pub(super) fn range(text: &str) -> Result<Vec<Value>> {
    let why = "expected FROM..TO:STEP or FROM..TO/HOW_MANY";
    let wrong = || Error::bad_request("matrix", text, why);
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
    let (from, rest) = text.split_once("..").ok_or_else(wrong)?;
    let (to, step, count) = match (rest.split_once(':'), rest.split_once('/')) {
        (Some((to, step)), _) => (to, number(step).ok_or_else(wrong)?, None),
        (None, Some((to, count))) => (to, 0.0, Some(count.trim().parse().map_err(|_| wrong())?)),
        (None, None) => (rest, 1.0, None),
    };
    let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
    let count: usize = match count {
        Some(count) => count,
        None => fitting(from, to, step).ok_or_else(wrong)?,
    };
    if !(1..=MOST).contains(&count) {
        return Err(wrong());
    }
    let step = if step == 0.0 && count > 1 { (to - from) / (count - 1) as f64 } else { step };
    let value = |x: f64| {
        if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) }
    };
    Ok(spaced(from, step, count).map(value).collect())
}

/// How many numbers lie between the ends, both included, where each is `step` behind the one before; the end is hit when
/// a step misses it by less than [`NEAR`]. `None` where no such step leads to the end.
pub(crate) fn fitting(from: f64, to: f64, step: f64) -> Option<usize> {
    let steps = (to - from) / step;
    (step != 0.0 && steps >= 0.0).then(|| (steps + NEAR).floor() as usize + 1)
}

/// `count` numbers. Sums of decimal steps end in noise that nobody wants in names, labels and records: it is cut off.
pub(crate) fn spaced(from: f64, step: f64, count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |at| ((from + step * at as f64) * 1e9).round() / 1e9 + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let numbers = |text: &str| Value::Array(range(text).unwrap()).to_string();
        assert_eq!(numbers("0..1:0.25"), "[0,0.25,0.5,0.75,1]");
        assert_eq!(numbers("0..1:0.3"), "[0,0.3,0.6,0.9]", "the end is not passed");
        assert_eq!(numbers("0..1/3"), "[0,0.5,1]");
        assert_eq!(numbers("3..1:-1"), "[3,2,1]");
        assert_eq!(numbers("1..3"), "[1,2,3]");
        for bad in ["0..1:0", "0..1:-1", "a..b", "0..1/0", "0..1e9:0.001"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
