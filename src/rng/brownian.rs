//! A Brownian path that a seed reproduces, whatever is asked of it in which order.

use super::Rng;
use super::seed_sequence::first_word;
use std::collections::HashMap;

/// Splits of an interval; 24 reach six decimals from the levels of Stable Diffusion.
const DEEPEST: u32 = 60;

/// A Brownian path with a value for each element of latents.
///
/// Its values at two points depend on seed, ends and points alone. Between known points it is bridged at middles, each
/// with noise of its own seed, down to six decimals.
///
/// # Source
/// Li et al. (2020), "Scalable Gradients for Stochastic Differential Equations", Algorithm 3; torchsde 0.2.6,
/// `BrownianTree`, as k-diffusion's `BatchedBrownianTree` and ComfyUI use it.
#[derive(Debug, Clone)]
pub struct BrownianPath {
    seed: u64,
    rng: Rng,
    count: usize,
    span: Span,
    /// From one end to the other.
    whole: Vec<f32>,
    /// The noise of nodes that the last question needed: the next one begins where it ended.
    known: HashMap<Node, Vec<f32>>,
    asked: HashMap<Node, Vec<f32>>,
}

/// Two points of a path, the lower first.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    low: f64,
    high: f64,
}

/// A part of a path that is split in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    key: u64,
    depth: u32,
}

impl BrownianPath {
    /// The path of `seed` over `low..high` with `count` values at each point.
    ///
    /// `rng`: whose generator makes the noise of the nodes.
    pub fn new(seed: u64, rng: Rng, count: usize, low: f64, high: f64) -> Self {
        let root = rng.stream(u64::from(first_word(seed, None))).normal(count);
        // Ends that are no ends of what was rounded: so does torchsde.
        let scale = (high - low).max(0.0).sqrt() as f32;
        let whole = root.into_iter().map(|value| value * scale).collect();
        let span = Span { low: rounded(low), high: rounded(high) };
        let (known, asked) = (HashMap::new(), HashMap::new());
        Self { seed, rng, count, span, whole, known, asked }
    }

    /// How far the path goes from point `a` to point `b` above it: W(b) − W(a). Points outside of its ends are moved
    /// there.
    pub fn increment(&mut self, a: f64, b: f64) -> Vec<f32> {
        let wanted =
            Span { low: rounded(a).max(self.span.low), high: rounded(b).min(self.span.high) };
        let mut sum = vec![0.0; self.count];
        if wanted.low < wanted.high {
            let whole = self.whole.clone();
            self.add(Node { key: 0, depth: 0 }, self.span, whole, wanted, &mut sum);
        }
        self.known = std::mem::take(&mut self.asked);
        sum
    }

    /// Standard normal values for the way from noise level `sigma` to `next`, f32 numbers of the sampler.
    pub fn between(&mut self, sigma: f32, next: f32) -> Vec<f32> {
        let (a, b) = (f64::from(sigma.min(next)), f64::from(sigma.max(next)));
        // Samplers go down, where the path is that of the way up with another sign.
        let sign = if next < sigma { -1.0 } else { 1.0 };
        let length = (sigma - next).abs().sqrt();
        let mut values = self.increment(a, b);
        for value in &mut values {
            *value = sign * *value / length;
        }
        values
    }

    /// Adds to `sum` what of `node`, which spans `span` and goes as far as `way`, lies in `wanted`.
    fn add(&mut self, node: Node, span: Span, way: Vec<f32>, wanted: Span, sum: &mut [f32]) {
        if (wanted.low <= span.low && wanted.high >= span.high) || node.depth > DEEPEST {
            sum.iter_mut().zip(way).for_each(|(sum, way)| *sum += way);
            return;
        }
        let Span { low, high } = span;
        let middle = rounded(0.5 * (high + low));
        let noise = self.noise(node);
        let (part, length) = ((middle - low) as f32, (high - low) as f32);
        let spread = ((middle - low) * (high - middle) / (high - low)).sqrt() as f32;
        let left: Vec<f32> = way
            .iter()
            .zip(noise)
            .map(|(way, noise)| part * way / length + spread * noise)
            .collect();
        let right = way.iter().zip(&left).map(|(way, left)| way - left).collect();
        let child = |key| Node { key, depth: node.depth + 1 };
        if wanted.low < middle {
            let wanted = Span { high: wanted.high.min(middle), ..wanted };
            self.add(child(2 * node.key), Span { low, high: middle }, left, wanted, sum);
        }
        if wanted.high > middle {
            let wanted = Span { low: wanted.low.max(middle), ..wanted };
            self.add(child(2 * node.key + 1), Span { low: middle, high }, right, wanted, sum);
        }
    }

    /// The noise of a node, which is kept for the next question.
    fn noise(&mut self, node: Node) -> &[f32] {
        let Self { seed, rng, count, known, asked, .. } = self;
        asked.entry(node).or_insert_with(|| {
            known.remove(&node).unwrap_or_else(|| {
                let word = first_word(*seed, Some([node.key, u64::from(node.depth)]));
                rng.stream(u64::from(word)).normal(*count)
            })
        })
    }
}

/// A point to six decimals: halves of the exact number go to the even digit.
fn rounded(point: f64) -> f64 {
    format!("{point:.6}").parse().unwrap_or(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> BrownianPath {
        BrownianPath::new(42, Rng::Cpu, 4, 0.0, 1.0)
    }

    fn near(a: &[f32], b: &[f32]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn increments_add_up_in_any_order() {
        let mut one = path();
        let (whole, first, second) =
            (one.increment(0.1, 0.9), one.increment(0.1, 0.3), one.increment(0.3, 0.9));
        let sum: Vec<f32> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
        assert!(near(&whole, &sum), "{whole:?} {sum:?}");
        let mut other = path();
        assert_eq!(other.increment(0.3, 0.9), second);
        assert_eq!(other.increment(0.1, 0.3), first);
        assert_eq!(other.increment(0.1, 0.9), whole);
    }

    #[test]
    fn points_beyond_the_ends_are_moved_there() {
        assert_eq!(path().increment(-3.0, 7.0), path().increment(0.0, 1.0));
        assert_eq!(path().increment(0.4, 0.4), [0.0; 4]);
        assert_eq!(BrownianPath::new(1, Rng::Cpu, 2, 3.0, 3.0).increment(1.0, 5.0), [0.0; 2]);
    }

    /// Independent parts have the variance of their lengths.
    #[test]
    fn increments_have_the_variance_of_their_length() {
        let mut path = BrownianPath::new(7, Rng::Cpu, 40_000, 0.03, 14.6);
        for (a, b) in [(0.5, 2.0), (2.0, 2.1), (1.0, 14.0)] {
            let values = path.between(b as f32, a as f32);
            let square: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
            let variance = square / values.len() as f64;
            assert!((variance - 1.0).abs() < 0.03, "{a} {b}: {variance}");
        }
    }

    #[test]
    fn rounding_is_that_of_decimals() {
        assert_eq!(
            (rounded(14.614_641_6), rounded(0.5e-6), rounded(1.5e-6)),
            (14.614_642, 0.0, 2e-6)
        );
    }
}
