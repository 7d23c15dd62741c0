//! The random numbers of Python's `random` module, which programs written in Python choose words with.

use super::mt19937::Mt19937;

/// Python's `random.Random(seed)`: the same seed and the same calls give the same numbers.
///
/// # Source
/// CPython 3.11, `Lib/random.py` and `Modules/_randommodule.c`.
#[derive(Debug, Clone)]
pub struct PythonRandom {
    engine: Mt19937,
}

impl PythonRandom {
    /// A generator from its beginning.
    pub fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        // Python's key is the seed without leading zeros, but one word at least.
        let key = if words[1] == 0 { &words[..1] } else { &words[..] };
        Self { engine: Mt19937::from_key(key) }
    }

    /// `random()`: uniform in [0, 1) on 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.engine.next_u32() >> 5, self.engine.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `randrange(count)`: a whole number below `count`, 0 where `count` is 0.
    pub fn below(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        let shift = count.leading_zeros();
        loop {
            let drawn = self.engine.next_u32() >> shift;
            if drawn < count {
                return drawn;
            }
        }
    }

    /// `choices(…, cum_weights)`: a place among `sums`, the running sums of weights, each as likely as its weight.
    pub fn weighted(&mut self, sums: &[f64]) -> usize {
        let total = sums.last().copied().unwrap_or_default();
        let drawn = self.uniform() * total;
        sums.partition_point(|sum| *sum <= drawn).min(sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPython 3.11.
    #[test]
    fn numbers_are_python_s() {
        let mut random = PythonRandom::new(42);
        let drawn: Vec<f64> = (0..4).map(|_| random.uniform()).collect();
        let python = [
            0.639_426_798_457_883_7,
            0.025_010_755_222_666_936,
            0.275_029_318_369_119_26,
            0.223_210_738_148_822_75,
        ];
        assert_eq!(drawn, python);
        assert_eq!(PythonRandom::new(42).below(6), 5);
        let mut random = PythonRandom::new(43);
        let drawn: Vec<u32> = (0..5).map(|_| random.below(6) + 1).collect();
        assert_eq!(drawn, [1, 3, 6, 2, 4]);
        // random.seed(2**40 + 3); random.random()
        assert_eq!(PythonRandom::new((1 << 40) + 3).uniform(), 0.219_787_106_371_167_16);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn weights_are_shares() {
        let mut random = PythonRandom::new(0);
        let mut counts = [0; 3];
        (0..30_000).for_each(|_| counts[random.weighted(&[1.0, 1.0, 3.0])] += 1);
        assert!(counts[1] == 0 && (9_500..10_500).contains(&counts[0]), "{counts:?}");
        assert_eq!(random.weighted(&[]), 0);
    }
}
