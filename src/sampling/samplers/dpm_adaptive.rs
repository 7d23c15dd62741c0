//! DPM-Solver with steps of adapted length: Lu et al. (2022), "DPM-Solver", appendix C.

use super::dpm_fast::ETA_OFF;
use crate::error::Result;
use crate::sampling::dpm_solver::{Raising, Span, sigma};
use crate::sampling::formulas::slope;
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{OptionSpec, S_NOISE, SamplerOptions};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::{DType, Tensor};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpm-adaptive",
    label: "DPM adaptive",
    names: OtherNames {
        diffusers: None,
        k_diffusion: Some("sample_dpm_adaptive"),
        comfyui: Some("dpm_adaptive"),
        also: &["dpm_ad"],
    },
    source: "Lu et al. (2022), DPM-Solver, appendix C, as many steps as the tolerance needs, whatever was asked; k-diffusion's sample_dpm_adaptive",
    order: 3,
    evaluations: 3,
    noise: NoiseUse::Eta,
    brownian: false,
    unguided: false,
    alone: true,
    options: &[ETA_OFF, S_NOISE, ORDER, RTOL, ATOL],
    schedule: None,
    automatic: Schedule::Normal,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(DpmAdaptive::new(options))),
};

const ORDER: OptionSpec = OptionSpec {
    name: "order",
    label: "Order",
    default: 3.0,
    least: 2.0,
    most: 3.0,
    help: "order of the steps; whole",
};

const RTOL: OptionSpec = OptionSpec {
    name: "rtol",
    label: "Relative tolerance",
    default: 0.05,
    least: 1e-4,
    most: 1.0,
    help: "error of a step that is accepted, relative to the latents",
};

const ATOL: OptionSpec = OptionSpec {
    name: "atol",
    label: "Absolute tolerance",
    default: 0.0078,
    least: 1e-5,
    most: 1.0,
    help: "error of a step that is accepted",
};

/// The first length in −ln σ.
const FIRST: f64 = 0.05;
/// A step is accepted whose next one may be this much of it or more.
const ACCEPTED: f64 = 0.81;
/// The run ends so near to its last level.
const NEAR: f64 = 1e-5;
/// Steps that are tried at most: the first length alone needs 125 over the levels of Stable Diffusion.
const MOST: usize = 10_000;

/// The solver, which steps on its own; a step of the run takes it as far as the run's next level.
#[derive(Debug)]
struct DpmAdaptive {
    eta: f64,
    s_noise: f64,
    order: usize,
    rtol: f64,
    atol: f64,
    state: Option<State>,
}

/// How far it is.
#[derive(Debug)]
struct State {
    x: Tensor,
    /// The result of lower order of the last step that was accepted.
    low: Tensor,
    denoised: Tensor,
    t: f64,
    /// The next length.
    h: f64,
    tried: usize,
}

/// Two results of a step, and the estimate that it began with.
struct Tried {
    low: Tensor,
    high: Tensor,
    denoised: Tensor,
}

impl DpmAdaptive {
    fn new(options: &SamplerOptions) -> Self {
        Self {
            eta: options.value(&ETA_OFF),
            s_noise: options.value(&S_NOISE),
            order: options.whole(&ORDER),
            rtol: options.value(&RTOL),
            atol: options.value(&ATOL),
            state: None,
        }
    }

    /// A step and the one of an order less, from the same evaluations.
    fn attempt(&self, model: &dyn Denoiser, x: &Tensor, span: Span) -> Result<Tried> {
        let noise_at = |x: &Tensor, share: f64| -> Result<(Tensor, Tensor)> {
            let level = sigma(span.at(share));
            let denoised = model.denoise(x, level)?;
            Ok((slope(x, &denoised, level)?, denoised))
        };
        let (noise, denoised) = noise_at(x, 0.0)?;
        if self.order == 2 {
            let (middle, _) = noise_at(&span.first(x, &noise, 0.5)?, 0.5)?;
            let low = span.first(x, &noise, 1.0)?;
            return Ok(Tried { low, high: span.second(x, [&noise, &middle], 0.5)?, denoised });
        }
        let third = 1.0 / 3.0;
        let (first, _) = noise_at(&span.first(x, &noise, third)?, third)?;
        let (second, _) = noise_at(&span.inner(x, [&noise, &first])?, 2.0 / 3.0)?;
        let low = span.second(x, [&noise, &first], third)?;
        Ok(Tried { low, high: span.third(x, [&noise, &second])?, denoised })
    }

    /// The error of a step in units of what is accepted.
    fn error(&self, tried: &Tried, before: &Tensor) -> Result<f64> {
        let sizes = tried.low.abs()?.maximum(&before.abs()?)?;
        let allowed = (sizes * self.rtol)?.clamp(self.atol, f64::MAX)?;
        let far = ((&tried.low - &tried.high)? / allowed)?.sqr()?.to_dtype(DType::F64)?;
        Ok(far.mean_all()?.to_scalar::<f64>()?.sqrt())
    }

    /// Tries a step, takes it where it is accepted, and chooses the length of the next.
    fn advance(
        &self,
        state: &mut State,
        model: &dyn Denoiser,
        grid: &Grid,
        end: f64,
        noise: &mut dyn NoiseSource,
    ) -> Result<()> {
        let step = Span { from: state.t, to: end.min(state.t + state.h) };
        let Raising { span, up } = step.raised(&grid.process, self.eta, end);
        let tried = self.attempt(model, &state.x, span)?;
        let power = if self.eta > 0.0 { 1.5 } else { self.order as f64 };
        let inverse = 1.0 / (self.error(&tried, &state.low)? + 1e-8);
        let factor = 1.0 + (inverse.powf(1.0 / power) - 1.0).atan();
        state.tried += 1;
        state.h *= factor;
        if factor < ACCEPTED && state.tried < MOST {
            return Ok(());
        }
        state.low = tried.low;
        state.denoised = tried.denoised;
        state.t = step.to;
        state.x = tried.high;
        if up > 0.0 {
            let fresh = noise.between(sigma(step.from), sigma(step.to), &state.x)?;
            state.x = grid.process.add_noise(&state.x, &fresh, up * self.s_noise)?;
        }
        Ok(())
    }
}

impl Integrator for DpmAdaptive {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (first, last) = (grid.levels[0].sigma, grid.levels[grid.steps() - 1]);
        let end = -(if last.next > 0.0 { last.next } else { last.sigma }).ln();
        let mut state = match self.state.take() {
            Some(state) => state,
            None if -first.ln() >= end - NEAR => {
                // One level alone: there is no way to go, and the estimate is the best of it.
                let denoised = model.denoise(x, first)?;
                return Ok(Step { x: denoised.clone(), denoised });
            }
            None => State {
                x: x.clone(),
                low: x.clone(),
                denoised: x.clone(),
                t: -first.ln(),
                h: FIRST,
                tried: 0,
            },
        };
        let to = if i + 1 == grid.steps() { end } else { end.min(-grid.levels[i].next.ln()) };
        while state.t < to - NEAR {
            self.advance(&mut state, model, grid, end, noise)?;
        }
        let (x, denoised) = (state.x.clone(), state.denoised.clone());
        self.state = Some(state);
        Ok(Step { x, denoised })
    }
}
