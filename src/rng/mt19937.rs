//! The stream of `torch.randn` on a CPU.
//!
//! A seed names the same picture here and in diffusers only if both start from the same noise, so
//! this follows PyTorch down to how it cuts the random bits.

use super::Noise;
use std::f32::consts::TAU as TAU_F32;
use std::f64::consts::TAU as TAU_F64;

/// Words of state.
const N: usize = 624;
/// Distance of the word that is mixed in.
const M: usize = 397;
/// Values that PyTorch's vectorised path transforms together: eight radii, eight angles.
const GROUP: usize = 16;

/// The noise of a PyTorch CPU generator: `torch.randn(…, generator=torch.Generator().manual_seed(seed))`
/// in float32.
///
/// PyTorch has two algorithms and chooses by the number of values *of one call*: 16 or more are
/// filled from 24-bit uniforms in groups of 16, fewer come one by one from 53-bit uniforms. Hence
/// one call for `n` values and two calls for `n / 2` differ, as they do in PyTorch.
///
/// Calls for fewer than 16 values agree with PyTorch bit for bit. Longer ones agree within 1e-6:
/// PyTorch uses polynomials for the logarithm, sine and cosine that depend on the processor, while
/// this computes them in f64 and rounds, which gives every processor the same picture.
///
/// # Source
/// PyTorch, `aten/src/ATen/core/MT19937RNGEngine.h`, `TransformationHelper.h`,
/// `DistributionsHelper.h` and `native/cpu/DistributionTemplates.h` (`normal_fill`); checked against
/// PyTorch 2.15.
#[derive(Debug, Clone)]
pub struct TorchCpu {
    engine: Mt19937,
    /// The sine half of the last Box-Muller pair of the short path; it outlives long calls.
    spare: Option<f64>,
}

impl TorchCpu {
    /// A stream from its beginning.
    ///
    /// `seed`: only the low 32 bits matter, as in PyTorch, so seeds that differ by a multiple of
    /// 2³² give the same noise.
    pub fn new(seed: u64) -> Self {
        Self { engine: Mt19937::new(seed as u32), spare: None }
    }

    /// One value of the short path: Box-Muller in f64 on 53-bit uniforms.
    fn short(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare as f32;
        }
        let (u1, u2) = (self.engine.uniform_f64(), self.engine.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let (sin, cos) = (TAU_F64 * u1).sin_cos();
        self.spare = Some(radius * sin);
        (radius * cos) as f32
    }

    /// The long path (`normal_fill`); at least [`GROUP`] values.
    fn long(&mut self, count: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count).map(|_| self.engine.uniform_f32()).collect();
        values.chunks_exact_mut(GROUP).for_each(box_muller);
        if !count.is_multiple_of(GROUP) {
            // PyTorch draws the last 16 values again, also those that a full group had given.
            let tail = &mut values[count - GROUP..];
            tail.fill_with(|| self.engine.uniform_f32());
            box_muller(tail);
        }
        values
    }
}

impl Noise for TorchCpu {
    fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < GROUP { (0..count).map(|_| self.short()).collect() } else { self.long(count) }
    }
}

/// Turns 16 uniform values into 16 normal ones: value j is the radius and value j + 8 the angle of
/// a pair.
///
/// Every operation rounds to f32 where PyTorch does, the transcendental ones after f64.
fn box_muller(group: &mut [f32]) {
    let (radii, angles) = group.split_at_mut(GROUP / 2);
    for (a, b) in radii.iter_mut().zip(angles) {
        let u1 = 1.0 - *a; // (0, 1]: the logarithm stays finite
        let radius = (-2.0 * f64::from(u1).ln() as f32).sqrt();
        let (sin, cos) = f64::from(TAU_F32 * *b).sin_cos();
        *a = radius * cos as f32;
        *b = radius * sin as f32;
    }
}

/// The Mersenne Twister.
///
/// # Source
/// Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998); the seeding is that of
/// `init_genrand` of their 2002 revision.
#[derive(Debug, Clone)]
pub(super) struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    /// The state that a key of several words gives.
    ///
    /// # Source
    /// `init_by_array` of the same revision. `key` is not empty.
    pub(super) fn from_key(key: &[u32]) -> Self {
        let mut engine = Self::new(19_650_218);
        let state = &mut engine.state;
        let mixed = |last: u32, by: u32| (last ^ (last >> 30)).wrapping_mul(by);
        let (mut i, mut j) = (1, 0);
        let forward = |state: &mut [u32; N], i: &mut usize| {
            *i += 1;
            if *i >= N {
                state[0] = state[N - 1];
                *i = 1;
            }
        };
        for _ in 0..N.max(key.len()) {
            let word = key.get(j).copied().unwrap_or_default().wrapping_add(j as u32);
            state[i] = (state[i] ^ mixed(state[i - 1], 1_664_525)).wrapping_add(word);
            forward(state, &mut i);
            j = (j + 1) % key.len().max(1);
        }
        for _ in 1..N {
            state[i] = (state[i] ^ mixed(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
            forward(state, &mut i);
        }
        state[0] = 0x8000_0000;
        engine
    }

    /// The next 32 bits.
    pub(super) fn next_u32(&mut self) -> u32 {
        if self.next >= N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// Uniform in [0, 1) on 24 bits, the width of an f32 mantissa.
    fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00ff_ffff) as f32 / (1_u32 << 24) as f32
    }

    /// Uniform in [0, 1) on 53 bits; the first word is the high one.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let bits = (high << 32 | u64::from(self.next_u32())) & ((1 << 53) - 1);
        bits as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_gives_the_published_sequence() {
        // C++ [rand.predef]: the 10000th value of a default-constructed mt19937 (seed 5489).
        let mut engine = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| engine.next_u32()).last(), Some(4_123_659_995));
    }

    #[test]
    fn short_calls_equal_torch_bit_for_bit() {
        // torch.randn(4), (16), (3) in turn on one generator with seed 42, PyTorch 2.15.
        let mut noise = TorchCpu::new(42);
        let first = [0.336_690_37, 0.128_809_4, 0.234_462_37, 0.230_333_03];
        assert_eq!(noise.normal(4), first);
        let long = noise.normal(16);
        for (ours, torch) in
            long.iter().zip([1.787_789_3, -0.478_045_26, -0.242_858_63, -0.934_163_15])
        {
            assert!((ours - torch).abs() < 1e-6, "{ours} {torch}");
        }
        assert_eq!(noise.normal(3), [1.110_290_3, -1.689_799, -0.988_959_9]);
    }

    #[test]
    fn the_spare_value_outlives_a_long_call() {
        let pair = TorchCpu::new(7).normal(2);
        let mut noise = TorchCpu::new(7);
        assert_eq!(noise.normal(1), pair[..1]);
        noise.normal(20);
        assert_eq!(noise.normal(1), pair[1..]);
    }

    #[test]
    fn only_the_low_32_bits_of_the_seed_matter() {
        assert_eq!(TorchCpu::new(5).normal(40), TorchCpu::new((1 << 32) + 5).normal(40));
        assert_ne!(TorchCpu::new(5).normal(40), TorchCpu::new(6).normal(40));
    }

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let values = TorchCpu::new(0).normal(100_003);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        assert!(values.iter().all(|v| v.is_finite()));
        assert!(TorchCpu::new(0).normal(0).is_empty());
    }
}
