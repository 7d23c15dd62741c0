//! The pseudo-numerical method of PNDM on slopes, fixed coefficients: ComfyUI's `ipndm`.

use crate::error::Result;
use crate::sampling::adams::adams;
use crate::sampling::formulas::combined;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::history::History;
use crate::sampling::multistep::Multistep;
use crate::sampling::options::ORDER;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "ipndm",
    label: "iPNDM",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("ipndm"), also: &[] },
    source: "Zhang and Chen (2022), iPNDM; ComfyUI's sample_ipndm",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(Multistep::new(options.whole(&ORDER), change).ending_at_estimate()))
    },
};

/// Adams and Bashforth's coefficients of even steps, whatever the steps.
fn change(slopes: &History, sigma: f64, next: f64) -> Result<Tensor> {
    Ok((combined(&slopes.tensors, adams(slopes.len()))? * (next - sigma))?)
}
