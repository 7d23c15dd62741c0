//! The schedules: a function each, and its [`ScheduleSpec`].

use super::beta::beta_quantile;
use super::process::TimestepRule;
use super::schedule_spec::{ScheduleInput, ScheduleSpec};

pub(super) const DISCRETE: ScheduleSpec = ScheduleSpec {
    name: "discrete",
    label: "Automatic",
    aliases: &[],
    comfyui: &[],
    source: "at training timesteps, spaced as the model's scheduler config says",
    whole: None,
    spans: false,
    rho: None,
    levels: discrete,
};

pub(super) const KARRAS: ScheduleSpec = ScheduleSpec {
    name: "karras",
    label: "Karras",
    aliases: &[],
    comfyui: &["karras"],
    source: "Karras et al. (2022), eq. 5, ρ = 7",
    whole: Some(TimestepRule::Rounded),
    spans: true,
    rho: Some(7.0),
    levels: |n, input| curved(n, input.low, input.high, input.rho.unwrap_or(RHO)),
};

pub(super) const EXPONENTIAL: ScheduleSpec = ScheduleSpec {
    name: "exponential",
    label: "Exponential",
    aliases: &["Polyexponential"],
    comfyui: &["exponential"],
    source: "evenly in the logarithm of σ",
    whole: Some(TimestepRule::Truncated),
    spans: true,
    rho: Some(1.0),
    levels: exponential,
};

pub(super) const NORMAL: ScheduleSpec = ScheduleSpec {
    name: "normal",
    label: "Normal",
    aliases: &["Uniform"],
    comfyui: &["normal"],
    source: "evenly from the last to the first training timestep; A1111's uniform, ComfyUI's normal_scheduler",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: normal,
};

pub(super) const SGM_UNIFORM: ScheduleSpec = ScheduleSpec {
    name: "sgm-uniform",
    label: "SGM Uniform",
    aliases: &[],
    comfyui: &["sgm_uniform"],
    source: "as normal with one step more, whose level is left out; A1111's get_sigmas of Stability's code, ComfyUI",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: sgm_uniform,
};

pub(super) const SIMPLE: ScheduleSpec = ScheduleSpec {
    name: "simple",
    label: "Simple",
    aliases: &[],
    comfyui: &["simple"],
    source: "every T/N-th training timestep from the last; ComfyUI's simple_scheduler",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: simple,
};

pub(super) const DDIM_UNIFORM: ScheduleSpec = ScheduleSpec {
    name: "ddim-uniform",
    label: "DDIM",
    aliases: &["DDIM Uniform"],
    comfyui: &["ddim_uniform"],
    source: "every T/N-th training timestep from the second; ComfyUI's ddim_scheduler, which takes a step more where N does not divide T",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: ddim_uniform,
};

pub(super) const BETA: ScheduleSpec = ScheduleSpec {
    name: "beta",
    label: "Beta",
    aliases: &[],
    comfyui: &[],
    source: "quantiles of the beta distribution (0.6, 0.6) between the levels; A1111's beta, diffusers' use_beta_sigmas",
    whole: Some(TimestepRule::Truncated),
    spans: true,
    rho: None,
    levels: beta_levels,
};

pub(super) const BETA_TIMESTEPS: ScheduleSpec = ScheduleSpec {
    name: "beta-timesteps",
    label: "Beta Timesteps",
    aliases: &[],
    comfyui: &["beta"],
    source: "Lee et al. (2024), Beta Sampling is All You Need, (0.6, 0.6) over timesteps; ComfyUI's beta_scheduler, which takes fewer steps where two are one",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: beta_timesteps,
};

pub(super) const KL_OPTIMAL: ScheduleSpec = ScheduleSpec {
    name: "kl-optimal",
    label: "KL Optimal",
    aliases: &[],
    comfyui: &["kl_optimal"],
    source: "Sabour et al. (2024), Align Your Steps, eq. 13; ComfyUI's kl_optimal_scheduler",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: kl_optimal,
};

pub(super) const LINEAR_QUADRATIC: ScheduleSpec = ScheduleSpec {
    name: "linear-quadratic",
    label: "Linear Quadratic",
    aliases: &[],
    comfyui: &["linear_quadratic"],
    source: "linear in σ for half of the steps, then quadratic; ComfyUI's linear_quadratic_schedule",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: linear_quadratic,
};

pub(super) const TURBO: ScheduleSpec = ScheduleSpec {
    name: "turbo",
    label: "Turbo",
    aliases: &["Trailing"],
    comfyui: &[],
    source: "trailing timesteps; Forge's turbo",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: turbo,
};

pub(super) const ALIGN_YOUR_STEPS: ScheduleSpec = ScheduleSpec {
    name: "align-your-steps",
    label: "Align Your Steps",
    aliases: &["AYS"],
    comfyui: &[],
    source: "Sabour et al. (2024), Align Your Steps, for SD 1.5; A1111's align_your_steps",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: |n, _| table_levels(&ALIGN_YOUR_STEPS_TABLE, n),
};

