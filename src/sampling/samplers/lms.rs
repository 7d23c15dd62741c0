//! A linear multistep method: the polynomial through the last slopes, k-diffusion's `sample_lms`.

use crate::error::Result;
use crate::sampling::formulas::combined;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::history::History;
use crate::sampling::multistep::Multistep;
use crate::sampling::options::ORDER;
use crate::sampling::quadrature::{integral, lagrange};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "lms",
    label: "LMS",
    names: OtherNames {
        diffusers: Some("LMSDiscreteScheduler"),
        k_diffusion: Some("sample_lms"),
        comfyui: Some("lms"),
        also: &[],
    },
    source: "Adams and Bashforth's method with steps of any length; k-diffusion's sample_lms, integrated exactly; diffusers' LMSDiscreteScheduler",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(Multistep::new(options.whole(&ORDER), change))),
};

/// The integral of the polynomial through the last slopes. The step to σ = 0 goes on with it, as k-diffusion and
/// diffusers do; ComfyUI returns the estimate there.
fn change(slopes: &History, sigma: f64, next: f64) -> Result<Tensor> {
    let weight = |j: usize| integral(sigma, next, |s| lagrange(&slopes.sigmas, j, s));
    let weights: Vec<f64> = (0..slopes.len()).map(weight).collect();
    combined(&slopes.tensors, &weights)
}
