//! Heun's method that goes back up a few times: Xu et al. (2023).

use crate::error::Result;
use crate::sampling::formulas::{plus, pull, slope};
use crate::sampling::grid::Pair;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::S_NOISE;
use crate::sampling::schedule::Schedule;
use crate::sampling::schedules::karras;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "restart",
    label: "Restart",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: None, also: &[] },
    source: "Xu et al. (2023), Restart Sampling for Improving Generative Processes; A1111's restart_sampler",
    order: 2,
    evaluations: 2,
    noise: NoiseUse::Restarts,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[S_NOISE],
    schedule: Some(Schedule::Karras),
    automatic: Schedule::Karras,
    grids: Conventions { diffusers: GridRules { pairs: Some(pairs), ..GridRules::K_DIFFUSION } },
    begin: |options, _| Ok(Box::new(Restart { s_noise: options.value(&S_NOISE), end: None })),
};

/// Fewer steps have no restarts.
const LEAST: usize = 20;
/// The levels that a restart goes back to and from: the nearest ones to these.
const HIGH: f64 = 2.0;
const LOW: f64 = 0.1;

/// The run with its restarts, over as many pairs of levels as `sigmas` (N + 1, with the end) have.
fn pairs(sigmas: &[f64]) -> Vec<Pair> {
    let steps = sigmas.len() - 1;
    let plain = |sigmas: &[f64]| -> Vec<Pair> {
        sigmas.windows(2).map(|pair| Pair { sigma: pair[0], next: pair[1] }).collect()
    };
    if steps < LEAST {
        return plain(sigmas);
    }
    let (each, times) = if steps < 36 { (9, 1) } else { (steps / 4, 2) };
    let mut levels = karras(steps - each * times, sigmas[steps - 1], sigmas[0]);
    levels.push(sigmas[steps]);
    let nearest = |to: f64| {
        let gap = |i: &usize| (levels[*i] - to).abs();
        (0..levels.len()).min_by(|a, b| gap(a).total_cmp(&gap(b))).unwrap_or(0)
    };
    let (low, high) = (nearest(LOW), nearest(HIGH));
    let mut all = plain(&levels[..=low]);
    if high < low {
        let again = plain(&karras(each + 1, levels[low], levels[high]));
        all.extend((0..times).flat_map(|_| again.iter().copied()));
    }
    all.extend(plain(&levels[low..]));
    all
}

/// Heun's method over levels that go up in between, with noise where they do.
#[derive(Debug)]
struct Restart {
    s_noise: f64,
    /// Where the step before ended.
    end: Option<f64>,
}

impl Integrator for Restart {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let mut x = x.clone();
        if let Some(end) = self.end.filter(|end| *end < sigma) {
            let fresh = noise.between(end, sigma, &x)?;
            let up = (sigma * sigma - end * end).sqrt();
            x = grid.process.add_noise(&x, &fresh, up * self.s_noise)?;
        }
        self.end = Some(next);
        let denoised = model.denoise(&x, sigma)?;
        let there = pull(&x, &denoised, sigma, next)?;
        if next == 0.0 {
            return Ok(Step { x: there, denoised });
        }
        let corrected = model.denoise(&there, next)?;
        let slopes = (slope(&x, &denoised, sigma)? + slope(&there, &corrected, next)?)?;
        let x = plus(&x, (next - sigma) / 2.0, &slopes)?;
        Ok(Step { x, denoised: corrected })
    }
}