pub(super) const ALIGN_YOUR_STEPS_SDXL: ScheduleSpec = ScheduleSpec {
    name: "align-your-steps-sdxl",
    label: "Align Your Steps SDXL",
    aliases: &["AYS SDXL"],
    comfyui: &[],
    source: "the same for SDXL",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: |n, _| table_levels(&ALIGN_YOUR_STEPS_SDXL_TABLE, n),
};

pub(super) const ALIGN_YOUR_STEPS_32: ScheduleSpec = ScheduleSpec {
    name: "align-your-steps-32",
    label: "Align Your Steps 32",
    aliases: &["AYS 32"],
    comfyui: &[],
    source: "the same with 32 levels for SD 1.5; Forge",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: |n, _| table_levels(&ALIGN_YOUR_STEPS_32_TABLE, n),
};

pub(super) const ALIGN_YOUR_STEPS_32_SDXL: ScheduleSpec = ScheduleSpec {
    name: "align-your-steps-32-sdxl",
    label: "Align Your Steps 32 SDXL",
    aliases: &["AYS 32 SDXL"],
    comfyui: &[],
    source: "the same with 32 levels for SDXL; Forge",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: |n, _| table_levels(&ALIGN_YOUR_STEPS_32_SDXL_TABLE, n),
};

pub(super) const GITS: ScheduleSpec = ScheduleSpec {
    name: "gits",
    label: "Align Your Steps GITS",
    aliases: &["GITS"],
    comfyui: &[],
    source: "Chen et al. (2024), GITS, for SD 1.5; Forge's align_your_steps_GITS",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: |n, _| table_levels(&GITS_TABLE, n),
};

pub(super) const GITS_SDXL: ScheduleSpec = ScheduleSpec {
    name: "gits-sdxl",
    label: "Align Your Steps GITS SDXL",
    aliases: &["GITS SDXL"],
    comfyui: &[],
    source: "the same for SDXL",
    whole: Some(TimestepRule::Rounded),
    spans: false,
    rho: None,
    levels: |n, _| table_levels(&GITS_SDXL_TABLE, n),
};

/// Levels for SD 1.5.
const ALIGN_YOUR_STEPS_TABLE: [f64; 11] =
    [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029];
/// Levels for SDXL.
const ALIGN_YOUR_STEPS_SDXL_TABLE: [f64; 11] =
    [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029];
/// Levels for SD 1.5.
const ALIGN_YOUR_STEPS_32_TABLE: [f64; 32] = [
    14.615,
    11.239_513_52,
    8.643_630_81,
    6.647_294_24,
    5.572_508_62,
    4.716_485_46,
    3.991_960_65,
    3.519_560_9,
    3.134_904_66,
    2.792_287_88,
    2.487_736_28,
    2.216_638_65,
    1.975_083_51,
    1.779_317_2,
    1.614_753_35,
    1.465_409_53,
    1.314_849,
    1.166_424_97,
    1.034_755_47,
    0.915_737_44,
    0.807_481_69,
    0.712_023_61,
    0.621_739,
    0.530_652_02,
    0.452_909_6,
    0.374_914_55,
    0.274_618_19,
    0.201_152_9,
    0.141_058_73,
    0.066_828_81,
    0.031_661_21,
    0.015,
];
/// Levels for SDXL.
const ALIGN_YOUR_STEPS_32_SDXL_TABLE: [f64; 32] = [
    14.615,
    11.149_161_8,
    8.505_221_27,
    6.488_271_51,
    5.437_074_02,
    4.603_986_19,
    3.898_547_04,
    3.274_074_57,
    2.743_965_27,
    2.299_686_59,
    1.954_485_14,
    1.671_087_15,
    1.428_781_52,
    1.231_810_09,
    1.067_896_49,
    0.925_794_43,
    0.802_908_86,
    0.696_601_21,
    0.604_369_03,
    0.528_525_52,
    0.467_733_44,
    0.413_933_79,
    0.362_581_86,
    0.310_085_17,
    0.265_189_25,
    0.223_264_61,
    0.176_538_77,
    0.139_591_92,
    0.105_873_81,
    0.055_193_69,
    0.028_773_34,
    0.015,
];
/// Levels for SD 1.5.
const GITS_TABLE: [f64; 11] =
    [14.615, 4.617, 2.507, 1.236, 0.702, 0.402, 0.240, 0.156, 0.104, 0.094, 0.029];
/// Levels for SDXL.
const GITS_SDXL_TABLE: [f64; 11] =
    [14.615, 4.734, 2.567, 1.529, 0.987, 0.652, 0.418, 0.268, 0.179, 0.127, 0.029];

/// σ of the timesteps.
fn discrete(_: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    input.timesteps.iter().map(|t| input.process.table().sigma(*t)).collect()
}

/// ρ of Karras et al. (2022).
const RHO: f64 = 7.0;

/// Karras et al. (2022), eq. 5 with ρ = 7.
pub(super) fn karras(n: usize, low: f64, high: f64) -> Vec<f64> {
    curved(n, low, high, RHO)
}

