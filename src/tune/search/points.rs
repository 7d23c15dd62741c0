//! Points to look at: evenly spread ones, and ones around what is good already.

use super::kernel::Point;
use crate::rng::{Noise, TorchCpu};

/// The bases of Halton's sequence, one an axis.
const PRIMES: [u32; 32] = [
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131,
];
/// Most axes.
pub const MOST_AXES: usize = PRIMES.len();

/// Numbers that a seed and a purpose decide.
#[derive(Debug)]
pub(super) struct Random(TorchCpu);

impl Random {
    /// The numbers of `seed` for the purpose `stream`.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        // The finaliser of SplitMix64 (Steele et al., 2014) keeps the streams apart.
        let mut value = seed.wrapping_add(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(TorchCpu::new(value ^ (value >> 31)))
    }

    /// Standard normal numbers.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f64> {
        self.0.normal(count).into_iter().map(f64::from).collect()
    }

    /// Numbers between 0 and 1.
    pub(super) fn uniform(&mut self, count: usize) -> Vec<f64> {
        self.normal(count).into_iter().map(super::normal::cdf).collect()
    }
}

/// `count` points that fill the cube evenly, shifted by `shift`, from number `first` on.
///
/// # Source
/// Halton (1960); Cranley and Patterson (1976): the shift.
pub(super) fn spread(shift: &[f64], first: usize, count: usize) -> Vec<Point> {
    let digit = |number: usize, base: u32| {
        let (base, mut rest) = (base as usize, number);
        let (mut value, mut place) = (0.0, 1.0);
        while rest > 0 {
            place /= base as f64;
            value += place * (rest % base) as f64;
            rest /= base;
        }
        value
    };
    let point = |number: usize| {
        shift
            .iter()
            .zip(PRIMES)
            .map(|(shift, base)| (digit(number, base) + shift).fract())
            .collect()
    };
    (first + 1..=first + count).map(point).collect()
}

/// `count` points around `middle`, of which each axis is moved with probability one half, by about `reach`.
pub(super) fn around(middle: &[f64], reach: f64, count: usize, random: &mut Random) -> Vec<Point> {
    let one = |_| {
        let (moves, which) = (random.normal(middle.len()), random.uniform(middle.len()));
        let moved = |((at, by), which): ((&f64, f64), f64)| {
            let by = if which < 0.5 || middle.len() == 1 { by * reach } else { 0.0 };
            (at + by).clamp(0.0, 1.0)
        };
        middle.iter().zip(moves).zip(which).map(moved).collect()
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_points_are_haltons() {
        let points = spread(&[0.0, 0.0], 0, 4);
        let expected = [[0.5, 1.0 / 3.0], [0.25, 2.0 / 3.0], [0.75, 1.0 / 9.0], [0.125, 4.0 / 9.0]];
        for (point, expected) in points.iter().zip(expected) {
            assert!(point.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        assert_eq!(spread(&[0.0, 0.0], 2, 2), points[2..]);
        let shifted = spread(&[0.75], 0, 1);
        assert!((shifted[0][0] - 0.25).abs() < 1e-12);
    }

    #[test]
    fn seeds_decide_the_numbers() {
        let numbers = |seed, stream| Random::new(seed, stream).uniform(3);
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(2, 1));
        assert!(numbers(5, 0).iter().all(|number| (0.0..=1.0).contains(number)));
        let near = around(&[0.9, 0.1], 0.2, 50, &mut Random::new(1, 1));
        assert!(near.iter().flatten().all(|at| (0.0..=1.0).contains(at)));
        assert!(near.iter().any(|point| (point[0] - 0.9).abs() < 1e-12 && point[1] > 0.1));
    }
}
