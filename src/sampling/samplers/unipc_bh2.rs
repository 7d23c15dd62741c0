//! UniPC, Zhao et al. (2023), with B₂(h).

use super::unipc::{Form, UniPc};
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::SOLVER_ORDER;
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "unipc-bh2",
    label: "UniPC bh2",
    names: OtherNames {
        diffusers: Some("UniPCMultistepScheduler"),
        k_diffusion: None,
        comfyui: Some("uni_pc_bh2"),
        also: &[],
    },
    source: "Zhao et al. (2023), UniPC: A Unified Predictor-Corrector Framework, Algorithms 1 and 2, B₂(h); diffusers' UniPCMultistepScheduler",
    order: 3,
    evaluations: 1,
    noise: NoiseUse::Never,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[SOLVER_ORDER],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::DPM_SOLVER },
    begin: |options, config| Ok(Box::new(UniPc::new(Form::Bh2, options, config))),
};
