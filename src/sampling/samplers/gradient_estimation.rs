//! Euler's method with the change of slope counted on: ComfyUI's `gradient_estimation`.

use crate::error::Result;
use crate::sampling::formulas::{plus, pull, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::OptionSpec;
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
    options: &[GAMMA],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(GradientEstimation { gamma: options.value(&GAMMA), previous: None }))
    },
};

const GAMMA: OptionSpec = OptionSpec {
    name: "ge_gamma",
    label: "Gamma",
    default: 2.0,
    least: 0.0,
    most: 5.0,
    help: "how far the change of slope is counted on; 1 is Euler's method",
};

/// Euler's step, and γ − 1 times the change of slope since the step before.
#[derive(Debug)]
struct GradientEstimation {
    gamma: f64,
    /// The slope of the step before.
    previous: Option<Tensor>,
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
        let denoised = model.denoise(x, sigma)?;
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        let slope = slope(x, &denoised, sigma)?;
        let mut x = pull(x, &denoised, sigma, next)?;
        if let Some(before) = &self.previous {
            x = plus(&x, (self.gamma - 1.0) * (next - sigma), &(&slope - before)?)?;
        }
        self.previous = Some(slope);
        Ok(Step { x, denoised })
    }
}
