//! DEIS: the polynomial in ln σ through the last slopes, Zhang and Chen (2022).

use crate::error::Result;
use crate::sampling::bounds::Bounds;
use crate::sampling::config::SchedulerConfig;
use crate::sampling::convention::Convention;
use crate::sampling::formulas::{combined, pull, slope};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::history::History;
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{SOLVER_ORDER, SamplerOptions};
use crate::sampling::quadrature::{integral, lagrange};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "deis",
    label: "DEIS",
    names: OtherNames {
        diffusers: Some("DEISMultistepScheduler"),
        k_diffusion: None,
        comfyui: Some("deis"),
        also: &[],
    },
    source: "Zhang and Chen (2022), Fast Sampling of Diffusion Models with Exponential Integrator; diffusers' DEISMultistepScheduler",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[SOLVER_ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DPM_SOLVER },
    begin: |options, config| Ok(Box::new(Deis::new(options, config))),
};

/// The integral over σ of the polynomial in ln σ through the last slopes.
///
/// diffusers ends its runs at the lowest level of the table; here that is so with `final_sigmas_type` = `sigma_min`,
/// and the step to σ = 0 gives the estimate, as in ComfyUI.
#[derive(Debug)]
struct Deis {
    order: usize,
    /// The order in ComfyUI.
    comfyui_order: usize,
    bounds: Bounds,
    /// Whether short runs end with steps of lower order.
    lower_order_final: bool,
    /// Slopes.
    history: History,
}

/// Runs of fewer steps end with steps of lower order, if `lower_order_final`.
const SHORT: usize = 15;

impl Deis {
    fn new(options: &SamplerOptions, config: &SchedulerConfig) -> Self {
        Self {
            order: options.whole_or(&SOLVER_ORDER, config.solver_order),
            comfyui_order: options.whole_or(&SOLVER_ORDER, 3),
            bounds: config.threshold(),
            lower_order_final: config.lower_order_final.unwrap_or(true),
            history: History::default(),
        }
    }

    /// How many slopes step `i` looks at.
    fn order(&self, grid: &Grid, i: usize) -> usize {
        if grid.convention == Convention::Comfyui {
            return self.comfyui_order.min(self.history.len());
        }
        let left = grid.steps() - i;
        let most = if self.lower_order_final && grid.steps() < SHORT { left } else { self.order };
        most.min(self.order).min(self.history.len())
    }
}

impl Integrator for Deis {
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
        if next == 0.0 {
            return Ok(Step { x: denoised.clone(), denoised });
        }
        self.history.push(slope(x, &denoised, sigma)?, sigma, self.order.max(self.comfyui_order));
        let order = self.order(grid, i);
        if order < 2 {
            return Ok(Step { x: pull(x, &denoised, sigma, next)?, denoised });
        }
        if grid.convention == Convention::Comfyui {
            let weights = comfyui_weights(&self.history.sigmas[..order], next);
            let x = (x + combined(&self.history.tensors, &weights)?)?;
            return Ok(Step { x, denoised });
        }
        let nodes: Vec<f64> = self.history.sigmas.iter().take(order).map(|s| s.ln()).collect();
        let weight =
            |j: usize| integral(sigma.ln(), next.ln(), |t| lagrange(&nodes, j, t) * t.exp());
        let weights: Vec<f64> = (0..order).map(weight).collect();
        let x = (x + combined(&self.history.tensors, &weights)?)?;
        Ok(Step { x, denoised })
    }
}

/// ComfyUI's weights of the slopes at `sigmas`, newest first: polynomials in the time of an EDM process, integrated over
/// points.
///
/// # Source
/// ComfyUI 0.3.64, `get_deis_coeff_list` in the mode `tab`.
fn comfyui_weights(sigmas: &[f64], next: f64) -> Vec<f64> {
    const POINTS: usize = 10_000;
    let (low, high) = ((0.002f64.powi(2) + 1.0).ln(), (80f64.powi(2) + 1.0).ln());
    let rise = 2.0 * (low / 1e-3 - high) / (1e-3 - 1.0);
    let least = high - rise / 2.0;
    let time = |sigma: f64| {
        ((least * least + 2.0 * rise * (sigma * sigma + 1.0).ln()).sqrt() - least) / rise
    };
    let nodes: Vec<f64> = sigmas.iter().map(|sigma| time(*sigma)).collect();
    let (from, to) = (nodes[0], time(next));
    let rate = |t: f64| {
        let alpha = (-0.5 * t * t * rise - t * least).exp();
        0.5 * (t * rise + least) / (alpha * (1.0 - alpha)).sqrt()
    };
    let point = |i: usize| from + (to - from) * i as f64 / (POINTS - 1) as f64;
    let weight = |j: usize| {
        let sum: f64 = (0..POINTS).map(|i| rate(point(i)) * lagrange(&nodes, j, point(i))).sum();
        sum * (to - from) / POINTS as f64
    };
    (0..nodes.len()).map(weight).collect()
}
