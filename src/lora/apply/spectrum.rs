//! Singular values: what a change is worth at each rank, and its best factors of that rank.
//!
//! A product of thin factors is decomposed by QR of both and a small SVD between them, which is exact. A
//! whole matrix is decomposed whole when most of its rank is wanted; otherwise by a random sketch of its
//! range, refined by power iterations.
//!
//! # Source
//! Halko, Martinsson and Tropp (2011), algorithms 4.4 and 5.1.

use crate::error::{Error, Result};
use faer::{Mat, MatRef};

/// Columns of the sketch beyond one and a half times the wanted rank.
const OVERSAMPLING: usize = 16;
/// Power iterations; each sharpens the singular values of the sketch by a square.
const ITERATIONS: usize = 4;

/// Two factors whose product is a change: `up` `[rows, rank]`, `down` `[rank, columns]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::lora) struct LowRankFactors {
    pub(in crate::lora) up: Vec<f32>,
    pub(in crate::lora) down: Vec<f32>,
    pub(in crate::lora) rank: usize,
}

/// The singular values of a matrix, the largest first, perhaps not all, and their vectors.
#[derive(Debug)]
pub(in crate::lora) struct Spectrum {
    left: Mat<f64>,
    values: Vec<f64>,
    right: Mat<f64>,
    /// Squares of all elements: the squares of all singular values.
    energy: f64,
}

impl Spectrum {
    /// Decomposes the product up · down; `up`: `[rows, rank]`, `down`: `[rank, columns]`.
    pub(in crate::lora) fn of_product(up: &[f32], down: &[f32], rank: usize) -> Result<Self> {
        let rows = up.len().checked_div(rank).unwrap_or(0);
        let columns = down.len().checked_div(rank).unwrap_or(0);
        let up = wide(MatRef::from_row_major_slice(up, rows, rank));
        let down = wide(MatRef::from_row_major_slice(down, rank, columns));
        let (tall, flat) = (up.qr(), down.transpose().qr());
        let core = tall.thin_R() * flat.thin_R().transpose();
        let core = core.thin_svd().map_err(|_| diverged())?;
        let values: Vec<f64> = core.S().column_vector().iter().copied().collect();
        Ok(Self {
            left: tall.compute_thin_Q() * core.U(),
            right: flat.compute_thin_Q() * core.V(),
            energy: values.iter().map(|s| s * s).sum(),
            values,
        })
    }

    /// Decomposes a whole matrix with `rows` rows; at least its `rank` largest values are found.
    pub(in crate::lora) fn of_matrix(matrix: &[f32], rows: usize, rank: usize) -> Result<Self> {
        let columns = matrix.len().checked_div(rows).unwrap_or(0);
        let smaller = rows.min(columns);
        let sketch = rank.saturating_add(rank / 2).saturating_add(OVERSAMPLING);
        let whole = MatRef::from_row_major_slice(matrix, rows, columns);
        let energy = matrix.iter().map(|v| f64::from(*v).powi(2)).sum();
        let mut spectrum =
            if sketch * 2 >= smaller { complete(whole)? } else { sketched(whole, sketch)? };
        spectrum.energy = energy;
        Ok(spectrum)
    }

    /// The number of values that are known.
    pub(in crate::lora) fn len(&self) -> usize {
        self.values.len()
    }

    /// The squares of all elements.
    pub(in crate::lora) fn energy(&self) -> f64 {
        self.energy
    }

    /// The squares that the `rank` largest values hold.
    pub(in crate::lora) fn held(&self, rank: usize) -> f64 {
        let held: f64 = self.values.iter().take(rank).map(|s| s * s).sum();
        held.min(self.energy)
    }

    /// The smallest rank that holds `share` of the energy.
    pub(in crate::lora) fn rank_of(&self, share: f64) -> usize {
        let wanted = share * self.energy;
        let mut held = 0.0;
        let short = |s: &&f64| {
            let before = held;
            held += **s * **s;
            // Rounding must not cost a rank that holds nothing.
            before < wanted * (1.0 - 1e-12)
        };
        self.values.iter().take_while(short).count()
    }

    /// The best factors of `rank`: the singular values are on `up`.
    ///
    /// `clamp`: elements beyond this quantile of all of them are cut off, as kohya and PEFT can do.
    pub(in crate::lora) fn factors(&self, rank: usize, clamp: Option<f32>) -> LowRankFactors {
        let rank = rank.min(self.len());
        let (rows, columns) = (self.left.nrows(), self.right.nrows());
        let mut up = Vec::with_capacity(rows * rank);
        for row in 0..rows {
            up.extend((0..rank).map(|k| (self.left[(row, k)] * self.values[k]) as f32));
        }
        let mut down = Vec::with_capacity(rank * columns);
        for k in 0..rank {
            down.extend((0..columns).map(|column| self.right[(column, k)] as f32));
        }
        if let Some(share) = clamp {
            let limit = quantile(&up, &down, share);
            let cut = |v: &mut f32| *v = v.max(-limit).min(limit);
            up.iter_mut().chain(&mut down).for_each(cut);
        }
        LowRankFactors { up, down, rank }
    }
}

fn diverged() -> Error {
    Error::Internal("singular values did not converge".into())
}

fn wide(matrix: MatRef<'_, f32>) -> Mat<f64> {
    Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| f64::from(matrix[(i, j)]))
}

/// All singular values.
fn complete(matrix: MatRef<'_, f32>) -> Result<Spectrum> {
    let svd = matrix.thin_svd().map_err(|_| diverged())?;
    let values = svd.S().column_vector().iter().map(|s| f64::from(*s)).collect();
    Ok(Spectrum { left: wide(svd.U()), values, right: wide(svd.V()), energy: 0.0 })
}

