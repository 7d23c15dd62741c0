//! Refined exponential solver along the unguided estimate, with ancestral noise: ComfyUI's `res_multistep_ancestral_cfg_pp`.

use super::res_multistep::ResMultistep;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "res-multistep-a-cfg-pp",
    label: "RES multistep a CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("res_multistep_ancestral_cfg_pp"),
        also: &[],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's res_multistep_ancestral_cfg_pp",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        let (eta, s_noise) = (options.value(&ETA), options.value(&S_NOISE));
        Ok(Box::new(ResMultistep::new(eta, s_noise).along_unguided()))
    },
};
