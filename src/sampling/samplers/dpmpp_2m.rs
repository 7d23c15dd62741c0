//! DPM-Solver++(2M).

use crate::error::Result;
use crate::hint::Hint;
use crate::sampling::bounds::Bounds;
use crate::sampling::config::{SchedulerConfig, Spacing, other};
use crate::sampling::formulas::pull;
use crate::sampling::grid::{Aim, Conventions, End, Grid, GridRules, Span, Start, Timesteps, Told};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::schedule::Schedule;
use crate::sampling::spacing::SpacingRules;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2m",
    label: "DPM++ 2M",
    names: OtherNames {
        diffusers: Some("DPMSolverMultistepScheduler"),
        k_diffusion: Some("sample_dpmpp_2m"),
        comfyui: Some("dpmpp_2m"),
        also: &[],
    },
    source: "Lu et al. (2022), DPM-Solver++, Algorithm 2; diffusers' DPMSolverMultistepScheduler",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Karras,
    grids: Conventions {
        diffusers: GridRules {
            timesteps: Timesteps::Spaced(SpacingRules {
                default: Spacing::Linspace,
                one_more: true,
                whole: true,
                clipped: true,
            }),
            span: Span::Table,
            told: Told::Whole,
            end: End::FinalSigma,
            start: Start::UnitNoise,
            aim: Aim::Next,
            pairs: None,
        },
    },
    begin: |_, config| {
        refuse_unbuilt(config)?;
        Ok(Box::new(DpmPp2m::new(config)))
    },
};

/// Refuses other solvers of the same scheduler of diffusers.
fn refuse_unbuilt(config: &SchedulerConfig) -> Result<()> {
    let solvers = ["midpoint", "heun", "logrho", "bh1", "bh2"];
    let order = config.solver_order;
    SchedulerConfig::refuse_for(
        SPEC.name,
        Hint::any_of([
            Hint::set_because("sampler", "euler or ddim", "they do not use it"),
            "change it in the config".into(),
        ]),
        &[
            ("algorithm_type", other(config.algorithm_type.as_deref(), &["dpmsolver++", "deis"])),
            ("solver_type", other(config.solver_type.as_deref(), &solvers)),
            ("solver_order", (!matches!(order, 1 | 2)).then(|| order.to_string())),
        ],
    )
}

/// Runs of fewer steps end with a step of first order, if `lower_order_final`.
const SHORT: usize = 15;

/// The multistep solver of second order, and what it remembers.
#[derive(Debug)]
struct DpmPp2m {
    bounds: Bounds,
    /// Whether every step is of first order.
    first_order: bool,
    /// Heun's form of the second order instead of the midpoint's.
    heun: bool,
    /// Whether short runs end with a step of first order though they end above zero.
    short_ends_low: bool,
    /// Whether all runs do.
    ends_low: bool,
    /// x₀ of the step before, and its σ.
    previous: Option<(Tensor, f64)>,
}

impl DpmPp2m {
    fn new(config: &SchedulerConfig) -> Self {
        Self {
            bounds: config.threshold(),
            first_order: config.solver_order == 1,
            heun: config.solver_type.as_deref() == Some("heun"),
            short_ends_low: config.lower_order_final.unwrap_or(true),
            ends_low: config.euler_at_final,
            previous: None,
        }
    }

    /// The first step has no history; the step to σ = 0 has an infinite log-SNR distance.
    fn is_first_order(&self, grid: &Grid, i: usize) -> bool {
        let low = self.ends_low || (self.short_ends_low && grid.steps() < SHORT);
        let last = i + 1 == grid.steps();
        self.first_order || grid.levels[i].next == 0.0 || (last && low)
    }
}

impl Integrator for DpmPp2m {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        _: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let denoised = self.bounds.apply(&model.denoise(x, sigma)?)?;
        let first_order = self.is_first_order(grid, i);
        let estimate = match &self.previous {
            Some((before, sigma_before)) if !first_order => {
                // λ = −ln σ: steps are measured in half log-SNR.
                let h = (sigma / next).ln();
                let h_before = (sigma_before / sigma).ln();
                let weight = if self.heun {
                    (1.0 / (1.0 - next / sigma) - 1.0 / h) * h / h_before
                } else {
                    h / (2.0 * h_before)
                };
                ((&denoised * (1.0 + weight))? - (before * weight)?)?
            }
            _ => denoised.clone(),
        };
        let x = pull(x, &estimate, sigma, next)?;
        self.previous = Some((denoised.clone(), sigma));
        Ok(Step { x, denoised })
    }
}
