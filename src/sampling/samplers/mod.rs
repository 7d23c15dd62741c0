//! The samplers, one file each: a `SPEC` that says everything about it, and one function for a step.
//!
//! A new one is a file, and its two lines here: `docs/how-to/add-a-sampler.md`.

mod ddim;
mod dpmpp_2m;
mod euler;
mod euler_a;
mod heun;
mod lcm;

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
}
