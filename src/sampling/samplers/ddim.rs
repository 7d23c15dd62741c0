//! DDIM.

use super::dpm_fast::ETA_OFF;
use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::config::Spacing;
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Aim, Conventions, End, Grid, GridRules, Span, Start, Timesteps, Told};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spacing::SpacingRules;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "ddim",
    label: "DDIM",
    names: OtherNames {
        diffusers: Some("DDIMScheduler"),
        k_diffusion: None,
        comfyui: Some("ddim"),
        also: &[],
    },
    source: "Song et al. (2020), eq. 12; diffusers' DDIMScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Eta,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA_OFF],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions {
        diffusers: GridRules {
            timesteps: Timesteps::Spaced(SpacingRules {
                default: Spacing::Leading,
                one_more: false,
                whole: true,
                clipped: false,
            }),
            span: Span::Table,
            told: Told::Interpolated,
            end: End::FinalAlpha,
            start: Start::UnitNoise,
            aim: Aim::Stride,
            pairs: None,
        },
    },
    begin: |options, config| {
        Ok(Box::new(Ddim { bounds: config.clipped(), eta: options.value(&ETA_OFF) }))
    },
};

/// DDIM; η is the share of fresh noise.
///
/// In the σ convention the rule is Euler's. What makes it DDIM is where it goes: diffusers aims at timestep
/// t − T/N, which with rounded spacings is not always the next one of the list, and then reads the latents as if
/// they were there (keeping them in variance-preserving scale).
#[derive(Debug)]
struct Ddim {
    bounds: Bounds,
    eta: f64,
}

impl Integrator for Ddim {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let mut denoised = model.denoise(x, level.sigma)?;
        let Ancestral { down, up } = grid.process.ancestral(level.sigma, level.target, self.eta);
        let mut x = pull(x, &denoised, level.sigma, down)?;
        if self.bounds != Bounds::Free {
            // The noise that is left stays that of the estimate without bounds.
            let bounded = self.bounds.apply(&denoised)?;
            x = (x + (&bounded - &denoised)?)?;
            denoised = bounded;
        }
        if self.eta > 0.0 {
            // Also where there is none to add, as diffusers and A1111 draw.
            let fresh = noise.between(level.sigma, level.target, &x)?;
            x = grid.process.add_noise(&x, &fresh, up)?;
        }
        if (level.target - level.next).abs() > 1e-9 {
            let (next, target) = (level.next, level.target);
            x = (x * ((1.0 + next * next) / (1.0 + target * target)).sqrt())?;
        }
        Ok(Step { x, denoised })
    }
}
