//! OFT and BOFT: blocks of the weight's rows (or, in PEFT, of its inputs) are rotated.
//!
//! A block X gives the skew-symmetric Q, and Q the rotation R = (I + Q)(I − Q)⁻¹ (Cayley). At
//! multiplier m the block is I + m · (R − I).
//!
//! # Source
//! Qiu et al. (2023), OFT; Liu et al. (2024), BOFT; LyCORIS 4.1.3, kohya's `networks/oft.py`, PEFT 0.21,
//! OneTrainer (2025) for `oft_R` without a configuration: its files are read by ComfyUI's and others' loaders alike.

use crate::error::{Error, Result};
use crate::lora::factor::Factor;
use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef};

/// Largest block that is rotated; larger ones would take minutes.
const MAX_BLOCK: usize = 4096;

/// One adapter's rotation of one weight.
#[derive(Debug, Clone)]
pub(crate) enum Rotation {
    /// LyCORIS and kohya: `[k, b, b]` (OFT) or `[factors, k, b, b]` (BOFT), of rows.
    Rows { blocks: Factor, limit: Option<f32>, rescale: Option<Factor> },
    /// PEFT's and OneTrainer's OFT: `[k, b(b−1)/2]`, of inputs; one block is for all.
    Inputs { packed: Factor, law: InputLaw },
    /// PEFT BOFT with one butterfly factor: `[1, k, b, b]` and a size for each output.
    Butterfly { blocks: Factor, sizes: Factor },
}

/// How packed vectors become rotations of inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InputLaw {
    /// Terms of the truncated series; `None` for the exact map.
    pub(crate) series: Option<usize>,
    /// Whether vectors are divided by the root of their length (OneTrainer's scaled OFT).
    pub(crate) scaled: bool,
    /// Whether kernels are turned the other way: OneTrainer multiplies the weight of a convolution by R where it
    /// multiplies a linear layer's inputs, that is its weight by Rᵀ.
    pub(crate) kernels_back: bool,
    /// How far all blocks together turn at most (PEFT's constrained OFT).
    pub(crate) reach: Option<f32>,
}

/// Square matrices of one size, one after another.
type Blocks = Vec<Mat<f64>>;