/// The `sketch` largest singular values, from a random sketch of the range.
fn sketched(matrix: MatRef<'_, f32>, sketch: usize) -> Result<Spectrum> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut range = matrix * Mat::from_fn(matrix.ncols(), sketch, |_, _| uniform(&mut state));
    for _ in 0..ITERATIONS {
        let rows = matrix.transpose() * range.qr().compute_thin_Q();
        range = matrix * rows.qr().compute_thin_Q();
    }
    let basis = range.qr().compute_thin_Q(); // [rows, sketch]
    let inside = basis.transpose() * matrix; // [sketch, columns]
    let svd = inside.thin_svd().map_err(|_| diverged())?;
    let values = svd.S().column_vector().iter().map(|s| f64::from(*s)).collect();
    let left = wide((&basis * svd.U()).as_ref());
    Ok(Spectrum { left, values, right: wide(svd.V()), energy: 0.0 })
}

/// A number between −1 and 1 (xorshift64*, Vigna 2016): the sketch is the same every time.
fn uniform(state: &mut u64) -> f32 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let bits = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
    bits as f32 / (1u64 << 23) as f32 - 1.0
}

/// The quantile `share` of all elements of both and their opposites, interpolated between neighbours.
///
/// kohya and PEFT take the elements as they are, whose signs are an accident of the decomposition.
fn quantile(up: &[f32], down: &[f32], share: f32) -> f32 {
    let mut all: Vec<f32> = up.iter().chain(down).flat_map(|v| [*v, -v]).collect();
    all.sort_unstable_by(f32::total_cmp);
    let place = f64::from(share.clamp(0.5, 1.0)) * all.len().saturating_sub(1) as f64;
    let (below, part) = (place.floor() as usize, (place - place.floor()) as f32);
    let at = |i: usize| all.get(i).or(all.last()).copied().unwrap_or(0.0);
    at(below) + part * (at(below + 1) - at(below))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::add_product;

    fn random(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..len).map(|_| uniform(&mut state)).collect()
    }

    fn product(factors: &LowRankFactors) -> Vec<f32> {
        let (rows, columns) = (factors.up.len() / factors.rank, factors.down.len() / factors.rank);
        let mut out = vec![0.0; rows * columns];
        add_product(&mut out, columns, &factors.up, &factors.down, 1.0);
        out
    }

    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let square = |v: f32| f64::from(v).powi(2);
        let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        (off / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt() as f32
    }

    #[test]
    fn a_planted_rank_is_found() {
        for (rows, columns, rank) in [(200, 300, 8), (300, 200, 8), (40, 24, 6), (5, 90, 2)] {
            let planted = LowRankFactors {
                up: random(rows * rank, 1),
                down: random(rank * columns, 2),
                rank,
            };
            let matrix = product(&planted);
            let spectrum = Spectrum::of_matrix(&matrix, rows, rank).unwrap();
            assert!(distance(&product(&spectrum.factors(rank, None)), &matrix) < 1e-5);
            assert!(spectrum.held(rank) / spectrum.energy() > 1.0 - 1e-6);
            let thin = Spectrum::of_product(&planted.up, &planted.down, rank).unwrap();
            assert!(distance(&product(&thin.factors(rank, None)), &matrix) < 1e-6);
            assert_eq!(thin.rank_of(1.0), rank);
        }
    }

    #[test]
    fn thin_factors_give_what_the_whole_matrix_gives() {
        // More columns in the stack than the matrix has rows.
        for (rows, columns, rank) in [(60, 50, 12), (10, 50, 24)] {
            let (up, down) = (random(rows * rank, 3), random(rank * columns, 4));
            let matrix = product(&LowRankFactors { up: up.clone(), down: down.clone(), rank });
            let thin = Spectrum::of_product(&up, &down, rank).unwrap();
            let whole = complete(MatRef::from_row_major_slice(&matrix, rows, columns)).unwrap();
            for cut in [1, 4, 9] {
                let (a, b) = (thin.factors(cut, None), whole.factors(cut, None));
                assert!(distance(&product(&a), &product(&b)) < 1e-5, "{rows} {cut}");
            }
        }
    }

    #[test]
    fn the_sketch_is_as_good_as_all_values_where_none_stands_out() {
        let (rows, columns, rank) = (240, 320, 16);
        let noise = random(rows * columns, 5);
        let matrix = MatRef::from_row_major_slice(&noise, rows, columns);
        let all = complete(matrix).unwrap();
        let sketch = sketched(matrix, rank + rank / 2 + OVERSAMPLING).unwrap();
        let held = |s: &Spectrum| s.values.iter().take(rank).map(|s| s * s).sum::<f64>();
        let share = held(&sketch) / held(&all);
        println!("white noise: the sketch holds {share} of the best");
        assert!(share > 0.97, "{share}");
    }

    #[test]
    fn quantiles_and_clamps() {
        // −4 −3 −2 −1 1 2 3 4
        for (share, expected) in [(0.5, 0.0), (6.5 / 7.0, 3.5), (1.0, 4.0)] {
            let found = quantile(&[1.0, -2.0], &[3.0, 4.0], share);
            assert!((found - expected).abs() < 1e-5, "{share}: {found}");
        }
        let spectrum = Spectrum::of_product(&[3.0, 4.0], &[1.0, 0.0], 1).unwrap();
        let cut = spectrum.factors(1, Some(6.0 / 7.0));
        assert!(cut.up.iter().all(|v| (v.abs() - 3.0).abs() < 1e-5), "{cut:?}");
        assert!((cut.down[0].abs() - 1.0).abs() < 1e-6, "{cut:?}");
        assert_eq!(spectrum.factors(5, None).rank, 1);
    }
}
