//! The kernel that the answers speak for: its variance, its lengths and the noise of scores.
//!
//! The maximum of evidence times prior is looked for along one axis after the other, with steps that shrink (Hooke and
//! Jeeves, 1961).

use super::kernel::Kernel;
use super::laplace::{Likelihood, Observation, Posterior};
use crate::error::Result;

/// The first step, in logarithms.
const FIRST: f64 = 0.8;
/// The last one.
const LAST: f64 = 0.15;
/// Most rounds over all axes.
const ROUNDS: usize = 24;

/// A normal prior of a logarithm.
#[derive(Debug, Clone, Copy)]
struct Prior {
    mean: f64,
    deviation: f64,
}

impl Prior {
    fn log(self, value: f64) -> f64 {
        -0.5 * ((value - self.mean) / self.deviation).powi(2)
    }
}

/// The posterior under the kernel that the observations speak for.
///
/// # Errors
/// As [`Posterior::new`].
pub(super) fn fit(observations: &[Observation], axes: usize) -> Result<Posterior> {
    let scored = observations
        .iter()
        .any(|observation| matches!(observation.likelihood, Likelihood::Near { .. }));
    let priors = priors(axes, scored);
    let mut at: Vec<f64> = priors.iter().map(|prior| prior.mean).collect();
    let mut best = posterior(observations, &at, scored)?;
    let mut value = best.evidence + log_prior(&priors, &at);
    let mut step = FIRST;
    for _ in 0..ROUNDS {
        let before = value;
        for axis in 0..at.len() {
            for way in [step, -step] {
                let mut there = at.clone();
                there[axis] += way;
                let candidate = posterior(observations, &there, scored)?;
                let worth = candidate.evidence + log_prior(&priors, &there);
                if worth > value {
                    (at, best, value) = (there, candidate, worth);
                    break;
                }
            }
        }
        if value <= before {
            step *= 0.5;
        }
        if step < LAST {
            break;
        }
    }
    Ok(best)
}

/// Priors of the logarithms of the deviation, of each length and, for scores, of the noise's deviation.
///
/// Comparisons are in units of their noise: of two stacks far apart the better one is usually seen as better, so the
/// deviation is some units. Lengths grow with the root of the number of axes, as distances in a cube do (Hvarfner,
/// Hellsten and Nardi, 2024). Scores are scaled to a variance of 1. The middles were chosen on the functions of the tests.
fn priors(axes: usize, scored: bool) -> Vec<Prior> {
    let deviation = if scored { (1.0_f64, 0.5) } else { (2.0, 0.7) };
    let length = (0.25 * (axes.max(1) as f64).sqrt(), 0.3);
    let noise = scored.then_some((0.1, 1.0));
    let all = std::iter::once(deviation).chain(std::iter::repeat_n(length, axes)).chain(noise);
    all.map(|(middle, deviation)| Prior { mean: middle.ln(), deviation }).collect()
}

fn log_prior(priors: &[Prior], at: &[f64]) -> f64 {
    priors.iter().zip(at).map(|(prior, value)| prior.log(*value)).sum()
}

fn posterior(observations: &[Observation], at: &[f64], scored: bool) -> Result<Posterior> {
    let (deviation, rest) = at.split_first().map_or((0.0, at), |(first, rest)| (*first, rest));
    let lengths = if scored { &rest[..rest.len().saturating_sub(1)] } else { rest };
    let kernel = Kernel {
        variance: (2.0 * deviation).exp(),
        lengths: lengths.iter().map(|length| length.exp()).collect(),
    };
    if !scored {
        return Posterior::new(observations, &kernel);
    }
    let noise = (2.0 * rest.last().copied().unwrap_or_default()).exp();
    let noisy = observations.iter().map(|observation| match observation.likelihood {
        Likelihood::Near { value, .. } => {
            Observation { likelihood: Likelihood::Near { value, noise }, ..observation.clone() }
        }
        Likelihood::Positive { .. } => observation.clone(),
    });
    Posterior::new(&noisy.collect::<Vec<_>>(), &kernel)
}