impl Rotation {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Rotation::Rows { blocks, .. } if blocks.shape().len() == 4 => "boft",
            Rotation::Rows { .. } | Rotation::Inputs { .. } => "oft",
            Rotation::Butterfly { .. } => "boft",
        }
    }

    pub(crate) fn factors(&self) -> Vec<&Factor> {
        match self {
            Rotation::Rows { blocks, rescale, .. } => [blocks].into_iter().chain(rescale).collect(),
            Rotation::Inputs { packed, .. } => vec![packed],
            Rotation::Butterfly { blocks, sizes } => vec![blocks, sizes],
        }
    }

    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        let outputs = shape.first().copied().unwrap_or(1);
        let columns: usize = shape.iter().skip(1).product();
        let wrong = |what: &str, factor: &Factor| {
            Some(format!("{what}: its shape is {:?}, the weight's {shape:?}", factor.shape()))
        };
        match self {
            Rotation::Rows { blocks, rescale, .. } => {
                let dims = blocks.shape();
                if !(3..=4).contains(&dims.len()) {
                    return wrong("oft_blocks has three or four dimensions", blocks);
                }
                let (count, size) = (dims[dims.len() - 3], dims[dims.len() - 2]);
                if size != dims[dims.len() - 1] {
                    return wrong("the blocks of oft_blocks are square", blocks);
                }
                if count.checked_mul(size) != Some(outputs) || size > MAX_BLOCK {
                    return wrong("the blocks of oft_blocks do not make the outputs", blocks);
                }
                if dims.len() == 4 && !butterfly_fits(dims[0], size, outputs) {
                    return wrong("the butterfly factors of oft_blocks do not fit", blocks);
                }
                let rescale = rescale.as_ref().filter(|rescale| rescale.elements() != outputs);
                rescale.and_then(|rescale| wrong("rescale has one number an output", rescale))
            }
            Rotation::Inputs { packed, .. } => {
                let size = unpacked_size(packed.dim(1));
                let blocks = packed.dim(0);
                let fits = packed.shape().len() == 2
                    && size.is_some_and(|size| {
                        (blocks == 1 && columns.is_multiple_of(size))
                            || blocks.checked_mul(size) == Some(columns)
                    });
                if fits {
                    None
                } else {
                    let what = "oft_R is [blocks, n(n-1)/2], one block for all inputs or blocks of n that make them";
                    wrong(what, packed)
                }
            }
            Rotation::Butterfly { blocks, sizes } => {
                let dims = blocks.shape();
                let fits = dims.len() == 4
                    && dims[2] == dims[3]
                    && dims[1].checked_mul(dims[2]) == Some(columns)
                    && sizes.elements() == outputs;
                if fits {
                    None
                } else {
                    wrong("the blocks of boft_R do not make the inputs", blocks)
                }
            }
        }
    }

    /// W' at multiplier `m`.
    pub(crate) fn apply(&self, base: &[f32], shape: &[usize], m: f32) -> Result<Vec<f32>> {
        let columns: usize = shape.iter().skip(1).product();
        match self {
            Rotation::Rows { blocks, limit, rescale } => {
                let mut turned = turn_rows(blocks, *limit, base, columns, m)?;
                if let Some(rescale) = rescale {
                    rescale_rows(&mut turned, &rescale.read()?, columns, m);
                }
                Ok(turned)
            }
            Rotation::Inputs { packed, law } => {
                let mut values = packed.read()?;
                if law.scaled {
                    let root = (packed.dim(1) as f32).sqrt();
                    for value in &mut values {
                        *value /= root;
                    }
                }
                let mut skew = unpack(&values, packed.dim(0));
                if let Some(reach) = law.reach {
                    shorten(&mut skew, f64::from(reach) / (packed.dim(0).max(1) as f64).sqrt());
                }
                let back = law.kernels_back && shape.len() > 2;
                // The truncated series acts from the left of the inputs, the exact map from the right.
                let turn = |q: &Mat<f64>| match law.series {
                    Some(terms) if back => neumann(q, terms).transpose().to_owned(),
                    Some(terms) => neumann(q, terms),
                    None => cayley(q).transpose().to_owned(),
                };
                Ok(turn_inputs(&softened(skew.iter().map(turn), m), base, columns))
            }
            Rotation::Butterfly { blocks, sizes } => {
                let size = blocks.dim(3);
                let halved = |x: &Mat<f64>| {
                    Mat::from_fn(size, size, |i, j| {
                        // (I − S)(I + S)⁻¹ is the map of −S.
                        -0.5 * (x[(i, j)] - x[(j, i)])
                    })
                };
                let values = blocks.read()?;
                let turns = square_blocks(&values, size)
                    .iter()
                    .map(|x| cayley(&halved(x)))
                    .collect::<Vec<_>>();
                let mut turned = turn_inputs(&softened(turns.into_iter(), m), base, columns);
                rescale_rows(&mut turned, &sizes.read()?, columns, m);
                Ok(turned)
            }
        }
    }
}

/// Whether every butterfly factor can regroup the rows.
fn butterfly_fits(factors: usize, size: usize, outputs: usize) -> bool {
    size.is_multiple_of(2)
        && (0..factors).all(|i| {
            let reach = u32::try_from(i).ok().and_then(|i| (size / 2).checked_shl(i));
            reach.is_some_and(|reach| reach > 0 && outputs.is_multiple_of(2 * reach))
        })
}

fn square_blocks(values: &[f32], size: usize) -> Blocks {
    values
        .chunks_exact((size * size).max(1))
        .map(|block| Mat::from_fn(size, size, |i, j| f64::from(block[i * size + j])))
        .collect()
}

/// Q = X − Xᵀ of every block, shortened where all of them together exceed `limit`.
fn skews(values: &[f32], size: usize, limit: Option<f32>) -> Blocks {
    let mut skews: Blocks = square_blocks(values, size)
        .iter()
        .map(|x| Mat::from_fn(size, size, |i, j| x[(i, j)] - x[(j, i)]))
        .collect();
    let norm = skews.iter().map(Mat::squared_norm_l2).sum::<f64>().sqrt();
    if let Some(limit) = limit.map(f64::from).filter(|limit| norm > *limit) {
        for q in &mut skews {
            *q *= faer::Scale(limit / norm);
        }
    }
    skews
}

