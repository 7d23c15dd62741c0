//! DPM-Solver-fast: Lu et al. (2022), "DPM-Solver", section 3.4.

use crate::error::{Error, Result};
use crate::sampling::dpm_solver::{Raising, Span, sigma};
use crate::sampling::formulas::slope;
use crate::sampling::grid::{Conventions, Grid, GridRules, Pair};
use crate::sampling::integrator::{Denoiser, Integrator, Step};
use crate::sampling::noise::NoiseSource;
use crate::sampling::options::{ETA, OptionSpec, S_NOISE};
use crate::sampling::schedule::Schedule;
use crate::sampling::spec::{NoiseUse, OtherNames, SamplerSpec};
use candle_core::Tensor;

pub(super) const SPEC: SamplerSpec = SamplerSpec {
    name: "dpm-fast",
    label: "DPM fast",
    names: OtherNames {
        diffusers: None,
        k_diffusion: Some("sample_dpm_fast"),
        comfyui: Some("dpm_fast"),
        also: &[],
    },
    source: "Lu et al. (2022), DPM-Solver, section 3.4: steps of orders 3, 2 and 1 between the first and the last level, an evaluation for each step asked; k-diffusion's sample_dpm_fast",
    order: 2,
    evaluations: 1,
    noise: NoiseUse::Eta,
    brownian: false,
    unguided: false,
    alone: false,
    options: &[ETA_OFF, S_NOISE],
    schedule: None,
    automatic: Schedule::Normal,
    grids: Conventions { diffusers: GridRules { pairs: Some(pairs), ..GridRules::K_DIFFUSION } },
    begin: |options, _| {
        let (eta, s_noise) = (options.value(&ETA_OFF), options.value(&S_NOISE));
        Ok(Box::new(DpmFast { eta, s_noise, group: None }))
    },
};

/// The share of fresh noise of samplers that are solvers of the ODE unless told otherwise.
pub(super) const ETA_OFF: OptionSpec = OptionSpec { default: 0.0, ..ETA };

/// The orders of the steps of a run with so many evaluations.
fn orders(evaluations: usize) -> Vec<usize> {
    let groups = evaluations / 3 + 1;
    match evaluations % 3 {
        0 => [vec![3; groups - 2], vec![2, 1]].concat(),
        rest => [vec![3; groups - 1], vec![rest]].concat(),
    }
}

/// The levels of all evaluations of a run between the first of `sigmas` and the last above zero.
fn pairs(sigmas: &[f64]) -> Vec<Pair> {
    let evaluations = sigmas.len() - 1;
    if last(sigmas) >= sigmas[0] {
        // One level alone: there is no way to go, and the estimate is the best of it.
        return vec![Pair { sigma: sigmas[0], next: 0.0 }];
    }
    let whole = Span { from: -sigmas[0].ln(), to: -last(sigmas).ln() };
    let orders = orders(evaluations);
    let part = |group: usize| whole.at(group as f64 / orders.len() as f64);
    let stages = |(group, order): (usize, &usize)| {
        let span = Span { from: part(group), to: part(group + 1) };
        let order = *order;
        (0..order).map(move |stage| sigma(span.at(stage as f64 / order as f64)))
    };
    let mut levels: Vec<f64> = orders.iter().enumerate().flat_map(stages).collect();
    levels.push(last(sigmas));
    levels.windows(2).map(|pair| Pair { sigma: pair[0], next: pair[1] }).collect()
}

/// The last level above zero.
fn last(sigmas: &[f64]) -> f64 {
    sigmas.iter().rev().copied().find(|sigma| *sigma > 0.0).unwrap_or(1.0)
}

/// A step of one to three evaluations, each of which is a step of the run.
#[derive(Debug)]
struct DpmFast {
    eta: f64,
    s_noise: f64,
    group: Option<Group>,
}

/// Evaluations that make one step of the solver together.
#[derive(Debug)]
struct Group {
    x: Tensor,
    order: usize,
    raising: Raising,
    /// Where it ends with its noise.
    end: f64,
    /// The noise found so far.
    noises: Vec<Tensor>,
}

impl DpmFast {
    /// The group that begins at step `i`.
    fn begin(&self, x: &Tensor, grid: &Grid, i: usize) -> Option<Group> {
        let orders = orders(grid.steps());
        let ends = orders.iter().scan(0, |sum, order| {
            *sum += order;
            Some(*sum)
        });
        let group = ends.take_while(|end| *end <= i).count();
        let ended = grid.end();
        let lowest = if ended > 0.0 { ended } else { grid.levels.last()?.sigma };
        let whole = Span { from: -grid.levels.first()?.sigma.ln(), to: -lowest.ln() };
        let part = |group: usize| whole.at(group as f64 / orders.len() as f64);
        let span = Span { from: part(group), to: part(group + 1) };
        let raising = span.raised(&grid.process, self.eta, whole.to);
        let order = *orders.get(group)?;
        Some(Group { x: x.clone(), order, raising, end: span.to, noises: Vec::new() })
    }
}

impl Group {
    /// Latents of the next evaluation, or at the end of the step.
    fn next(&self) -> Result<Tensor> {
        let (span, x) = (self.raising.span, &self.x);
        match (self.order, &self.noises[..]) {
            (1, [noise]) => span.first(x, noise, 1.0),
            (2, [noise]) => span.first(x, noise, 0.5),
            (2, [noise, there]) => span.second(x, [noise, there], 0.5),
            (_, [noise]) => span.first(x, noise, 1.0 / 3.0),
            (_, [noise, there]) => span.inner(x, [noise, there]),
            (_, [noise, _, there]) => span.third(x, [noise, there]),
            _ => Err(Error::Internal("a step of DPM-Solver without an evaluation".into())),
        }
    }
}

impl Integrator for DpmFast {
    fn step(
        &mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        grid: &Grid,
        i: usize,
        noise: &mut dyn NoiseSource,
    ) -> Result<Step> {
        if grid.levels[i].next == 0.0 && grid.steps() == 1 {
            let denoised = model.denoise(x, grid.levels[i].sigma)?;
            return Ok(Step { x: denoised.clone(), denoised });
        }
        let begun = self.group.take().or_else(|| self.begin(x, grid, i));
        let mut group = begun.ok_or_else(|| Error::Internal("DPM-Solver beyond its run".into()))?;
        let stage = group.noises.len() as f64 / group.order as f64;
        let level = sigma(group.raising.span.at(stage));
        let denoised = model.denoise(x, level)?;
        group.noises.push(slope(x, &denoised, level)?);
        let mut moved = group.next()?;
        if group.noises.len() < group.order {
            self.group = Some(group);
            return Ok(Step { x: moved, denoised });
        }
        if group.raising.up > 0.0 {
            let (from, to) = (sigma(group.raising.span.from), sigma(group.end));
            let fresh = noise.between(from, to, &moved)?;
            let up = group.raising.up * self.s_noise;
            moved = grid.process.add_noise(&moved, &fresh, up)?;
        }
        Ok(Step { x: moved, denoised })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_asked_is_an_evaluation() {
        for n in 2..=40 {
            assert_eq!(orders(n).iter().sum::<usize>(), n);
            let sigmas: Vec<f64> =
                (0..n).map(|i| 10.0 - 9.0 * i as f64 / n as f64).chain([0.0]).collect();
            let pairs = pairs(&sigmas);
            assert_eq!(pairs.len(), n);
            assert!((pairs[0].sigma - 10.0).abs() < 1e-12 && pairs[n - 1].next > 0.0);
        }
    }
}
