//! What the machine gives at most: the innermost product without memory, and memory without
//! products.

use crate::error::Result;
use crate::kernels::memory::area::zeros;
use crate::kernels::simd::microkernel::{self, COLUMNS, ROWS, Segment, Sums, Tile, TileTypes};
use crate::kernels::simd::precision::Precision;
use crate::kernels::simd::processor::Instructions;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Words of a row: with 64 columns of weights 24 KiB, which stay in the first-level cache.
const WORDS: usize = 96;
/// Numbers of a buffer, 256 MiB: more than any cache holds.
const NUMBERS: usize = 64 << 20;
/// Numbers that one thread takes at a time.
const PIECE: usize = 1 << 20;

/// How long is measured, and how often; the best counts.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    time: Duration,
    numbers: usize,
}

/// The machine's limits, all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Operations a second in f32, by the widest kernels that may be used.
    pub f32: f64,
    /// Operations a second on bf16 factors with sums in f32.
    pub bf16: f64,
    /// Bytes a second, read from memory.
    pub read: f64,
    /// Bytes a second, read and written in a copy.
    pub copy: f64,
}

impl Ceilings {
    /// Measures for about a second and a half. Other work on the machine lowers what is found.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub fn measure() -> Result<Self> {
        Self::with(Effort { rounds: 6, time: Duration::from_millis(100), numbers: NUMBERS })
    }

    fn with(effort: Effort) -> Result<Self> {
        let (read, copy) = bandwidth(effort)?;
        let best = |precision| {
            let rates = (0..effort.rounds).map(|_| rate(precision, effort.time));
            rates.fold(0.0, f64::max)
        };
        Ok(Self { f32: best(Precision::F32), bf16: best(Precision::Bf16), read, copy })
    }

    /// Operations a second for products of this precision.
    pub fn rate(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F32 => self.f32,
            Precision::Bf16 => self.bf16,
        }
    }
}

/// Operations a second of all threads, each with a tile of its own.
fn rate(precision: Precision, time: Duration) -> f64 {
    let factors = TileTypes::of(precision.of_operands(2 * WORDS), precision);
    let kernel =
        microkernel::kernels(factors, Instructions::used())[COLUMNS / microkernel::LANES - 1];
    let row = factors.row_words() * WORDS;
    let numbers = if precision == Precision::F32 { WORDS } else { 2 * WORDS };
    let operations = (2 * ROWS * COLUMNS * numbers) as f64;
    let rates = rayon::broadcast(|_| {
        // Small numbers: denormal or infinite ones could take another time.
        let rows = vec![0x3c00_3c00_u32; ROWS * row];
        let weights = vec![0x3c00_3c00_u32; COLUMNS * WORDS];
        let mut out = vec![0f32; ROWS * COLUMNS];
        let segments = [Segment { shift: 0, words: WORDS }];
        let begin = Instant::now();
        let mut tiles = 0usize;
        while begin.elapsed() < time {
            for _ in 0..1000 {
                let rows = std::array::from_fn(|r| &rows[r * row..]);
                let sums = Sums { out: &mut out, stride: COLUMNS, add: false };
                let of = (factors, COLUMNS / microkernel::LANES);
                let tile = Tile::over(rows, &segments, &weights, sums, of);
                // SAFETY: rows, weights and `out` have the sizes that the tile names and are this
                // thread's own.
                #[allow(unsafe_code)]
                unsafe {
                    kernel(black_box(tile));
                }
            }
            tiles += 1000;
        }
        black_box(&out);
        operations * tiles as f64 / begin.elapsed().as_secs_f64()
    });
    rates.iter().sum()
}

/// Bytes a second: read, and copied (both ways counted).
fn bandwidth(effort: Effort) -> Result<(f64, f64)> {
    let what = "measuring";
    let (mut from, mut to) = (zeros(effort.numbers, what)?, zeros(effort.numbers, what)?);
    // The first touch makes the pages.
    from.par_chunks_mut(PIECE).for_each(|piece| piece.fill(1.0));
    to.par_chunks_mut(PIECE).for_each(|piece| piece.fill(0.0));
    let best = |work: &mut dyn FnMut()| {
        let times = (0..effort.rounds).map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE)
    };
    let bytes = (effort.numbers * size_of::<f32>()) as f64;
    let read = best(&mut || {
        let sum = from.par_chunks(PIECE).map(|piece| {
            let words: &[u32] = bytemuck::cast_slice(piece);
            words.iter().fold(0u32, |sum, word| sum.wrapping_add(*word))
        });
        black_box(sum.reduce(|| 0, u32::wrapping_add));
    });
    let copy = best(&mut || {
        let pieces = to.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE));
        pieces.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
    });
    Ok((bytes / read, 2.0 * bytes / copy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_found() {
        let effort = Effort { rounds: 1, time: Duration::from_millis(1), numbers: 100_000 };
        let found = Ceilings::with(effort).unwrap();
        for rate in [found.f32, found.bf16, found.read, found.copy] {
            assert!(rate.is_finite() && rate > 1e6, "{found:?}");
        }
        assert_eq!(found.rate(Precision::Bf16), found.bf16);
    }
}
