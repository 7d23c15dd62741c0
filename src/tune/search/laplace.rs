//! Gaussian processes under answers: which of two points is better, or a score at one.
//!
//! The function is observed through differences (or values), each with a likelihood of its own; the posterior is
//! Laplace's approximation, exact for scores.
//!
//! # Source
//! Chu and Ghahramani (2005), Preference Learning with Gaussian Processes: the probit likelihood of a comparison.
//! Rasmussen and Williams (2006), algorithms 3.1 and 3.2, with the differences in the place of the values: many
//! comparisons of one point stay well conditioned.

use super::kernel::{Functional, Kernel, Point};
use super::normal;
use crate::error::{Error, Result};
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, Par, Side};

/// Most of Newton's steps; a handful is enough.
const MOST_STEPS: usize = 60;
/// A step that gains less is the last.
const ENOUGH: f64 = 1e-10;

/// How an observation depends on the function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Likelihood {
    /// The difference is positive but for noise of variance 1; counted `weight` times.
    Positive {
        /// How much the answer counts.
        weight: f64,
    },
    /// The value is `value` but for noise.
    Near {
        /// What was found.
        value: f64,
        /// Variance of the noise.
        noise: f64,
    },
}

/// An observation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Observation {
    pub(super) of: Functional,
    pub(super) likelihood: Likelihood,
}

/// The logarithm of a likelihood, its slope and its negative curvature.
struct Local {
    log: f64,
    slope: f64,
    curvature: f64,
}

impl Likelihood {
    fn at(self, value: f64) -> Local {
        match self {
            Likelihood::Positive { weight } => {
                let slope = normal::log_cdf_slope(value);
                Local {
                    log: weight * normal::log_cdf(value),
                    slope: weight * slope,
                    curvature: weight * slope * (slope + value),
                }
            }
            Likelihood::Near { value: found, noise } => {
                let off = found - value;
                let constant = (2.0 * std::f64::consts::PI * noise).ln();
                Local {
                    log: -0.5 * (off * off / noise + constant),
                    slope: off / noise,
                    curvature: 1.0 / noise,
                }
            }
        }
    }
}

/// What is believed of a function.
#[derive(Debug, Clone)]
pub(super) struct Posterior {
    kernel: Kernel,
    observed: Vec<Functional>,
    /// The mean is the sum of the observed functionals' covariances with these weights.
    weights: Vec<f64>,
    /// Square roots of the curvatures.
    scales: Vec<f64>,
    /// The lower triangle of I + W^½ K W^½.
    root: Mat<f64>,
    /// The logarithm of the evidence.
    pub(super) evidence: f64,
}

impl Posterior {
    /// What the observations say under `kernel`.
    ///
    /// # Errors
    /// [`Error::Internal`] when a matrix cannot be factored, which no finite observation leads to.
    pub(super) fn new(observations: &[Observation], kernel: &Kernel) -> Result<Self> {
        let n = observations.len();
        let of = |i: usize| &observations[i].of;
        let covariance = Mat::from_fn(n, n, |i, j| of(i).with(of(j), kernel));
        let mut state = State::new(observations, vec![0.0; n], vec![0.0; n]);
        for _ in 0..MOST_STEPS {
            let next = state.step(observations, &covariance)?;
            let gain = next.objective - state.objective;
            state = next;
            if gain.abs() < ENOUGH {
                break;
            }
        }
        let (root, scales) = state.factor(&covariance)?;
        let log_determinant: f64 = (0..n).map(|i| root[(i, i)].ln()).sum();
        Ok(Self {
            kernel: kernel.clone(),
            observed: observations.iter().map(|o| o.of.clone()).collect(),
            weights: state.weights,
            scales,
            evidence: state.objective - log_determinant,
            root,
        })
    }

