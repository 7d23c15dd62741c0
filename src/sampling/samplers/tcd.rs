//! Trajectory consistency sampling, for models distilled so: Zheng et al. (2024).

use super::lcm::timesteps;
use crate::error::Result;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::grid::{End, Span, Start, Timesteps};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::OptionSpec;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "tcd",
    label: "TCD",
    names: OtherNames {
        diffusers: Some("TCDScheduler"),
        k_diffusion: None,
        comfyui: None,
        also: &[],
    },
    source: "Zheng et al. (2024), Trajectory Consistency Distillation, Algorithm 4 with γ = 0.3; diffusers' TCDScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA],
    schedule: Some(Schedule::Discrete),
    automatic: Schedule::Discrete,
    grids: Conventions {
        diffusers: GridRules {
            timesteps: Timesteps::Own(timesteps),
            span: Span::Table,
            start: Start::UnitNoise,
            end: End::Lowest,
            ..GridRules::K_DIFFUSION
        },
    },
    begin: |options, _| Ok(Box::new(Tcd { eta: options.value(&ETA) })),
};

const ETA: OptionSpec = OptionSpec {
    name: "eta",
    label: "Eta",
    default: 0.3,
    least: 0.0,
    most: 1.0,
    help: "γ: share of fresh noise in each step; 0 is none, 1 as LCM",
};

/// A step along the trajectory to below the next timestep, and noise up to it.
#[derive(Debug)]
struct Tcd {
    eta: f64,
}

impl Integrator for Tcd {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let denoised = model.denoise(x, level.sigma)?;
        let next = grid.levels.get(i + 1);
        // The run ends at timestep 0, which the step goes to without noise.
        let below = next.map_or(0.0, |next| ((1.0 - self.eta) * next.timestep).floor());
        let down = grid.process.table().sigma(below).min(level.next);
        let mut x = pull(x, &denoised, level.sigma, down)?;
        if next.is_some() && self.eta > 0.0 {
            let fresh = noise.between(level.sigma, level.next, &x)?;
            let up = (level.next * level.next - down * down).max(0.0).sqrt();
            x = grid.process.add_noise(&x, &fresh, up)?;
        }
        Ok(Step { x, denoised })
    }
}
