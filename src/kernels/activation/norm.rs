//! Norms as a scale and a shift that the next product's preparation applies.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::measure::counters::{self, KernelKind};
use crate::kernels::simd::vector::{channel_sums, moments, normalise};
use rayon::prelude::*;
use std::ops::Range;

/// A scale and a shift of every channel of every sample, both `[B, C]`.
#[derive(Debug)]
pub(crate) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
    channels: usize,
}

/// What a group norm knows beside its input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupNorm<'a> {
    /// `[C]`.
    pub(crate) weight: &'a [f32],
    /// `[C]`.
    pub(crate) bias: &'a [f32],
    pub(crate) groups: usize,
    pub(crate) eps: f64,
}

/// Pixels whose sums one task makes.
const PIXELS: usize = 256;

impl Affine {
    pub(in crate::kernels) fn of(&self, sample: usize, channels: Range<usize>) -> (&[f32], &[f32]) {
        let at = sample * self.channels + channels.start..sample * self.channels + channels.end;
        (&self.scale[at.clone()], &self.shift[at])
    }

    /// Group norm over channels and space, Wu and He (2018), of the channels of all `parts`.
    ///
    /// Sums are f32 over short stretches and f64 beyond, about the first pixel of each channel, so that
    /// a large mean costs no digits.
    pub(crate) fn group_norm(parts: &[FeatureMap], norm: GroupNorm<'_>) -> Self {
        let _clock = counters::begin(KernelKind::Norm, &[]);
        let (batch, pixels) = (parts[0].batch, parts[0].pixels());
        let channels: usize = parts.iter().map(|part| part.channels).sum();
        assert_eq!(norm.weight.len(), channels, "channels of a group norm");
        let width = channels / norm.groups;
        let mut affine = Self {
            scale: Vec::with_capacity(batch * channels),
            shift: Vec::with_capacity(batch * channels),
            channels,
        };
        let sums: Vec<Vec<Channel>> = parts.iter().map(sums).collect();
        for sample in 0..batch {
            let of_sample: Vec<&Channel> = parts
                .iter()
                .zip(&sums)
                .flat_map(|(part, sums)| &sums[sample * part.channels..][..part.channels])
                .collect();
            for (group, members) in of_sample.chunks_exact(width).enumerate() {
                let count = (width * pixels).max(1) as f64;
                let whole = |c: &&Channel| c.sum + c.first * pixels as f64;
                let mean = members.iter().map(whole).sum::<f64>() / count;
                let squares: f64 = members
                    .iter()
                    .map(|c| {
                        let d = mean - c.first;
                        c.squares - 2.0 * d * c.sum + d * d * pixels as f64
                    })
                    .sum();
                let rate = 1.0 / (squares.max(0.0) / count + norm.eps).sqrt();
                for channel in group * width..(group + 1) * width {
                    let scale = rate * f64::from(norm.weight[channel]);
                    affine.scale.push(scale as f32);
                    affine.shift.push((f64::from(norm.bias[channel]) - mean * scale) as f32);
                }
            }
        }
        affine
    }
}

/// Sums of one channel of one sample, about its first pixel.
#[derive(Debug, Clone, Copy, Default)]
struct Channel {
    first: f64,
    sum: f64,
    squares: f64,
}

fn sums(x: &FeatureMap) -> Vec<Channel> {
    let (pixels, channels) = (x.pixels(), x.channels);
    let chunks = pixels.div_ceil(PIXELS);
    let partial: Vec<Vec<(f64, f64)>> = (0..x.batch * chunks)
        .into_par_iter()
        .map(|task| {
            let (sample, start) = (task / chunks, task % chunks * PIXELS);
            let sample = &x.values()[sample * pixels * channels..][..pixels * channels];
            let end = (start + PIXELS).min(pixels);
            let mut out = vec![(0.0, 0.0); channels];
            channel_sums(&sample[start * channels..end * channels], &sample[..channels], &mut out);
            out
        })
        .collect();
    let mut all = vec![Channel::default(); x.batch * channels];
    for (sample, all) in all.chunks_exact_mut(channels.max(1)).enumerate() {
        for (c, channel) in all.iter_mut().enumerate() {
            channel.first = f64::from(x.values()[sample * pixels * channels + c]);
            for partial in &partial[sample * chunks..][..chunks] {
                channel.sum += partial[c].0;
                channel.squares += partial[c].1;
            }
        }
    }
    all
}

/// Layer norm of tokens, over the channels.
pub(crate) fn layer_norm(
    x: &FeatureMap,
    parameters: (&[f32], &[f32]),
    eps: f64,
) -> Result<FeatureMap> {
    let _clock = counters::begin(KernelKind::Norm, &[]);
    let channels = x.channels.max(1);
    FeatureMap::filled((x.batch, x.height, x.width, x.channels), |out| {
        let rows = out.par_chunks_mut(channels).zip(x.values().par_chunks(channels));
        rows.with_min_len(PIXELS).for_each(|(out, x)| layer_norm_row(x, parameters, eps, out));
    })
}

/// Layer norm of one token, Ba, Kiros and Hinton (2016).
pub(in crate::kernels) fn layer_norm_row(
    x: &[f32],
    (weight, bias): (&[f32], &[f32]),
    eps: f64,
    out: &mut [f32],
) {
    let (mean, variance) = moments(x);
    let rate = (1.0 / (variance + eps).sqrt()) as f32;
    normalise(x, mean as f32, rate, weight, bias, out);
}
