//! Euler's method with the change of slope counted on, along the unguided estimate: ComfyUI's
//! `gradient_estimation_cfg_pp`.

use super::gradient_estimation::{GAMMA, GradientEstimation};
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "gradient-estimation-cfg-pp",
    label: "Gradient Estimation CFG++",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("gradient_estimation_cfg_pp"),
        also: &[],
    },
    source: "Chung et al. (2024), CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models; ComfyUI's sample_gradient_estimation_cfg_pp",
    order: 1,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: true,
    alone: false,
    options: &[GAMMA],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(GradientEstimation::new(options).along_unguided())),
};
