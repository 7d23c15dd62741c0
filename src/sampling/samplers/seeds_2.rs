//! A stochastic exponential solver of two stages: ComfyUI's `seeds_2`.

use crate::error::Result;
use crate::sampling::formulas::combined;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::S_NOISE;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "seeds-2",
    label: "SEEDS 2",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("seeds_2"), also: &[] },
    source: "Gonzalez et al. (2023), SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling; ComfyUI's sample_seeds_2",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::EveryEvaluation,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(Seeds { s_noise: options.value(&S_NOISE), inner: &[0.5] })),
};

/// A step through points between its levels, with noise that is carried from one to the next; η = 1.
#[derive(Debug)]
pub(super) struct Seeds {
    pub(super) s_noise: f64,
    /// Where the inner evaluations lie, as shares of the step in ln σ: one or two.
    pub(super) inner: &'static [f64],
}

impl Seeds {
    /// How much the first and the last estimate count at the end of a part of length `r`, where `estimates` are known.
    fn weights(&self, r: f64, h: f64, estimates: usize) -> [f64; 2] {
        let exponent = -2.0 * r * h;
        let whole = exponent.exp_m1();
        let last = match (self.inner, estimates) {
            (_, 1) | ([], _) => 0.0,
            ([inner], _) => whole / (2.0 * inner),
            ([first, ..], 2) => r / first * (whole - exponent) / exponent,
            ([_, second, ..], _) => (whole - exponent) / exponent / second,
        };
        [whole - last, last]
    }
}

impl Integrator for Seeds {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let first = model.denoise(x, sigma)?;
        if next == 0.0 {
            return Ok(Step { x: first.clone(), denoised: first });
        }
        let h = (sigma / next).ln();
        let (mut last, mut carried, mut estimates, mut from) =
            (first.clone(), x.zeros_like()?, 1, 0.0);
        let mut there = x.clone();
        for r in self.inner.iter().copied().chain([1.0]) {
            let level = sigma * (-r * h).exp();
            let part = (r - from) * h;
            let fresh = noise.between(sigma * (-from * h).exp(), level, x)?;
            let up = (-(-2.0 * part).exp_m1()).sqrt();
            carried = combined(&[carried, fresh], &[(-part).exp(), up])?;
            let [of_first, of_last] = self.weights(r, h, estimates);
            let terms = [x.clone(), first.clone(), last.clone(), carried.clone()];
            let of_x = level / sigma * (-r * h).exp();
            there = combined(&terms, &[of_x, -of_first, -of_last, level * self.s_noise])?;
            if r < 1.0 {
                last = model.denoise(&there, level)?;
                estimates += 1;
            }
            from = r;
        }
        Ok(Step { x: there, denoised: last })
    }
}
