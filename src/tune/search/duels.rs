//! The best point from answers to "which of these two is better".
//!
//! # Source
//! The next pair: Astudillo, Lin, Bakshy and Frazier (2023), qEUBO, a decision-theoretic acquisition function for
//! preferential Bayesian optimization: the pair whose better point is expected to be best; for two points and a normal
//! belief in closed form (Clark, 1961). Dueling Thompson sampling, which it is measured against: González, Dai,
//! Damianou and Lawrence (2017), Preferential Bayesian Optimization.

use super::kernel::{Functional, Point};
use super::laplace::{Beliefs, Likelihood, Observation, Posterior, lower_root};
use super::points::{Random, spread};
use super::{Best, Cube, fit, look, normal};
use crate::error::Result;
use faer::Mat;

/// Candidates that one draw of dueling Thompson sampling looks at.
const DRAWN: usize = 200;
/// How far from the best mean pairs lie along each axis: corners that nobody has seen are as unsure as they are many
/// (Eriksson et al., 2019: trust regions).
const REACH: f64 = 0.5;
/// Pairs that lie this near to one that was skipped are not asked about either.
const SKIPPED: f64 = 0.1;
/// Rounds in which each point of a pair is improved for the other.
const ROUNDS: usize = 4;

/// Two points to choose from.
#[derive(Debug, Clone, PartialEq)]
pub struct Duel {
    /// One.
    pub first: Point,
    /// The other.
    pub second: Point,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first is better.
    First,
    /// The second is better.
    Second,
    /// Neither.
    Equal,
}

/// A duel and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The two points.
    pub duel: Duel,
    /// The answer.
    pub verdict: Verdict,
}

/// How the next pair is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The pair whose better point is expected to be best.
    #[default]
    BestOfTwo,
    /// The best points of two functions drawn from what is believed.
    Thompson,
    /// Any two points: what the others are measured against.
    Random,
}

/// A search by comparisons.
#[derive(Debug, Clone, PartialEq)]
pub struct Duels {
    cube: Cube,
    strategy: Strategy,
    judged: Vec<Judged>,
    /// Pairs that were shown without an answer: they are not asked again.
    skipped: Vec<Duel>,
}

impl Duels {
    /// A search that has no answer yet.
    pub fn new(cube: Cube) -> Self {
        Self { cube, strategy: Strategy::default(), judged: Vec::new(), skipped: Vec::new() }
    }

    /// The same search with another way to choose pairs.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Takes an answer.
    pub fn judge(&mut self, duel: Duel, verdict: Verdict) {
        self.judged.push(Judged { duel, verdict });
    }

    /// Takes that there is no answer.
    pub fn skip(&mut self, duel: Duel) {
        self.skipped.push(duel);
    }

    /// The answers, in their order.
    pub fn judged(&self) -> &[Judged] {
        &self.judged
    }

    /// The next pair to ask about.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error::Internal) when a covariance cannot be factored.
    pub fn next(&self) -> Result<Duel> {
        let asked = self.judged.len() + self.skipped.len();
        if asked < self.cube.axes() || self.strategy == Strategy::Random {
            return Ok(self.spread_pair(asked));
        }
        let beliefs = self.beliefs(&self.posterior()?);
        let (first, second) = match self.strategy {
            Strategy::Thompson => self.drawn_pair(&beliefs, asked)?,
            _ => self.best_pair(&beliefs),
        };
        let duel =
            Duel { first: beliefs.points[first].clone(), second: beliefs.points[second].clone() };
        // Which of the two stands on the left must say nothing.
        Ok(if Random::new(self.cube.seed, asked as u64).normal(1)[0] < 0.0 {
            duel
        } else {
            duel.turned()
        })
    }

