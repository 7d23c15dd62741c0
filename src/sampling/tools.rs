//! The noise levels of A1111 and ComfyUI, whose samplers are k-diffusion's.
//!
//! Floor 2. Numbers, rounding and quirks are those of A1111 1.10 and ComfyUI 0.3.64.

use super::config::SchedulerConfig;
use super::convention::Convention;
use super::grid::{Grid, Pair, Wanted};
use super::process::{NoiseProcess, TimestepRule};
use super::samplers::Sampler;
use super::schedule::Schedule;
use super::schedule_spec::ScheduleInput;
use super::table::NoiseTable;
use crate::error::{Error, Result};

/// Samplers whose lists have one step more, of which the level before the end is left out.
const DISCARDING: [(Convention, &[Sampler]); 2] = [
    (Convention::A1111, &[Sampler::Dpm2, Sampler::Dpm2A, Sampler::DpmPp3mSde]),
    (Convention::Comfyui, &[Sampler::Dpm2, Sampler::Dpm2A, Sampler::UniPc, Sampler::UniPcBh2]),
];

/// Where ComfyUI's UniPC ends instead of at zero.
const UNIPC_END: f64 = 0.001;

/// The training timesteps of a distilled model in A1111.
const LCM_STEPS: usize = 50;

/// The run of a sampler as `tool` makes it.
///
/// # Errors
/// [`Error::BadRequest`] for numbers of steps that the list has no place for.
pub(super) fn plan(
    tool: Convention,
    sampler: Sampler,
    wanted: &Wanted,
    config: &SchedulerConfig,
) -> Result<Grid> {
    let a1111 = tool == Convention::A1111;
    let process = NoiseProcess::VariancePreserving(NoiseTable::of_tool(tool, config)?);
    let most = process.table().len() - 1;
    if wanted.steps == 0 || wanted.steps > most {
        return Err(Error::bad_request("steps", wanted.steps, format!("expected 1 to {most}")));
    }
    let grid = match sampler {
        Sampler::Ddim | Sampler::DdimCfgPp | Sampler::Plms if a1111 => {
            timestep_run(wanted.steps, process)?
        }
        Sampler::UniPc | Sampler::UniPcBh2 if a1111 => unipc_run(wanted.steps, process),
        _ => sigma_run(tool, sampler, wanted, process)?,
    };
    Ok(Grid { convention: tool, ..grid })
}

/// A run of k-diffusion's samplers.
fn sigma_run(
    tool: Convention,
    sampler: Sampler,
    wanted: &Wanted,
    process: NoiseProcess,
) -> Result<Grid> {
    let a1111 = tool == Convention::A1111;
    let distilled = a1111 && sampler == Sampler::Lcm;
    let of_list = if distilled {
        NoiseProcess::VariancePreserving(process.table().every(LCM_STEPS)?)
    } else {
        process.clone()
    };
    let discards = DISCARDING.iter().any(|(of, all)| *of == tool && all.contains(&sampler));
    let steps = wanted.steps + usize::from(discards);
    let mut sigmas = list(tool, sampler, &Wanted { steps, ..*wanted }, &of_list)?;
    if discards && sigmas.len() > 2 {
        sigmas.remove(sigmas.len() - 2);
    }
    // Lists are of f32 numbers.
    for sigma in &mut *sigmas {
        *sigma = f64::from(*sigma as f32);
    }
    let table = process.table();
    let (low, high) = (table.sigma(0.0), table.sigma((table.len() - 1) as f64));
    let full = sigmas[0] >= high * (1.0 - 1e-5);
    let start_scale = if a1111 || !full { sigmas[0] } else { sigmas[0].hypot(1.0) };
    let solver = [Sampler::DpmFast, Sampler::DpmAdaptive].contains(&sampler);
    if solver && a1111 {
        // A1111 gives these the ends of the model's levels, whatever the schedule.
        let at = |i: usize| (high.ln() + (low / high).ln() * i as f64 / wanted.steps as f64).exp();
        sigmas = (0..=wanted.steps).map(at).collect();
    }
    if let (Sampler::UniPc | Sampler::UniPcBh2, Some(end)) = (sampler, sigmas.last_mut()) {
        *end = if *end == 0.0 { UNIPC_END } else { *end };
    }
    let pairs = match sampler.spec().grids.diffusers.pairs {
        Some(pairs) => pairs(&sigmas),
        None => sigmas.windows(2).map(|pair| Pair { sigma: pair[0], next: pair[1] }).collect(),
    };
    let rule = match tool {
        _ if distilled => TimestepRule::Distilled,
        Convention::Comfyui => TimestepRule::Rounded,
        _ => TimestepRule::Interpolated,
    };
    Ok(Grid::of_pairs(&pairs, start_scale, process, rule))
}

