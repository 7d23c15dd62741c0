//! Refined exponential solver, multistep, with ancestral noise: ComfyUI's `res_multistep_ancestral`.

use super::res_multistep::ResMultistep;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "res-multistep-a",
    label: "RES multistep a",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("res_multistep_ancestral"),
        also: &[],
    },
    source: "Zhang et al. (2023), Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling; ComfyUI's res_multistep_ancestral",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(ResMultistep::new(options.value(&ETA), options.value(&S_NOISE))))
    },
};
