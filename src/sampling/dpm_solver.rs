//! The steps of DPM-Solver: Lu et al. (2022), "DPM-Solver", Algorithms 1 to 3, in t = −ln σ.
//!
//! Latents are x = x₀ + σ·n, so that what the paper calls ε is (x − x₀)/σ.

use super::formulas::plus;
use super::process::{Ancestral, NoiseProcess};
use crate::error::Result;
use candle_core::Tensor;

/// The level at time `t`.
pub(super) fn sigma(t: f64) -> f64 {
    (-t).exp()
}

/// A step from one time to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    pub(super) from: f64,
    pub(super) to: f64,
}

/// A step whose end is raised again by noise: where it goes, and the noise that is added there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Raising {
    pub(super) span: Span,
    /// Deviation of the noise.
    pub(super) up: f64,
}

impl Span {
    fn length(self) -> f64 {
        self.to - self.from
    }

    /// The time after a share of the step.
    pub(super) fn at(self, share: f64) -> f64 {
        self.from + share * self.length()
    }

    /// This step with a share `eta` of fresh noise, within a run that ends at time `end`.
    pub(super) fn raised(self, process: &NoiseProcess, eta: f64, end: f64) -> Raising {
        if eta == 0.0 {
            return Raising { span: self, up: 0.0 };
        }
        let Ancestral { down, .. } = process.ancestral(sigma(self.from), sigma(self.to), eta);
        let to = if down > 0.0 { end.min(-down.ln()) } else { end };
        // Rounding may put the end a little above where it was.
        let up = (sigma(self.to).powi(2) - sigma(to).powi(2)).max(0.0).sqrt();
        Raising { span: Span { to, ..self }, up }
    }

    /// The first order after a share of the step: all of it for 1.
    pub(super) fn first(self, x: &Tensor, noise: &Tensor, share: f64) -> Result<Tensor> {
        let factor = sigma(self.at(share)) * (share * self.length()).exp_m1();
        plus(x, -factor, noise)
    }

    /// The second order, with the noise found at share `middle` of the step.
    pub(super) fn second(self, x: &Tensor, noises: [&Tensor; 2], middle: f64) -> Result<Tensor> {
        let [noise, there] = noises;
        let factor = sigma(self.to) * self.length().exp_m1() / (2.0 * middle);
        plus(&self.first(x, noise, 1.0)?, -factor, &(there - noise)?)
    }

    /// The third order's own second stage, at 2/3 of the step, with the noise found at 1/3.
    pub(super) fn inner(self, x: &Tensor, noises: [&Tensor; 2]) -> Result<Tensor> {
        let [noise, there] = noises;
        let part = 2.0 / 3.0 * self.length();
        let factor = sigma(self.at(2.0 / 3.0)) * 2.0 * (part.exp_m1() / part - 1.0);
        plus(&self.first(x, noise, 2.0 / 3.0)?, -factor, &(there - noise)?)
    }

    /// The third order, with the noise found at 2/3 of the step.
    pub(super) fn third(self, x: &Tensor, noises: [&Tensor; 2]) -> Result<Tensor> {
        let [noise, there] = noises;
        let h = self.length();
        let factor = sigma(self.to) * 1.5 * (h.exp_m1() / h - 1.0);
        plus(&self.first(x, noise, 1.0)?, -factor, &(there - noise)?)
    }
}