    /// The point that is believed to be the best, and how sure it is that no other would be preferred to it with a
    /// probability above `preferred`.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn best(&self, preferred: f64) -> Result<Best> {
        let beliefs = self.beliefs(&self.posterior()?);
        look::best(&beliefs, &self.cube, margin(preferred))
    }

    fn posterior(&self) -> Result<Posterior> {
        fit::fit(&self.judged.iter().flat_map(observations).collect::<Vec<_>>(), self.cube.axes())
    }

    /// What is believed of candidates, those that were shown among them.
    fn beliefs(&self, posterior: &Posterior) -> Beliefs {
        let shown = self
            .judged
            .iter()
            .flat_map(|judged| [judged.duel.first.clone(), judged.duel.second.clone()]);
        look::candidates(posterior, &self.cube, &shown.collect::<Vec<_>>(), self.judged.len())
    }

    /// A pair of evenly spread points.
    fn spread_pair(&self, asked: usize) -> Duel {
        let shift = Random::new(self.cube.seed, 0).uniform(self.cube.axes());
        let at = |number: usize| self.cube.snap(&spread(&shift, number, 1).concat());
        let first = at(2 * asked);
        // On coarse steps two points of a row may be the same.
        let others = (2 * asked + 1..).take(64).map(at);
        let second = others.into_iter().find(|second| *second != first);
        Duel { second: second.unwrap_or_else(|| first.clone()), first }
    }

    /// The pair with the largest expected maximum: from the best mean on, each point is improved for the other.
    fn best_pair(&self, beliefs: &Beliefs) -> (usize, usize) {
        let variances: Vec<f64> = (0..beliefs.mean.len()).map(|i| beliefs.variance(i)).collect();
        let middle = beliefs.points[beliefs.top()].clone();
        let partner = |i: usize| {
            let worth = |j: usize| {
                let spread = variances[i] + variances[j] - 2.0 * beliefs.covariance(i, j);
                expected_maximum(beliefs.mean[i], beliefs.mean[j], spread.max(0.0).sqrt())
            };
            let near = |j: usize| {
                let axes = beliefs.points[j].iter().zip(&middle);
                axes.into_iter().all(|(a, b)| (a - b).abs() <= REACH)
            };
            let free = (0..beliefs.mean.len())
                .filter(|j| *j != i && near(*j) && !self.was_asked(beliefs, i, *j));
            free.map(|j| (worth(j), j)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
        };
        let mut first = beliefs.top();
        let Some((mut worth, mut second)) = partner(first) else { return (first, first) };
        for _ in 0..ROUNDS {
            match partner(second) {
                Some((better, other)) if better > worth => {
                    (worth, first, second) = (better, second, other);
                }
                _ => break,
            }
        }
        (first, second)
    }

    /// The best points of two functions that are drawn from what is believed.
    fn drawn_pair(&self, beliefs: &Beliefs, asked: usize) -> Result<(usize, usize)> {
        let n = beliefs.mean.len().min(DRAWN);
        let stride = beliefs.mean.len() / n.max(1);
        let at = |i: usize| i * stride;
        let covariance = Mat::from_fn(n, n, |i, j| {
            beliefs.covariance(at(i), at(j)) + if i == j { 1e-6 } else { 0.0 }
        });
        let root = lower_root(&covariance)?;
        let mut random = Random::new(self.cube.seed ^ 0x7475_6e65, asked as u64);
        let mut draw = |other: Option<usize>| {
            let noise = random.normal(n);
            let value = |i: usize| {
                beliefs.mean[at(i)] + (0..=i).map(|j| root[(i, j)] * noise[j]).sum::<f64>()
            };
            let free = (0..n).filter(|i| Some(at(*i)) != other);
            let top = free.map(|i| (value(i), i)).max_by(|a, b| a.0.total_cmp(&b.0));
            top.map_or(0, |(_, i)| at(i))
        };
        let first = draw(None);
        Ok((first, draw(Some(first))))
    }

    fn was_asked(&self, beliefs: &Beliefs, i: usize, j: usize) -> bool {
        let (a, b) = (&beliefs.points[i], &beliefs.points[j]);
        let within = |duel: &Duel, reach: f64| {
            let near = |a: &Point, b: &Point| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= reach);
            let (first, second) = (&duel.first, &duel.second);
            (near(first, a) && near(second, b)) || (near(first, b) && near(second, a))
        };
        self.judged.iter().any(|judged| within(&judged.duel, 0.0))
            || self.skipped.iter().any(|duel| within(duel, SKIPPED))
    }
}

impl Duel {
    fn turned(self) -> Self {
        Self { first: self.second, second: self.first }
    }
}

/// What an answer says of the function. Neither better: half an answer each way.
fn observations(judged: &Judged) -> Vec<Observation> {
    let Duel { first, second } = &judged.duel;
    let better = |a: &Point, b: &Point, weight| Observation {
        of: Functional::Difference(a.clone(), b.clone()),
        likelihood: Likelihood::Positive { weight },
    };
    match judged.verdict {
        Verdict::First => vec![better(first, second, 1.0)],
        Verdict::Second => vec![better(second, first, 1.0)],
        Verdict::Equal => vec![better(first, second, 0.5), better(second, first, 0.5)],
    }
}

/// The mean of the larger of two normal values whose difference has the deviation `spread`.
fn expected_maximum(a: f64, b: f64, spread: f64) -> f64 {
    if spread < 1e-9 {
        return a.max(b);
    }
    let z = (a - b) / spread;
    a * normal::cdf(z) + b * normal::cdf(-z) + spread * normal::density(z)
}

/// By how much a value is larger that is preferred with the probability `preferred`.
fn margin(preferred: f64) -> f64 {
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if normal::cdf(middle) < preferred { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod formulas {
    use super::*;

    #[test]
    fn formulas_are_as_in_tables() {
        assert!((margin(0.841_344_746_068_542_9) - 1.0).abs() < 1e-12);
        assert!(margin(0.5) < 1e-12);
        // Two independent standard normal values: 1/√π.
        let both = expected_maximum(0.0, 0.0, std::f64::consts::SQRT_2);
        assert!((both - 0.564_189_583_547_756_3).abs() < 1e-14);
        assert_eq!(expected_maximum(2.0, 1.0, 0.0), 2.0);
    }
}
