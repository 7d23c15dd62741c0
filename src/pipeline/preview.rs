//! Previews of estimates, at a small part of the cost of decoding them.
//!
//! Where a TAESD is at hand ([`Options::preview`](super::Options::preview)), it decodes the estimate. Else every latent
//! cell becomes a colour by an affine map, which is fitted once to what the model's own decoder makes of a few
//! latents, so that it suits every autoencoder.

use crate::error::{Error, Result};
use crate::models::{TinyVae, Vae};
use crate::rng::{Noise, TorchCpu};
use candle_core::{DType, Device, Tensor};

/// Side, in cells, of the latents that the map is fitted to.
const SAMPLE_SIDE: usize = 16;
/// Side, in cells, of the squares of one colour in them: as wide as what a cell's neighbours change.
const PATCH_SIDE: usize = 4;
/// Deviation of single cells from the colour of their square.
const GRAIN: f32 = 0.25;
/// Seed of these latents.
const SEED: u64 = 0;
/// What is added to the diagonal of the normal equations for each sample, so that they always have a solution.
const RIDGE: f64 = 1e-6;

/// Makes previews of latents.
#[derive(Debug)]
pub(super) enum Previewer {
    /// The small autoencoder.
    Tiny(Box<TinyVae>),
    /// An affine map from latent channels to colours.
    Colours(LatentColours),
}

/// An affine map from the channels of a latent cell to the mean colour of the pixels that it decodes to.
#[derive(Debug, Clone)]
pub(super) struct LatentColours {
    /// Weights of the channels, and the constant last, for red, green and blue.
    rows: [Vec<f64>; 3],
}

impl LatentColours {
    /// Fits the map to what `vae` decodes, by least squares.
    pub(super) fn fit(vae: &Vae, device: &Device) -> Result<Self> {
        let channels = vae.config().latent_channels;
        let latents = sample(channels);
        let shape = (1, channels, SAMPLE_SIDE, SAMPLE_SIDE);
        let input = Tensor::from_vec(latents.clone(), shape, device)?;
        let pixels = vae.decode(&input)?; // [1, 3, f·h, f·w]
        let pixels = numbers(&pixels.avg_pool2d(vae.config().factor())?)?; // [3, h, w]
        Self::solve(&latents, &pixels, channels)
    }

    /// Solves the normal equations.
    ///
    /// `latents`: `[C, cells]`; `pixels`: `[3, cells]`.
    fn solve(latents: &[f32], pixels: &[f32], channels: usize) -> Result<Self> {
        let (cells, unknowns) = (latents.len() / channels, channels + 1);
        let column = |cell: usize| -> Vec<f64> {
            let value = |channel: usize| f64::from(latents[channel * cells + cell]);
            (0..channels).map(value).chain([1.0]).collect()
        };
        let mut gram = vec![0.0; unknowns * unknowns];
        let mut goals = vec![[0.0; 3]; unknowns];
        for cell in 0..cells {
            let column = column(cell);
            for (i, a) in column.iter().enumerate() {
                for (j, b) in column.iter().enumerate() {
                    gram[i * unknowns + j] += a * b;
                }
                for (colour, goal) in goals[i].iter_mut().enumerate() {
                    *goal += a * f64::from(pixels[colour * cells + cell]);
                }
            }
        }
        for i in 0..unknowns {
            gram[i * unknowns + i] += RIDGE * cells as f64;
        }
        eliminate(&mut gram, &mut goals);
        let row = |colour: usize| goals.iter().map(|goal| goal[colour]).collect::<Vec<f64>>();
        let rows = [row(0), row(1), row(2)];
        if rows.iter().flatten().any(|weight| !weight.is_finite()) {
            return Err(Error::NotFinite { count: 1, of: 3 * unknowns });
        }
        Ok(Self { rows })
    }

    /// The colours of latents.
    ///
    /// `latents`: `[1, C, h, w]`, scaled. Returns `[1, 3, h, w]`, f32, about −1..1, on the CPU.
    pub(super) fn pixels(&self, latents: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = latents.dims4()?;
        let (values, cells) = (numbers(latents)?, height * width);
        let mut pixels = Vec::with_capacity(3 * cells);
        for row in &self.rows {
            let constant = row.get(channels).copied().unwrap_or(0.0);
            for cell in 0..cells {
                let terms = row.iter().take(channels).enumerate();
                let sum: f64 = terms.map(|(c, w)| w * f64::from(values[c * cells + cell])).sum();
                pixels.push((constant + sum) as f32);
            }
        }
        Ok(Tensor::from_vec(pixels, (1, 3, height, width), &Device::Cpu)?)
    }
}

/// Latents like those of a picture, `[C, h, w]`: squares of random colours, with some grain.
fn sample(channels: usize) -> Vec<f32> {
    let (side, patches) = (SAMPLE_SIDE, SAMPLE_SIDE / PATCH_SIDE);
    let mut noise = TorchCpu::new(SEED);
    let squares = noise.normal(channels * patches * patches);
    let grain = noise.normal(channels * side * side);
    let value = |index: usize| {
        let (channel, y, x) = (index / (side * side), index / side % side, index % side);
        let square = (channel * patches + y / PATCH_SIDE) * patches + x / PATCH_SIDE;
        squares[square] + GRAIN * grain[index]
    };
    (0..channels * side * side).map(value).collect()
}

/// Solves `gram · x = goals` in place, for a matrix that is symmetric and positive definite.
fn eliminate(gram: &mut [f64], goals: &mut [[f64; 3]]) {
    let count = goals.len();
    for pivot in 0..count {
        let scale = gram[pivot * count + pivot];
        for value in &mut gram[pivot * count..(pivot + 1) * count] {
            *value /= scale;
        }
        goals[pivot].iter_mut().for_each(|goal| *goal /= scale);
        for row in (0..count).filter(|row| *row != pivot) {
            let factor = gram[row * count + pivot];
            for column in 0..count {
                gram[row * count + column] -= factor * gram[pivot * count + column];
            }
            let taken = goals[pivot];
            for (goal, taken) in goals[row].iter_mut().zip(taken) {
                *goal -= factor * taken;
            }
        }
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(tensor.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affine_map_is_found_again() {
        let (channels, cells) = (4, SAMPLE_SIDE * SAMPLE_SIDE);
        let latents = sample(channels);
        let map = [
            [0.3, -0.2, 0.1, 0.05, 0.4],
            [0.0, 0.5, 0.0, -0.3, 0.0],
            [0.1, 0.1, 0.7, 0.0, -0.2f32],
        ];
        let pixels: Vec<f32> = map
            .iter()
            .flat_map(|row| {
                let latents = &latents;
                (0..cells).map(move |cell| {
                    row[4] + (0..channels).map(|c| row[c] * latents[c * cells + cell]).sum::<f32>()
                })
            })
            .collect();
        let fitted = LatentColours::solve(&latents, &pixels, channels).unwrap();
        for (row, wanted) in fitted.rows.iter().zip(map) {
            for (found, wanted) in row.iter().zip(wanted) {
                assert!((found - f64::from(wanted)).abs() < 1e-4, "{found} {wanted}");
            }
        }
        let shape = (1, channels, SAMPLE_SIDE, SAMPLE_SIDE);
        let tensor = Tensor::from_vec(latents, shape, &Device::Cpu).unwrap();
        let again = numbers(&fitted.pixels(&tensor).unwrap()).unwrap();
        assert!(again.iter().zip(&pixels).all(|(a, b)| (a - b).abs() < 1e-3));
    }
}
