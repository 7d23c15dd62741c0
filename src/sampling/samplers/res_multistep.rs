//! Refined exponential solver, multistep: ComfyUI's `res_multistep`.

use crate::error::Result;
use crate::sampling::formulas::{combined, pull};
use crate::sampling::grid::{Conventions, Grid, GridRules};
use crate::sampling::integrator::{Denoiser, Estimates, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::process::Ancestral;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "res-multistep",
    label: "RES multistep",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("res_multistep"),
        also: &[],
    },
    source: "Zhang et al. (2023), Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling; ComfyUI's res_multistep",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |_, _| Ok(Box::new(ResMultistep::new(0.0, 1.0))),
};

/// The second-order exponential integrator with the estimate of the step before.
#[derive(Debug)]
pub(super) struct ResMultistep {
    eta: f64,
    s_noise: f64,
    /// Whether it steps along the unguided estimate: CFG++.
    unguided: bool,
    previous: Option<Previous>,
}

/// What is remembered of the step before.
#[derive(Debug)]
struct Previous {
    denoised: Tensor,
    /// Where it began.
    sigma: f64,
    /// Where it went before noise was added.
    down: f64,
}

impl ResMultistep {
    pub(super) fn new(eta: f64, s_noise: f64) -> Self {
        Self { eta, s_noise, unguided: false, previous: None }
    }

    /// The same along the unguided estimate.
    pub(super) fn along_unguided(self) -> Self {
        Self { unguided: true, ..self }
    }
}

impl Integrator for ResMultistep {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        let (sigma, next) = (grid.levels[i].sigma, grid.levels[i].next);
        let Estimates { guided: denoised, unguided } = if self.unguided {
            model.estimates(x, sigma)?
        } else {
            let guided = model.denoise(x, sigma)?;
            Estimates { unguided: guided.clone(), guided }
        };
        let Ancestral { down, up } = grid.process.ancestral(sigma, next, self.eta);
        let mut moved = match &self.previous {
            Some(previous) if down > 0.0 => {
                let h = (sigma / down).ln();
                // Minus the step before, in units of this one.
                let c_2 = (previous.down / previous.sigma).ln() / h;
                let phi_1 = -(-h).exp_m1() / h;
                let phi_2 = (1.0 - phi_1) / h;
                let x = if self.unguided { (x + (&denoised - &unguided)?)? } else { x.clone() };
                let terms = [x, unguided.clone(), previous.denoised.clone()];
                combined(&terms, &[(-h).exp(), h * (phi_1 - phi_2 / c_2), h * phi_2 / c_2])?
            }
            _ if self.unguided => (&denoised + ((x - &unguided)? * (down / sigma))?)?,
            _ => pull(x, &denoised, sigma, down)?,
        };
        // ComfyUI draws for η = 0 too.
        if next > 0.0 && self.eta > 0.0 {
            let fresh = noise.between(sigma, next, x)?;
            moved = grid.process.add_noise(&moved, &fresh, up * self.s_noise)?;
        }
        self.previous = Some(Previous { denoised: unguided, sigma, down });
        Ok(Step { x: moved, denoised })
    }
}
