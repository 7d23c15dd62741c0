//! The streams of PyTorch's CUDA generators: Philox4x32-10.

use super::Noise;

/// The factor that makes a uniform value of a word, 2⁻³² as cuRAND writes it.
const UNIFORM: f32 = 2.328_306_4e-10;
/// The same for an angle, times 2π.
const ANGLE: f32 = 2.328_306_4e-10 * 6.283_185_5;
/// Threads of a block of PyTorch's kernel.
const BLOCK: usize = 256;
/// Values that a thread makes of one counter.
const EACH: usize = 4;

/// How many threads an NVIDIA card runs at once, which decides what becomes of large latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CudaLayout {
    /// Streaming multiprocessors.
    pub processors: usize,
    /// Most threads of one of them.
    pub threads: usize,
}

/// The noise of a generator on an NVIDIA card; also what A1111 calls "NV".
///
/// Without a layout element i of a call is made of a counter of its own. That is what a card gives as long as it has
/// a thread for every element; [`CudaLayout`] has what it gives otherwise. A card computes sines less exactly, so
/// that its values are about 1e-6 away.
///
/// # Source
/// Salmon et al. (2011), "Parallel Random Numbers: As Easy as 1, 2, 3"; PyTorch, `aten/src/ATen/native/cuda/
/// DistributionTemplates.h`; cuRAND, `curand_normal.h`; A1111, `modules/rng_philox.py`.
#[derive(Debug, Clone)]
pub struct Philox {
    seed: u64,
    /// The counter of the next call.
    offset: u64,
    layout: Option<CudaLayout>,
}

impl Philox {
    /// A stream from its beginning, with a counter for each element.
    pub fn new(seed: u64) -> Self {
        Self { seed, offset: 0, layout: None }
    }

    /// A stream as a card of this layout gives it.
    pub fn on_card(seed: u64, layout: CudaLayout) -> Self {
        Self { layout: Some(layout), ..Self::new(seed) }
    }

    fn on_threads(&mut self, count: usize, layout: CudaLayout) -> Vec<f32> {
        let most = layout.processors * (layout.threads / BLOCK);
        let threads = BLOCK * count.div_ceil(BLOCK).min(most.max(1));
        let mut values = vec![0.0; count];
        for thread in 0..threads.min(count) {
            let mut counter = self.offset;
            let mut first = thread;
            while first < count {
                let words = words(self.seed, counter, thread as u64);
                let pairs = [pair(words[0], words[1]), pair(words[2], words[3])];
                for (k, value) in pairs.into_iter().flatten().enumerate() {
                    if let Some(place) = values.get_mut(first + k * threads) {
                        *place = value;
                    }
                }
                first += EACH * threads;
                counter = counter.wrapping_add(1);
            }
        }
        let rounds = count.saturating_sub(1) / (EACH * threads.max(1)) + 1;
        self.offset = self.offset.wrapping_add(rounds as u64);
        values
    }
}

impl Noise for Philox {
    fn normal(&mut self, count: usize) -> Vec<f32> {
        if let Some(layout) = self.layout {
            return self.on_threads(count, layout);
        }
        let value = |i: usize| {
            let [first, second, ..] = words(self.seed, self.offset, i as u64);
            pair(first, second)[0]
        };
        let values = (0..count).map(value).collect();
        self.offset = self.offset.wrapping_add(1);
        values
    }
}

/// Ten rounds over a counter: four words.
fn words(seed: u64, offset: u64, subsequence: u64) -> [u32; 4] {
    let mut c =
        [offset as u32, (offset >> 32) as u32, subsequence as u32, (subsequence >> 32) as u32];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xd251_1f53;
        let b = u64::from(c[2]) * 0xcd9e_8d57;
        c = [
            (b >> 32) as u32 ^ c[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ c[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

/// Two normal values of two words: sine and cosine of one angle.
fn pair(first: u32, second: u32) -> [f32; 2] {
    let (uniform, angle) = (f64::from(UNIFORM), f64::from(ANGLE));
    let u = f64::from(first) * uniform + f64::from(UNIFORM / 2.0);
    let v = f64::from(second) * angle + f64::from(ANGLE / 2.0);
    // With its last bits u is 1 + 2⁻²⁴ or so: the logarithm must not be above zero.
    let radius = (-2.0 * u.ln()).max(0.0).sqrt();
    let (sin, cos) = v.sin_cos();
    [(radius * sin) as f32, (radius * cos) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Salmon et al., `kat_vectors` of Random123: counter and key zero.
    #[test]
    fn words_equal_the_published_ones() {
        assert_eq!(words(0, 0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    }

    #[test]
    fn calls_differ_and_seeds_have_64_bits() {
        let mut stream = Philox::new(1 << 40);
        let first = stream.normal(40);
        assert_ne!(first, stream.normal(40));
        assert_ne!(first, Philox::new(0).normal(40));
        assert_eq!(first[..7], Philox::new(1 << 40).normal(7));
    }

    /// A card with a thread for every element gives A1111's numbers; a small one does not.
    #[test]
    fn large_cards_give_the_simple_rule() {
        let large = CudaLayout { processors: 108, threads: 2048 };
        let mut card = Philox::on_card(42, large);
        let mut simple = Philox::new(42);
        for count in [1, 3, 4096, 16384] {
            assert_eq!(card.normal(count), simple.normal(count), "{count}");
        }
        let small = CudaLayout { processors: 1, threads: 1024 };
        let values = Philox::on_card(42, small).normal(5000);
        let simple = Philox::new(42).normal(5000);
        assert_eq!(values[..1024], simple[..1024]);
        assert_ne!(values[1024..], simple[1024..]);
        assert_eq!(values.iter().filter(|value| **value == 0.0).count(), 0);
        // Thread 0 makes element 1024 of the cosine of its first two words.
        let first = words(42, 0, 0);
        assert_eq!(values[1024], pair(first[0], first[1])[1]);
        // 4096 values on 1024 threads are one round, so that 5000 are two.
        let mut card = Philox::on_card(42, small);
        card.normal(5000);
        assert_eq!(card.offset, 2);
    }

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let values = Philox::new(3).normal(100_000);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
