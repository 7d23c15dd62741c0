//! Euler's method along the unguided estimate with ancestral noise: ComfyUI's `euler_ancestral_cfg_pp`.

use super::euler_cfg_pp::EulerCfgPp;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "euler-a-cfg-pp",
    label: "Euler a CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("euler_ancestral_cfg_pp"),
        also: &["euler_a_cfg_pp"],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's sample_euler_ancestral_cfg_pp",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Normal,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| {
        let (eta, s_noise) = (options.value(&ETA), options.value(&S_NOISE));
        Ok(Box::new(EulerCfgPp { eta, s_noise }))
    },
};
