//! The search for the best point of a cube, from comparisons of two points or from scores: mathematics alone.
//!
//! [`Duels`] learns from answers to "which of these two is better"; [`Scores`] from numbers. Both believe in a Gaussian
//! process (`laplace`) whose kernel the answers choose (`fit`), and ask next where they expect to gain most. All is
//! decided by the seed and the answers, so that a search which is resumed, or planned ahead, asks the same questions.

mod duels;
mod fit;
mod kernel;
mod laplace;
mod look;
mod normal;
mod points;
mod scores;
#[cfg(test)]
mod tests;

pub use duels::{Duel, Duels, Judged, Strategy, Verdict};
pub use kernel::Point;
pub use points::MOST_AXES;
pub use scores::{Scored, Scores};

/// The cube that is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct Cube {
    /// For each axis, the least difference that means anything; points lie on its multiples.
    pub steps: Vec<f64>,
    /// What decides where to look.
    pub seed: u64,
}

impl Cube {
    /// A cube of `axes` axes with steps of a hundredth.
    pub fn new(axes: usize, seed: u64) -> Self {
        Self { steps: vec![0.01; axes], seed }
    }

    /// How many axes it has.
    pub fn axes(&self) -> usize {
        self.steps.len()
    }

    /// The nearest point that is a multiple of the steps.
    fn snap(&self, point: &[f64]) -> Point {
        let snap = |(at, step): (&f64, &f64)| {
            if *step > 0.0 { ((at / step).round() * step).clamp(0.0, 1.0) } else { *at }
        };
        point.iter().zip(&self.steps).map(snap).collect()
    }
}

/// A point that was found, and how sure that is.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// The point.
    pub point: Point,
    /// The probability that no other point is better by more than the margin.
    pub sure: f64,
}