    /// What is believed of the values at `points`.
    pub(super) fn at(&self, points: Vec<Point>) -> Beliefs {
        let n = self.observed.len();
        let mut reduced = Mat::from_fn(n, points.len(), |i, j| {
            self.observed[i].with_point(&points[j], &self.kernel)
        });
        let mean = (0..points.len())
            .map(|j| (0..n).map(|i| self.weights[i] * reduced[(i, j)]).sum())
            .collect();
        for j in 0..points.len() {
            for i in 0..n {
                reduced[(i, j)] *= self.scales[i];
            }
        }
        solve_lower(&self.root, &mut reduced);
        Beliefs { kernel: self.kernel.clone(), points, mean, reduced }
    }
}

/// The values at the observed functionals during Newton's steps.
struct State {
    values: Vec<f64>,
    weights: Vec<f64>,
    objective: f64,
    local: Vec<Local>,
}

impl State {
    fn new(observations: &[Observation], values: Vec<f64>, weights: Vec<f64>) -> Self {
        let local: Vec<Local> =
            observations.iter().zip(&values).map(|(o, value)| o.likelihood.at(*value)).collect();
        let fit: f64 = local.iter().map(|local| local.log).sum();
        let cost: f64 = values.iter().zip(&weights).map(|(value, weight)| value * weight).sum();
        Self { values, weights, objective: fit - 0.5 * cost, local }
    }

    /// The factor of I + W^½ K W^½, and W^½.
    fn factor(&self, covariance: &Mat<f64>) -> Result<(Mat<f64>, Vec<f64>)> {
        let n = self.values.len();
        let scales: Vec<f64> = self.local.iter().map(|l| l.curvature.max(0.0).sqrt()).collect();
        let matrix = Mat::from_fn(n, n, |i, j| {
            scales[i] * covariance[(i, j)] * scales[j] + if i == j { 1.0 } else { 0.0 }
        });
        Ok((lower_root(&matrix)?, scales))
    }

    /// One step of Newton's, shortened until it gains.
    fn step(&self, observations: &[Observation], covariance: &Mat<f64>) -> Result<Self> {
        let n = self.values.len();
        let (root, scales) = self.factor(covariance)?;
        let aim: Vec<f64> = (0..n)
            .map(|i| self.local[i].curvature * self.values[i] + self.local[i].slope)
            .collect();
        let mut inner = Mat::from_fn(n, 1, |i, _| {
            scales[i] * (0..n).map(|j| covariance[(i, j)] * aim[j]).sum::<f64>()
        });
        solve_lower(&root, &mut inner);
        solve_upper_triangular_in_place(root.transpose(), inner.as_mut(), Par::Seq);
        let weights: Vec<f64> = (0..n).map(|i| aim[i] - scales[i] * inner[(i, 0)]).collect();
        let mut share = 1.0;
        loop {
            let mixed: Vec<f64> =
                (0..n).map(|i| self.weights[i] + share * (weights[i] - self.weights[i])).collect();
            let values =
                (0..n).map(|i| (0..n).map(|j| covariance[(i, j)] * mixed[j]).sum()).collect();
            let next = Self::new(observations, values, mixed);
            if next.objective >= self.objective || share < 1e-6 {
                return Ok(next);
            }
            share *= 0.5;
        }
    }
}

/// What is believed of the values at some points.
#[derive(Debug, Clone)]
pub(super) struct Beliefs {
    kernel: Kernel,
    pub(super) points: Vec<Point>,
    pub(super) mean: Vec<f64>,
    /// Columns whose products are what the observations take from the covariances.
    reduced: Mat<f64>,
}

impl Beliefs {
    /// The covariance of the values at two of the points.
    pub(super) fn covariance(&self, i: usize, j: usize) -> f64 {
        let known: f64 =
            (0..self.reduced.nrows()).map(|k| self.reduced[(k, i)] * self.reduced[(k, j)]).sum();
        self.kernel.between(&self.points[i], &self.points[j]) - known
    }

    /// The variance of the value at one of the points.
    pub(super) fn variance(&self, i: usize) -> f64 {
        self.covariance(i, i).max(0.0)
    }

