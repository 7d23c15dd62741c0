//! Euler's method with the change of slope counted on: ComfyUI's `gradient_estimation`.

use crate::error::Result;
use crate::sampling::formulas::{plus, pull, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Estimates, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{OptionSpec, SamplerOptions};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "gradient-estimation",
    label: "Gradient Estimation",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("gradient_estimation"),
        also: &["euler_ge"],
    },
    source: "Permenter and Yuan (2023), Interpreting and Improving Diffusion Models from an Optimization Perspective, with γ = 2; ComfyUI's sample_gradient_estimation",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[GAMMA],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(GradientEstimation::new(options))),
};

pub(super) const GAMMA: OptionSpec = OptionSpec {
    name: "ge_gamma",
    label: "Gamma",
    default: 2.0,
    least: 0.0,
    most: 5.0,
    help: "how far the change of slope is counted on; 1 is Euler's method",
};

/// Euler's step, and γ − 1 times the change of slope since the step before.
#[derive(Debug)]
pub(super) struct GradientEstimation {
    gamma: f64,
    /// Whether it steps along the unguided estimate: CFG++.
    unguided: bool,
    /// The slope of the step before.
    previous: Option<Tensor>,
}

impl GradientEstimation {
    pub(super) fn new(options: &SamplerOptions) -> Self {
        Self { gamma: options.value(&GAMMA), unguided: false, previous: None }
    }

    /// The same along the unguided estimate.
    pub(super) fn along_unguided(self) -> Self {
        Self { unguided: true, ..self }
    }
}

impl Integrator for GradientEstimation {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let Estimates { guided: denoised, unguided } = if self.unguided {
            model.estimates(x, sigma)?
        } else {
            let guided = model.denoise(x, sigma)?;
            Estimates { unguided: guided.clone(), guided }
        };
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        let slope = slope(x, &unguided, sigma)?;
        let mut x = if self.unguided {
            plus(&denoised, next, &slope)?
        } else {
            pull(x, &denoised, sigma, next)?
        };
        if let Some(before) = &self.previous {
            x = plus(&x, (self.gamma - 1.0) * (next - sigma), &(&slope - before)?)?;
        }
        self.previous = Some(slope);
        Ok(Step { x, denoised })
    }
}
