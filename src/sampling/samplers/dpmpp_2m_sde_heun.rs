//! DPM-Solver++(2M) for the diffusion SDE, in Heun's form.

use super::dpmpp_2m_sde::DpmPp2mSde;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpmpp-2m-sde-heun",
    label: "DPM++ 2M SDE Heun",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("dpmpp_2m_sde_heun"),
        also: &["dpmpp_2m_sde_heun_gpu"],
    },
    source: "k-diffusion's sample_dpmpp_2m_sde, solver_type heun; diffusers' DPMSolverMultistepScheduler, sde-dpmsolver++",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::EveryStep,
    brownian: true,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Exponential,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(DpmPp2mSde::new(options, true))),
};