/// (I + Q)(I − Q)⁻¹.
fn cayley(q: &Mat<f64>) -> Mat<f64> {
    let size = q.nrows();
    let identity = Mat::<f64>::identity(size, size);
    let (plus, minus) = (&identity + q, &identity - q);
    // X · (I − Q) = I + Q, transposed: (I − Q)ᵀ Xᵀ = (I + Q)ᵀ. I − Q is regular for every skew Q.
    let lu = minus.transpose().to_owned().partial_piv_lu();
    lu.solve(plus.transpose()).transpose().to_owned()
}

/// Every block that is longer than `reach`, shortened to it.
fn shorten(blocks: &mut Blocks, reach: f64) {
    for q in blocks {
        let norm = q.squared_norm_l2().sqrt();
        if norm > reach {
            *q *= faer::Scale(reach / norm);
        }
    }
}

/// PEFT's truncated series of the same: I + 2Q + 2Q² + … , the last power once.
fn neumann(q: &Mat<f64>, terms: usize) -> Mat<f64> {
    let size = q.nrows();
    let mut sum = Mat::<f64>::identity(size, size);
    if terms < 2 {
        return sum;
    }
    sum += q * faer::Scale(2.0);
    if terms < 3 {
        return sum;
    }
    let mut power = q * q;
    sum += &power * faer::Scale(2.0);
    for _ in 3..terms.saturating_sub(1) {
        power = &power * q;
        sum += &power * faer::Scale(2.0);
    }
    sum + &power * q
}

/// I + m · (R − I) for every R.
fn softened(turns: impl Iterator<Item = Mat<f64>>, m: f32) -> Blocks {
    let m = f64::from(m);
    turns
        .map(|turn| {
            Mat::from_fn(turn.nrows(), turn.ncols(), |i, j| {
                let unit = if i == j { 1.0 } else { 0.0 };
                unit + m * (turn[(i, j)] - unit)
            })
        })
        .collect()
}

fn turn_rows(
    blocks: &Factor,
    limit: Option<f32>,
    base: &[f32],
    columns: usize,
    m: f32,
) -> Result<Vec<f32>> {
    let dims = blocks.shape().to_vec();
    let size = dims[dims.len() - 1];
    let turns = softened(
        skews(&blocks.read()?, size, limit).iter().map(cayley).collect::<Vec<_>>().into_iter(),
        m,
    );
    if dims.len() == 3 {
        // Row block k becomes R_kᵀ · rows.
        return Ok(per_block(&turns, base, columns, |turn, rows| turn.transpose() * rows));
    }
    let outputs = base.len().checked_div(columns).unwrap_or(0);
    let mut weight = base.to_vec();
    for (i, factor) in turns.chunks(dims[1].max(1)).enumerate() {
        let reach = (size / 2) << i;
        let order = swapped(outputs, reach, false);
        let grouped = reordered(&weight, columns, &order);
        let turned = per_block(factor, &grouped, columns, |turn, rows| turn * rows);
        weight = reordered(&turned, columns, &swapped(outputs, reach, true));
    }
    Ok(weight)
}

/// The order of rows after viewing them as `[·, 2, reach]` and swapping the last two, or back.
fn swapped(outputs: usize, reach: usize, back: bool) -> Vec<usize> {
    let (a, b) = if back { (reach, 2) } else { (2, reach) };
    let place = |row: usize| {
        let (group, rest) = (row / (2 * reach), row % (2 * reach));
        // Row (j, i) of the swapped view is row (i, j) of the original.
        let (j, i) = (rest / a, rest % a);
        group * 2 * reach + i * b + j
    };
    (0..outputs).map(place).collect()
}

fn reordered(weight: &[f32], columns: usize, order: &[usize]) -> Vec<f32> {
    order.iter().flat_map(|&row| &weight[row * columns..][..columns]).copied().collect()
}

/// Every block of rows through `turn`.
fn per_block(
    turns: &[Mat<f64>],
    base: &[f32],
    columns: usize,
    turn: impl Fn(MatRef<'_, f64>, MatRef<'_, f64>) -> Mat<f64>,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(base.len());
    let size = turns.first().map_or(1, Mat::nrows);
    for (matrix, rows) in turns.iter().zip(base.chunks(size * columns)) {
        let rows = Mat::from_fn(size, columns, |i, j| f64::from(rows[i * columns + j]));
        let turned = turn(matrix.as_ref(), rows.as_ref());
        for i in 0..size {
            out.extend((0..columns).map(|j| turned[(i, j)] as f32));
        }
    }
    out
}