/// The levels of a schedule and the end.
fn list(
    tool: Convention,
    sampler: Sampler,
    wanted: &Wanted,
    process: &NoiseProcess,
) -> Result<Vec<f64>> {
    let (table, n) = (process.table(), wanted.steps);
    let (low, high) = (table.sigma(0.0), table.sigma((table.len() - 1) as f64));
    let schedule = match (wanted.schedule, tool) {
        // A1111's "Automatic"; its samplers without one of their own take "Uniform".
        (Schedule::Discrete, Convention::A1111) => match sampler.spec().automatic {
            Schedule::Discrete => Schedule::Normal,
            own => own,
        },
        (Schedule::Discrete, _) => Schedule::Normal,
        (Schedule::Beta, Convention::Comfyui) => Schedule::BetaTimesteps,
        (schedule, _) => schedule,
    };
    let mut levels = match (schedule, tool) {
        (Schedule::DdimUniform, _) => {
            let stride = (table.len() / n).max(1);
            let all = (1..table.len()).step_by(stride).map(|t| table.sigma(t as f64));
            all.collect::<Vec<_>>().into_iter().rev().collect()
        }
        (Schedule::KlOptimal, Convention::A1111) => {
            // Its last level is the lowest of the model, and there is none after it.
            let at = |i: usize| {
                let share = i as f64 / n as f64;
                (share * low.atan() + (1.0 - share) * high.atan()).tan()
            };
            return Ok((0..=n).map(at).collect());
        }
        _ => {
            let low = wanted.low.unwrap_or(low);
            let high = wanted.high.unwrap_or(high);
            let input = ScheduleInput { timesteps: &[], low, high, process, rho: wanted.rho };
            schedule.levels(n, &input)?
        }
    };
    levels.push(0.0);
    Ok(levels)
}

/// A1111's DDIM and its kin: whole timesteps from the top down to the first but one, an evaluation less than they are.
fn timestep_run(steps: usize, process: NoiseProcess) -> Result<Grid> {
    let table = process.table();
    let last = table.len() - 1;
    let timesteps: Vec<usize> =
        (0..=last).step_by(table.len() / steps).map(|t| (t + 1).min(last)).collect();
    if timesteps.len() < 2 {
        let why = "A1111's DDIM takes a step less than asked, and so none here; expected 2 or more";
        return Err(Error::bad_request("steps", steps, why));
    }
    let level = |t: usize| table.sigma(t as f64);
    let pairs: Vec<Pair> = timesteps
        .windows(2)
        .rev()
        .map(|pair| Pair { sigma: level(pair[1]), next: level(pair[0]) })
        .collect();
    Ok(in_preserving_scale(&pairs, process, TimestepRule::OfTable))
}

/// A1111's UniPC: even times from 1 to 0.001, between timesteps.
fn unipc_run(steps: usize, process: NoiseProcess) -> Grid {
    let table = process.table();
    let at = |i: usize| {
        let time = 1.0 - i as f64 / steps as f64 * 0.999;
        table.sigma_in_alpha(time * table.len() as f64 - 1.0)
    };
    let pairs: Vec<Pair> = (0..steps).map(|i| Pair { sigma: at(i), next: at(i + 1) }).collect();
    in_preserving_scale(&pairs, process, TimestepRule::InAlpha)
}

/// A run that begins with unit noise and ends above zero, in variance-preserving scale.
fn in_preserving_scale(pairs: &[Pair], process: NoiseProcess, rule: TimestepRule) -> Grid {
    let scale = |sigma: Option<f64>| sigma.unwrap_or(0.0).hypot(1.0);
    let start = scale(pairs.first().map(|pair| pair.sigma));
    let end_scale = scale(pairs.last().map(|pair| pair.next));
    Grid { end_scale, ..Grid::of_pairs(pairs, start, process, rule) }
}
