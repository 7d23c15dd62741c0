//! The pseudo-numerical method of PNDM with coefficients of uneven steps: ComfyUI's `ipndm_v`.

use crate::error::Result;
use crate::sampling::adams::adams_uneven;
use crate::sampling::formulas::combined;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::history::History;
use crate::sampling::multistep::Multistep;
use crate::sampling::options::ORDER;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "ipndm-v",
    label: "iPNDM v",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("ipndm_v"), also: &[] },
    source: "ComfyUI's sample_ipndm_v",
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
    begin: |options, _| {
        Ok(Box::new(Multistep::new(options.whole(&ORDER), change).ending_at_estimate()))
    },
};

/// Adams and Bashforth's coefficients by the lengths of the steps.
fn change(slopes: &History, sigma: f64, next: f64) -> Result<Tensor> {
    let lengths: Vec<f64> = slopes.sigmas.windows(2).map(|pair| pair[0] - pair[1]).collect();
    let weights = adams_uneven(next - sigma, &lengths);
    Ok((combined(&slopes.tensors, &weights)? * (next - sigma))?)
}
