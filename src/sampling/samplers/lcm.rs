//! Sampling of latent consistency models.

use crate::error::{Error, Result};
use crate::sampling::bounds::Bounds;
use crate::sampling::config::SchedulerConfig;
use crate::sampling::convention::Convention;
use crate::sampling::grid::{Aim, Conventions, End, Grid, GridRules, Span, Start, Timesteps, Told};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use crate::sampling::table::NoiseTable;
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "lcm",
    label: "LCM",
    names: OtherNames {
        diffusers: Some("LCMScheduler"),
        k_diffusion: None,
        comfyui: Some("lcm"),
        also: &[],
    },
    source: "Luo et al. (2023), Latent Consistency Models, Algorithm 3; diffusers' LCMScheduler",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    // Consistency models were distilled at some timesteps, and are of no use elsewhere.
    schedule: Some(Schedule::Discrete),
    automatic: Schedule::Discrete,
    grids: Conventions {
        diffusers: GridRules {
            timesteps: Timesteps::Own(timesteps),
            span: Span::Table,
            told: Told::Interpolated,
            end: End::Zero,
            start: Start::UnitNoise,
            aim: Aim::Next,
            pairs: None,
        },
    },
    begin: |_, config| Ok(Box::new(Lcm::new(config)?)),
};

/// `original_inference_steps` of configs that are silent: into how many steps the distillation cut the process.
const ORIGINAL_STEPS: usize = 50;
/// `timestep_scaling` of configs that are silent.
const TIMESTEP_SCALING: f64 = 10.0;

/// Evenly spaced entries of the timesteps that the model was distilled at.
pub(super) fn timesteps(
    steps: usize,
    config: &SchedulerConfig,
    table: &NoiseTable,
) -> Result<Vec<f64>> {
    let original = config.original_inference_steps.unwrap_or(ORIGINAL_STEPS);
    let stride = table.len().checked_div(original).unwrap_or(0);
    if stride == 0 {
        return Err(Error::unsupported(
            format!("a scheduler config with original_inference_steps = {original}"),
            format!("1 to {} are accepted", table.len()),
        ));
    }
    if steps > original {
        let why = format!("LCM takes at most the {original} of original_inference_steps");
        return Err(Error::bad_request("steps", steps, why));
    }
    // As numpy's linspace without its end: multiples of the step, which are rounded down.
    let step = original as f64 / steps as f64;
    let place = |i: usize| original - (i as f64 * step) as usize;
    Ok((0..steps).map(|i| (place(i) * stride - 1) as f64).collect())
}

/// Jumps to the estimate of x₀, and adds fresh noise of the next level.
#[derive(Debug)]
struct Lcm {
    bounds: Bounds,
    timestep_scaling: f64,
}

impl Lcm {
    fn new(config: &SchedulerConfig) -> Result<Self> {
        let timestep_scaling = config.timestep_scaling.unwrap_or(TIMESTEP_SCALING);
        if !timestep_scaling.is_finite() {
            return Err(Error::unsupported(
                format!("a scheduler config with timestep_scaling = {timestep_scaling}"),
                "10 is usual",
            ));
        }
        let bounds = match (config.threshold(), config.clip_sample) {
            (Bounds::Free, Some(true)) => Bounds::Clip(config.clip_sample_range),
            (bounds, _) => bounds,
        };
        Ok(Self { bounds, timestep_scaling })
    }

    /// The shares of x₀ and of what the network saw in the estimate, which make it exact where there is no noise:
    /// Luo et al. (2023), eq. 9, with σ_data = 1/2.
    fn boundary(&self, timestep: f64) -> (f64, f64) {
        let (t, data) = (timestep * self.timestep_scaling, 0.25);
        (t / (t * t + data).sqrt(), data / (t * t + data))
    }
}

impl Integrator for Lcm {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let level = grid.levels[i];
        let x0 = self.bounds.apply(&model.denoise(x, level.sigma)?)?;
        let (of_x0, of_seen) = self.boundary(level.timestep);
        let denoised = match grid.convention {
            Convention::Diffusers => {
                let seen = grid.process.scale_input(x, level.sigma)?;
                ((x0 * of_x0)? + (seen * of_seen)?)?
            }
            Convention::A1111 => ((x0 * of_x0)? + (x * of_seen)?)?,
            Convention::Comfyui => x0,
        };
        let mut x = denoised.clone();
        if level.next > 0.0 {
            let fresh = noise.between(level.sigma, level.next, &x)?;
            x = grid.process.add_noise(&x, &fresh, level.next)?;
        }
        Ok(Step { x, denoised })
    }
}
