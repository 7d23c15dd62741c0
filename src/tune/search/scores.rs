//! The best point from scores.
//!
//! # Source
//! Jones, Schonlau and Welch (1998), Efficient Global Optimization: expected improvement. As scores may be noisy, it is
//! that over the best mean, not over the best score (Gramacy and Lee, 2011).

use super::kernel::{Functional, Point};
use super::laplace::{Beliefs, Likelihood, Observation, Posterior};
use super::points::{Random, spread};
use super::{Best, Cube, fit, look, normal};
use crate::error::Result;

/// A point and its score.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The point.
    pub point: Point,
    /// Its score; more is better.
    pub score: f64,
}

/// A search by scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    cube: Cube,
    scored: Vec<Scored>,
}

impl Scores {
    /// A search that has no score yet.
    pub fn new(cube: Cube) -> Self {
        Self { cube, scored: Vec::new() }
    }

    /// Takes a score.
    pub fn score(&mut self, point: Point, score: f64) {
        self.scored.push(Scored { point, score });
    }

    /// The scores, in their order.
    pub fn scored(&self) -> &[Scored] {
        &self.scored
    }

    /// How many points are spread evenly before scores decide: one more than there are axes, and at least 3.
    fn first(&self) -> usize {
        (self.cube.axes() + 1).max(3)
    }

    /// The next point to score.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error::Internal) when a covariance cannot be factored.
    pub fn next(&self) -> Result<Point> {
        let asked = self.scored.len();
        if asked < self.first() {
            let shift = Random::new(self.cube.seed, 0).uniform(self.cube.axes());
            let points =
                (asked..).take(64).map(|at| self.cube.snap(&spread(&shift, at, 1).concat()));
            let free = points.into_iter().find(|point| !self.is_known(point));
            return Ok(free.unwrap_or_else(|| self.cube.snap(&spread(&shift, asked, 1).concat())));
        }
        let beliefs = self.beliefs(&self.posterior()?);
        let top = beliefs.mean[beliefs.top()];
        let gain = |i: usize| improvement(beliefs.mean[i] - top, beliefs.variance(i).sqrt());
        let free = (0..beliefs.mean.len()).filter(|i| !self.is_known(&beliefs.points[*i]));
        let next =
            free.map(|i| (gain(i), i)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        // On coarse steps all points may be known: then the best one is scored again.
        Ok(beliefs.points[next.map_or(beliefs.top(), |(_, i)| i)].clone())
    }

    /// The point that is believed to be the best, and how sure it is that no other has a score higher by more than
    /// `margin` standard deviations of the scores so far.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn best(&self, margin: f64) -> Result<Best> {
        let beliefs = self.beliefs(&self.posterior()?);
        look::best(&beliefs, &self.cube, margin)
    }

    fn posterior(&self) -> Result<Posterior> {
        let count = self.scored.len().max(1) as f64;
        let mean = self.scored.iter().map(|scored| scored.score).sum::<f64>() / count;
        let square = self.scored.iter().map(|scored| (scored.score - mean).powi(2)).sum::<f64>();
        let deviation = (square / count).sqrt();
        let scale = if deviation > 0.0 { deviation } else { 1.0 };
        let observation = |scored: &Scored| Observation {
            of: Functional::Value(scored.point.clone()),
            likelihood: Likelihood::Near { value: (scored.score - mean) / scale, noise: 0.01 },
        };
        fit::fit(&self.scored.iter().map(observation).collect::<Vec<_>>(), self.cube.axes())
    }

    fn beliefs(&self, posterior: &Posterior) -> Beliefs {
        let known: Vec<Point> = self.scored.iter().map(|scored| scored.point.clone()).collect();
        look::candidates(posterior, &self.cube, &known, self.scored.len())
    }

    fn is_known(&self, point: &Point) -> bool {
        self.scored.iter().any(|scored| &scored.point == point)
    }
}

/// By how much a normal value, `ahead` of the best on average, is expected to exceed it.
fn improvement(ahead: f64, deviation: f64) -> f64 {
    if deviation < 1e-9 {
        return ahead.max(0.0);
    }
    let z = ahead / deviation;
    ahead * normal::cdf(z) + deviation * normal::density(z)
}

#[cfg(test)]
mod formulas {
    use super::*;

    #[test]
    fn improvement_is_as_by_hand() {
        assert!((improvement(0.0, 1.0) - 0.398_942_280_401_432_7).abs() < 1e-14);
        assert!((improvement(1.0, 1.0) - 1.083_315_470_587_686_5).abs() < 1e-12);
        assert_eq!((improvement(-1.0, 0.0), improvement(2.0, 0.0)), (0.0, 2.0));
    }
}
