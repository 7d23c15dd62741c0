//! How the estimates of a plan are guided: every setting of guidance that a request has, put together.

use super::Plan;
use super::guidance::{GuidanceInterval, Pag, Sag};
use crate::sampling::{Guidance, NoiseProcess, PredictionKind, SkipRules};

/// The guidance of a plan.
#[derive(Debug, Clone)]
pub(super) struct Guiding {
    /// How estimates are combined.
    pub(super) rule: Guidance,
    /// Away from perturbed attention.
    pub(super) pag: Option<Pag>,
    /// Away from blurred parts.
    pub(super) sag: Option<Sag>,
    skip: SkipRules,
    interval: Option<GuidanceInterval>,
    /// Steps of the run, and evaluations of each as A1111 counts them.
    steps: usize,
    evaluations: usize,
    process: NoiseProcess,
}

impl Guiding {
    /// That of `plan` for a network that predicts `kind`.
    pub(super) fn new(plan: &Plan, kind: PredictionKind, process: &NoiseProcess) -> Self {
        let rule = Guidance::new(plan.guidance_scale)
            .with_threshold(plan.dynamic_threshold)
            .with_rescale(plan.guidance_rescale, kind, process);
        Self {
            rule,
            pag: plan.pag.clone().filter(|pag| pag.scale > 0.0),
            sag: plan.sag.filter(|sag| sag.scale > 0.0),
            skip: SkipRules { min_uncond: plan.s_min_uncond, early: plan.skip_early_cfg },
            interval: plan.guidance_interval,
            steps: plan.steps,
            evaluations: usize::from(plan.sampler.spec().evaluations.clamp(1, 2)),
            process: process.clone(),
        }
    }

    /// Whether evaluation `number` of step `step`, both from 0, at noise level `sigma` takes the negative prompt.
    pub(super) fn acts(&self, step: usize, number: usize, sigma: f64) -> bool {
        let inside = self.interval.is_none_or(|interval| interval.holds(sigma, &self.process));
        let made = step * self.evaluations + number;
        inside && !self.skip.skips(made, self.steps * self.evaluations, sigma)
    }
}