    /// The point with the highest mean.
    pub(super) fn top(&self) -> usize {
        (0..self.mean.len()).max_by(|i, j| self.mean[*i].total_cmp(&self.mean[*j])).unwrap_or(0)
    }
}

/// The lower triangle whose product with its transpose is `matrix`.
pub(super) fn lower_root(matrix: &Mat<f64>) -> Result<Mat<f64>> {
    let wrong = |_| Error::Internal("a covariance that is none".into());
    Ok(matrix.llt(Side::Lower).map_err(wrong)?.L().to_owned())
}

fn solve_lower(root: &Mat<f64>, right: &mut Mat<f64>) {
    solve_lower_triangular_in_place(root.as_ref(), right.as_mut(), Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Kernel {
        Kernel { variance: 1.5, lengths: vec![0.4] }
    }

    fn score(at: f64, value: f64) -> Observation {
        let likelihood = Likelihood::Near { value, noise: 0.1 };
        Observation { of: Functional::Value(vec![at]), likelihood }
    }

    fn better(first: f64, second: f64) -> Observation {
        let of = Functional::Difference(vec![first], vec![second]);
        Observation { of, likelihood: Likelihood::Positive { weight: 1.0 } }
    }

    /// One score: mean k/(k + noise)·y, variance k - k²/(k + noise), evidence N(y; 0, k + noise).
    #[test]
    fn a_score_is_as_by_hand() {
        let posterior = Posterior::new(&[score(0.5, 2.0)], &kernel()).unwrap();
        let beliefs = posterior.at(vec![vec![0.5]]);
        assert!((beliefs.mean[0] - 1.5 / 1.6 * 2.0).abs() < 1e-9);
        assert!((beliefs.variance(0) - (1.5 - 1.5 * 1.5 / 1.6)).abs() < 1e-9);
        let expected = -0.5 * (4.0 / 1.6 + (2.0 * std::f64::consts::PI * 1.6).ln());
        assert!((posterior.evidence - expected).abs() < 1e-9, "{}", posterior.evidence);
    }

    /// One comparison of values whose difference has variance v: the exact evidence is ½, and Laplace's mode solves
    /// d/v = φ(d)/Φ(d).
    #[test]
    fn a_comparison_has_its_mode() {
        let kernel = kernel();
        let posterior = Posterior::new(&[better(0.2, 0.9)], &kernel).unwrap();
        let beliefs = posterior.at(vec![vec![0.2], vec![0.9]]);
        let difference = beliefs.mean[0] - beliefs.mean[1];
        let variance = 2.0 * (1.5 - kernel.between(&[0.2], &[0.9]));
        assert!((difference / variance - normal::log_cdf_slope(difference)).abs() < 1e-7);
        assert!((posterior.evidence.exp() - 0.5).abs() < 0.03, "{}", posterior.evidence.exp());
    }

    #[test]
    fn answers_add_up_and_contradictions_cancel() {
        let many: Vec<Observation> = (0..8).map(|_| better(0.2, 0.9)).collect();
        let (one, eight) = (
            Posterior::new(&many[..1], &kernel()).unwrap().at(vec![vec![0.2], vec![0.9]]),
            Posterior::new(&many, &kernel()).unwrap().at(vec![vec![0.2], vec![0.9]]),
        );
        assert!(eight.mean[0] > one.mean[0] && eight.variance(0) < one.variance(0));
        let both = [better(0.2, 0.9), better(0.9, 0.2)];
        let none = Posterior::new(&both, &kernel()).unwrap().at(vec![vec![0.2], vec![0.9]]);
        assert!((none.mean[0] - none.mean[1]).abs() < 1e-9);
        let empty = Posterior::new(&[], &kernel()).unwrap().at(vec![vec![0.3]]);
        assert!((empty.mean[0], empty.variance(0)) == (0.0, 1.5));
    }
}