/// W'[o, block] = R · W[o, block] for every output and block of inputs.
fn turn_inputs(turns: &[Mat<f64>], base: &[f32], columns: usize) -> Vec<f32> {
    let size = turns.first().map_or(1, Mat::nrows);
    let outputs = base.len().checked_div(columns).unwrap_or(0);
    let mut out = vec![0.0; base.len()];
    for block in 0..columns / size {
        let turn = &turns[block % turns.len()];
        let part =
            Mat::from_fn(size, outputs, |j, o| f64::from(base[o * columns + block * size + j]));
        let turned = turn * part;
        for o in 0..outputs {
            for j in 0..size {
                out[o * columns + block * size + j] = turned[(j, o)] as f32;
            }
        }
    }
    out
}

fn rescale_rows(weight: &mut [f32], sizes: &[f32], columns: usize, m: f32) {
    for (row, size) in weight.chunks_mut(columns.max(1)).zip(sizes) {
        for w in row {
            *w *= 1.0 + m * (size - 1.0);
        }
    }
}

/// The b for which b(b − 1)/2 is `packed`.
fn unpacked_size(packed: usize) -> Option<usize> {
    (2..=MAX_BLOCK).find(|b| b * (b - 1) / 2 >= packed).filter(|b| b * (b - 1) / 2 == packed)
}

/// Skew matrices from their strict upper triangles, row by row.
fn unpack(values: &[f32], count: usize) -> Blocks {
    let packed = values.len().checked_div(count).unwrap_or(0);
    let size = unpacked_size(packed).unwrap_or(1);
    values
        .chunks_exact(packed.max(1))
        .map(|row| {
            let mut q = Mat::zeros(size, size);
            let pairs = (0..size).flat_map(|i| (i + 1..size).map(move |j| (i, j)));
            for ((i, j), value) in pairs.zip(row) {
                q[(i, j)] = f64::from(*value);
                q[(j, i)] = -f64::from(*value);
            }
            q
        })
        .collect()
}

/// The refusal of BOFT files whose law was never checked.
pub(crate) fn several_butterflies(name: &str) -> Error {
    Error::unsupported(
        format!("`{name}`: PEFT BOFT with several butterfly factors"),
        "merge the adapter with the tool that trained it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(size: usize) -> Mat<f64> {
        let x = Mat::from_fn(size, size, |i, j| ((i * 7 + j * 3) % 5) as f64 * 0.1);
        Mat::from_fn(size, size, |i, j| x[(i, j)] - x[(j, i)])
    }

    #[test]
    fn cayley_gives_rotations() {
        let turn = cayley(&skew(6));
        let unit = turn.transpose() * &turn;
        for i in 0..6 {
            for j in 0..6 {
                assert!((unit[(i, j)] - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_series_approaches_the_exact_map() {
        let q = skew(4) * faer::Scale(0.05);
        let (exact, series) = (cayley(&q), neumann(&q, 5));
        assert!((exact - series).norm_l2() < 1e-5);
    }

    #[test]
    fn short_series_and_short_ways() {
        let q = skew(4);
        let unit = Mat::<f64>::identity(4, 4);
        assert!((neumann(&q, 1) - &unit).norm_l2() < 1e-12);
        assert!((neumann(&q, 2) - &unit - &q * faer::Scale(2.0)).norm_l2() < 1e-12);
        let mut blocks = vec![q.clone(), &q * faer::Scale(1e-9)];
        shorten(&mut blocks, 0.1);
        assert!((blocks[0].norm_l2() - 0.1).abs() < 1e-12);
        assert!((&blocks[1] - &q * faer::Scale(1e-9)).norm_l2() < 1e-15);
    }

    #[test]
    fn swapping_back_undoes_swapping() {
        for (outputs, reach) in [(16, 1), (16, 2), (16, 4), (24, 4)] {
            let there = swapped(outputs, reach, false);
            let back = swapped(outputs, reach, true);
            let rows: Vec<f32> = (0..outputs).map(|i| i as f32).collect();
            assert_eq!(reordered(&reordered(&rows, 1, &there), 1, &back), rows);
        }
    }
}
