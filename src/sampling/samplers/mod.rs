//! The samplers, one file each: a `SPEC` that says everything about it, and one function for a step.
//!
//! A new one is a file, and its two lines here: `docs/how-to/add-a-sampler.md`.

mod ddim;
mod ddim_cfg_pp;
mod ddpm;
mod deis;
mod dpm2;
mod dpm2_a;
mod dpm_adaptive;
mod dpm_fast;
mod dpmpp_2m;
mod dpmpp_2m_cfg_pp;
mod dpmpp_2m_sde;
mod dpmpp_2m_sde_heun;
mod dpmpp_2s;
mod dpmpp_2s_a;
mod dpmpp_2s_a_cfg_pp;
mod dpmpp_3m;
mod dpmpp_3m_sde;
mod dpmpp_sde;
mod er_sde;
mod euler;
mod euler_a;
mod euler_a_cfg_pp;
mod euler_cfg_pp;
mod gradient_estimation;
mod gradient_estimation_cfg_pp;
mod heun;
mod heunpp2;
mod ipndm;
mod ipndm_v;
mod lcm;
mod lms;
mod plms;
mod res_multistep;
mod res_multistep_a;
mod res_multistep_a_cfg_pp;
mod res_multistep_cfg_pp;
mod restart;
mod sa_solver;
mod sa_solver_pece;
mod seeds_2;
mod seeds_3;
mod tcd;
mod unipc;
mod unipc_bh2;

use super::spec::samplers;

samplers! {
    /// DPM-Solver++(2M), Lu et al. (2022), Algorithm 2.
    #[default]
    DpmPp2m = dpmpp_2m,
    /// Euler's method on the probability-flow ODE: Algorithm 2 of Karras et al. (2022), no churn.
    Euler = euler,
    /// DDIM, Song et al. (2020), eq. 12.
    Ddim = ddim,
    /// Euler's method with ancestral noise: k-diffusion's `sample_euler_ancestral`.
    EulerA = euler_a,
    /// Heun's method, two evaluations a step: Karras et al. (2022), Algorithm 1.
    Heun = heun,
    /// Jumps to the estimate and fresh noise, for latent consistency models: Luo et al. (2023).
    Lcm = lcm,
    /// DPM-Solver++ for the diffusion SDE, single-step: k-diffusion's `sample_dpmpp_sde`.
    DpmPpSde = dpmpp_sde,
    /// DPM-Solver++(2M) for the diffusion SDE, Lu et al. (2022), Algorithm 2 with noise.
    DpmPp2mSde = dpmpp_2m_sde,
    /// DPM-Solver++(2M) for the diffusion SDE, in Heun's form.
    DpmPp2mSdeHeun = dpmpp_2m_sde_heun,
    /// DPM-Solver++(3M) for the diffusion SDE: k-diffusion's `sample_dpmpp_3m_sde`.
    DpmPp3mSde = dpmpp_3m_sde,
    /// DPM-Solver++(2S) with ancestral noise: k-diffusion's `sample_dpmpp_2s_ancestral`.
    DpmPp2sA = dpmpp_2s_a,
    /// DPM-Solver-2 in σ: the midpoint rule in ln σ, k-diffusion's `sample_dpm_2`.
    Dpm2 = dpm2,
    /// DPM-Solver-2 in σ with ancestral noise: k-diffusion's `sample_dpm_2_ancestral`.
    Dpm2A = dpm2_a,
    /// A linear multistep method: the polynomial through the last slopes, k-diffusion's `sample_lms`.
    Lms = lms,
    /// The pseudo-numerical method of PNDM on slopes, fixed coefficients: ComfyUI's `ipndm`.
    Ipndm = ipndm,
    /// The pseudo-numerical method of PNDM with coefficients of uneven steps: ComfyUI's `ipndm_v`.
    IpndmV = ipndm_v,
    /// DEIS: the polynomial in ln σ through the last slopes, Zhang and Chen (2022).
    Deis = deis,
    /// Euler's method with the change of slope counted on: ComfyUI's `gradient_estimation`.
    GradientEstimation = gradient_estimation,
    /// Heun's method with slopes of up to three levels: ComfyUI's `heunpp2`.
    HeunPp2 = heunpp2,
    /// Refined exponential solver, multistep: ComfyUI's `res_multistep`.
    ResMultistep = res_multistep,
    /// Refined exponential solver, multistep, with ancestral noise: ComfyUI's `res_multistep_ancestral`.
    ResMultistepA = res_multistep_a,
    /// The extended reverse-time SDE solver of third order: ComfyUI's `er_sde`.
    ErSde = er_sde,
    /// A stochastic exponential solver of two stages: ComfyUI's `seeds_2`.
    Seeds2 = seeds_2,
    /// A stochastic exponential solver of three stages: ComfyUI's `seeds_3`.
    Seeds3 = seeds_3,
    /// Ancestral sampling of DDPM, Ho et al. (2020), Algorithm 2.
    Ddpm = ddpm,
    /// Trajectory consistency sampling, for models distilled so: Zheng et al. (2024).
    Tcd = tcd,
    /// Pseudo linear multistep: PNDM without its Runge-Kutta steps, Liu et al. (2022).
    Plms = plms,
    /// Heun's method that goes back up a few times: Xu et al. (2023).
    Restart = restart,
    /// UniPC, Zhao et al. (2023), with B₁(h).
    UniPc = unipc,
    /// UniPC, Zhao et al. (2023), with B₂(h).
    UniPcBh2 = unipc_bh2,
    /// DPM-Solver-fast: steps of orders 3, 2 and 1 without a list of levels, k-diffusion's `sample_dpm_fast`.
    DpmFast = dpm_fast,
    /// DPM-Solver with steps of adapted length, k-diffusion's `sample_dpm_adaptive`.
    DpmAdaptive = dpm_adaptive,
    /// DPM-Solver++(3M), Lu et al. (2022), the multistep solver of third order.
    DpmPp3m = dpmpp_3m,
    /// DPM-Solver++(2S), Lu et al. (2022), Algorithm 1, one evaluation a step.
    DpmPp2s = dpmpp_2s,
    /// SA-Solver, Xue et al. (2023), Algorithm 1.
    SaSolver = sa_solver,
    /// SA-Solver with a second evaluation after the corrector.
    SaSolverPece = sa_solver_pece,
    /// Euler's method along the unguided estimate, Chung et al. (2024).
    EulerCfgPp = euler_cfg_pp,
    /// Euler's method along the unguided estimate, with ancestral noise.
    EulerACfgPp = euler_a_cfg_pp,
    /// DDIM along the unguided estimate, as A1111 has it.
    DdimCfgPp = ddim_cfg_pp,
    /// DPM-Solver++(2M) along the unguided estimate.
    DpmPp2mCfgPp = dpmpp_2m_cfg_pp,
    /// DPM-Solver++(2S) along the unguided estimate, with ancestral noise.
    DpmPp2sACfgPp = dpmpp_2s_a_cfg_pp,
    /// Refined exponential solver along the unguided estimate.
    ResMultistepCfgPp = res_multistep_cfg_pp,
    /// Refined exponential solver along the unguided estimate, with ancestral noise.
    ResMultistepACfgPp = res_multistep_a_cfg_pp,
    /// Euler's method with the change of slope counted on, along the unguided estimate.
    GradientEstimationCfgPp = gradient_estimation_cfg_pp,
}
