//! Candidates, and what is believed of them.

use super::kernel::Point;
use super::laplace::{Beliefs, Posterior, lower_root};
use super::points::{Random, around, spread};
use super::{Best, Cube};
use crate::error::Result;
use faer::Mat;

/// Evenly spread candidates.
const SPREAD: usize = 400;
/// Candidates around the best, for each reach.
const AROUND: usize = 60;
/// How far around, in parts of the cube.
const REACHES: [f64; 3] = [0.3, 0.1, 0.03];
/// Candidates whose values are drawn together, to find out how sure the best one is.
const JOINT: usize = 200;
/// How often.
const DRAWS: usize = 400;
/// What is added to variances so that a covariance can be factored.
const JITTER: f64 = 1e-6;

/// Candidates of a search: spread ones, `known` ones, and some around the best; those that are the same on the cube's
/// steps once.
pub(super) fn candidates(
    posterior: &Posterior,
    cube: &Cube,
    known: &[Point],
    number: usize,
) -> Beliefs {
    let mut random = Random::new(cube.seed, number as u64 + 1);
    let shift = random.uniform(cube.axes());
    let mut all: Vec<Point> = known.to_vec();
    all.extend(spread(&shift, 0, SPREAD).iter().map(|point| cube.snap(point)));
    for reach in REACHES {
        let beliefs = posterior.at(unique(std::mem::take(&mut all)));
        let top = beliefs.points[beliefs.top()].clone();
        all = beliefs.points;
        all.extend(around(&top, reach, AROUND, &mut random).iter().map(|point| cube.snap(point)));
    }
    posterior.at(unique(all))
}

/// The points without those that came before.
fn unique(points: Vec<Point>) -> Vec<Point> {
    let bits = |point: &Point| point.iter().map(|at| at.to_bits()).collect::<Vec<_>>();
    let mut seen = std::collections::HashSet::new();
    points.into_iter().filter(|point| seen.insert(bits(point))).collect()
}

/// The candidate with the highest mean, and the probability that no other is better by more than `margin`: how often
/// that is so in functions that are drawn from what is believed.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) when a covariance cannot be factored.
pub(super) fn best(beliefs: &Beliefs, cube: &Cube, margin: f64) -> Result<Best> {
    let top = beliefs.top();
    let bound = |i: usize| beliefs.mean[i] + 2.0 * beliefs.variance(i).sqrt();
    let mut rivals: Vec<(f64, usize)> = (0..beliefs.mean.len()).map(|i| (bound(i), i)).collect();
    rivals.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut chosen = vec![top];
    chosen.extend(rivals.iter().map(|(_, i)| *i).filter(|i| *i != top).take(JOINT));
    let n = chosen.len();
    let covariance = Mat::from_fn(n, n, |i, j| {
        let jitter = if i == j { JITTER * (1.0 + beliefs.variance(chosen[i])) } else { 0.0 };
        beliefs.covariance(chosen[i], chosen[j]) + jitter
    });
    let root = lower_root(&covariance)?;
    let mut random = Random::new(cube.seed, u64::MAX);
    let beaten = (0..DRAWS).filter(|_| {
        let noise = random.normal(n);
        let value = |i: usize| {
            beliefs.mean[chosen[i]] + (0..=i).map(|j| root[(i, j)] * noise[j]).sum::<f64>()
        };
        let own = value(0);
        (1..n).any(|i| value(i) > own + margin)
    });
    let sure = 1.0 - beaten.count() as f64 / DRAWS as f64;
    Ok(Best { point: beliefs.points[top].clone(), sure })
}