/// The same with any ρ.
fn curved(n: usize, low: f64, high: f64, rho: f64) -> Vec<f64> {
    let (low, high) = (low.powf(1.0 / rho), high.powf(1.0 / rho));
    ramp(n).map(|ramp| (high + ramp * (low - high)).powf(rho)).collect()
}

/// A geometric series; with a curve k-diffusion's polyexponential, whose ramp has the power ρ.
fn exponential(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let (low, high) = (input.low.ln(), input.high.ln());
    match input.rho.filter(|rho| *rho != 1.0) {
        None => ramp(n).map(|ramp| (high + ramp * (low - high)).exp()).collect(),
        Some(rho) => {
            ramp(n).map(|ramp| ((1.0 - ramp).powf(rho) * (high - low) + low).exp()).collect()
        }
    }
}

/// `n` numbers from 0 to 1.
fn ramp(n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| if n == 1 { 0.0 } else { i as f64 / (n - 1) as f64 })
}

/// The last training timestep.
fn last(input: &ScheduleInput<'_>) -> usize {
    input.process.table().len() - 1
}

/// Lowest and highest level of the table.
fn ends(input: &ScheduleInput<'_>) -> [f64; 2] {
    let table = input.process.table();
    [table.sigma(0.0), table.sigma(last(input) as f64)]
}

/// Even timesteps, with both ends.
fn normal(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let last = last(input) as f64;
    ramp(n).map(|ramp| input.process.table().sigma_in_log(last * (1.0 - ramp))).collect()
}

/// Even timesteps, without the lower end.
fn sgm_uniform(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let last = last(input) as f64;
    let at = |i: usize| input.process.table().sigma_in_log(last * (1.0 - i as f64 / n as f64));
    (0..n).map(at).collect()
}

/// Whole timesteps from the last, rounded up.
fn simple(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let table = input.process.table();
    let stride = table.len() as f64 / n as f64;
    let at = |i: usize| table.sigma((last(input) - (i as f64 * stride) as usize) as f64);
    (0..n).map(at).collect()
}

/// Whole timesteps of one distance, above the first.
fn ddim_uniform(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let table = input.process.table();
    let stride = (table.len() / n).max(1);
    (0..n).rev().map(|i| table.sigma((1 + i * stride).min(last(input)) as f64)).collect()
}

/// Parameters of the beta distribution, of all tools.
const SHAPE: f64 = 0.6;

/// Quantiles between the levels.
fn beta_levels(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let at = |ramp: f64| input.low + beta_quantile(1.0 - ramp, SHAPE) * (input.high - input.low);
    ramp(n).map(at).collect()
}

/// Quantiles over the timesteps, each another one.
fn beta_timesteps(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let (table, last) = (input.process.table(), last(input));
    let mut above = last + 1;
    let at = |i: usize| {
        let quantile = beta_quantile(1.0 - i as f64 / n as f64, SHAPE);
        let nearest = (quantile * last as f64).round_ties_even() as usize;
        above = nearest.min(above.saturating_sub(1)).max(n - 1 - i);
        table.sigma(above as f64)
    };
    (0..n).map(at).collect()
}

/// Even arc tangents.
fn kl_optimal(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let [low, high] = ends(input).map(f64::atan);
    ramp(n).map(|ramp| (ramp * low + (1.0 - ramp) * high).tan()).collect()
}

/// A line to 1/40 of the way for half of the steps, then a parabola that goes on from it smoothly.
fn linear_quadratic(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    const THRESHOLD: f64 = 0.025;
    let [_, high] = ends(input);
    if n == 1 {
        return vec![high];
    }
    let (line, all) = ((n / 2) as f64, n as f64);
    let rest = all - line;
    let gap = line - THRESHOLD * all;
    let square = gap / (line * rest * rest);
    let slope = THRESHOLD / line - 2.0 * gap / (rest * rest);
    let constant = square * line * line;
    let way = |i: usize| {
        let i = i as f64;
        if i < line { i * THRESHOLD / line } else { square * i * i + slope * i + constant }
    };
    (0..n).map(|i| high * (1.0 - way(i))).collect()
}

/// Whole timesteps at the end of each N-th part.
fn turbo(n: usize, input: &ScheduleInput<'_>) -> Vec<f64> {
    let table = input.process.table();
    let stride = table.len() as f64 / n as f64;
    let at = |i: usize| table.sigma((stride * (n - i) as f64).round_ties_even() - 1.0);
    (0..n).map(at).collect()
}

/// `n` levels of a table, interpolated in ln σ.
fn table_levels(table: &[f64], n: usize) -> Vec<f64> {
    let last = table.len() - 1;
    let at = |ramp: f64| {
        let place = ramp * last as f64;
        let low = (place as usize).min(last - 1);
        let (a, b) = (table[low].ln(), table[low + 1].ln());
        (a + (place - low as f64) * (b - a)).exp()
    };
    ramp(n).map(at).collect()
}
