//! Refined exponential solver along the unguided estimate: ComfyUI's `res_multistep_cfg_pp`.

use super::res_multistep::ResMultistep;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "res-multistep-cfg-pp",
    label: "RES multistep CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("res_multistep_cfg_pp"),
        also: &[],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's res_multistep_cfg_pp",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |_, _| Ok(Box::new(ResMultistep::new(0.0, 1.0).along_unguided())),
};
