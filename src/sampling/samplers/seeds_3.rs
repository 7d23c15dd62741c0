//! A stochastic exponential solver of three stages: ComfyUI's `seeds_3`.

use super::seeds_2::Seeds;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::S_NOISE;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "seeds-3",
    label: "SEEDS 3",
    names: OtherNames { diffusers: None, k_diffusion: None, comfyui: Some("seeds_3"), also: &[] },
    source: "Gonzalez et al. (2023), SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling; ComfyUI's sample_seeds_3",
    order: 3,
    evaluations: 3,
    noise: NoiseUse::EveryEvaluation,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        Ok(Box::new(Seeds { s_noise: options.value(&S_NOISE), inner: &[1.0 / 3.0, 2.0 / 3.0] }))
    },
};
