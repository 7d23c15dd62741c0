//! SA-Solver with a second evaluation after the corrector: ComfyUI's `sa_solver_pece`.

use super::sa_solver::SaSolver;
use crate::sampling::grid::{Conventions, GridRules};
use crate::sampling::options::{ETA, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "sa-solver-pece",
    label: "SA-Solver PECE",
    names: OtherNames {
        diffusers: None,
        k_diffusion: None,
        comfyui: Some("sa_solver_pece"),
        also: &[],
    },
    source: "Xue et al. (2023), SA-Solver, with predictor, evaluation, corrector and evaluation; ComfyUI's sample_sa_solver_pece",
    order: 3,
    evaluations: 2,
    noise: NoiseUse::EveryStep,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA, S_NOISE],
    schedule: None,
    automatic: Schedule::Discrete,
    grids: Conventions { diffusers: GridRules::K_DIFFUSION },
    begin: |options, _| Ok(Box::new(SaSolver::new(options, true))),
};
