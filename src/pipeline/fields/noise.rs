//! The rows of noise, of whose picture is meant, and of the numbers of samplers.

use super::blank::{LABEL, PICTURE, ROW, TUNING};
use super::row::{Field, Flag, Label, Range, Setting};
use super::values::{number, parsed, seed, some, whole};
use crate::pipeline::Compat;
use crate::rng::Rng;
use crate::size::ImageSize;

/// The row of `compat`.
pub(super) const COMPAT: Field = Field {
    key: "compat",
    sets: &["compat"],
    flag: Some(Flag {
        long: "compat",
        value: "NAME",
        place: 17,
        help: "Whose picture is meant, where programs differ in noise, levels, clip skip, bytes and more: colora, \
             diffusers, a1111 or comfyui [default: colora]",
        ..PICTURE
    }),
    label: Some(Label { name: "Compat", own: true, ..LABEL }),
    setting: Some(Setting { example: "\"a1111\"", remark: "" }),
    names: || Compat::ALL.iter().map(|compat| compat.name()).collect(),
    read: parsed::<Compat>,
    write: |r| some(Some(r.compat)),
    neutral: "colora",
    ..ROW
};

/// The row of `rng`.
pub(super) const RNG: Field = Field {
    key: "rng",
    sets: &["rng"],
    flag: Some(Flag {
        long: "rng",
        value: "NAME",
        place: 12,
        help: "Whose noise a seed means: cpu (PyTorch's on a CPU: diffusers, ComfyUI), nv (its noise on an \
             NVIDIA card: A1111) or cuda:SMSxTHREADS, of a card whose threads are fewer than a picture's \
             latents [default: cpu]",
        ..PICTURE
    }),
    label: Some(Label { name: "RNG", ..LABEL }),
    setting: Some(Setting { example: "\"nv\"", remark: "cpu, nv or cuda:SMSxTHREADS" }),
    read: parsed::<Rng>,
    // A plan leaves out what its rules of compat say anyway.
    write: |r| some(r.rng.map(Rng::label)),
    ..ROW
};

/// The row of `variation_seed`.
pub(super) const VARIATION_SEED: Field = Field {
    key: "variation_seed",
    sets: &["variation_seed"],
    flag: Some(Flag {
        long: "variation-seed",
        place: 13,
        help: "Seed of a variation, or `random`; picture i uses it + i, and all have the same seed",
        ..PICTURE
    }),
    label: Some(Label { name: "Variation seed", ..LABEL }),
    read: seed,
    write: |r| some(r.variation_seed),
    ..ROW
};

/// The row of `variation_strength`.
pub(super) const VARIATION_STRENGTH: Field = Field {
    key: "variation_strength",
    sets: &["variation_strength"],
    flag: Some(Flag {
        long: "variation-strength",
        place: 14,
        help: "How far to go from the picture of the seed to that of the variation's, 0 to 1 [default: 0]",
        ..PICTURE
    }),
    label: Some(Label { name: "Variation seed strength", ..LABEL }),
    range: Some(Range { low: 0.0, high: 1.0, why: "expected 0 to 1" }),
    read: number,
    write: |r| some(Some(r.variation_strength)),
    neutral: "0",
    ..ROW
};

/// The row of `seed_resize`.
pub(super) const SEED_RESIZE: Field = Field {
    key: "seed_resize",
    sets: &["seed_resize"],
    flag: Some(Flag {
        long: "seed-resize",
        value: "WxH",
        place: 15,
        help: "Keep what the seed shows at another size, for instance 512x512, in the middle of the picture",
        ..PICTURE
    }),
    label: Some(Label { name: "Seed resize from", ..LABEL }),
    read: parsed::<ImageSize>,
    write: |r| some(r.seed_resize),
    ..ROW
};

/// The row of `ensd`.
pub(super) const ENSD: Field = Field {
    key: "ensd",
    sets: &["ensd"],
    flag: Some(Flag {
        long: "ensd",
        place: 16,
        help: "Added to the seed for the noise that samplers draw (A1111's eta noise seed delta) [default: 0]",
        ..PICTURE
    }),
    label: Some(Label { name: "ENSD", ..LABEL }),
    read: whole,
    write: |r| some(Some(r.ensd)),
    neutral: "0",
    ..ROW
};

/// A number in the object `sampler_options`.
const fn option(key: &'static str, long: &'static str, place: usize, help: &'static str) -> Field {
    let flag = Flag { long, place, help, value: "X", ..TUNING };
    Field { key, sets: &["sampler_options"], flag: Some(flag), read: number, option: true, ..ROW }
}

/// The numbers of samplers and of schedules.
pub(super) const OPTIONS: [Field; 9] = [
    option("eta", "eta", 1, "Share of fresh noise in each step of samplers that add some, 0 to 1"),
    option("s_noise", "s-noise", 2, "Factor of fresh noise"),
    option(
        "s_churn",
        "s-churn",
        3,
        "How far noise raises the levels, over the whole run (Euler, Heun, DPM2)",
    ),
    option("s_tmin", "s-tmin", 4, "Least noise level with churn"),
    option("s_tmax", "s-tmax", 5, "Largest noise level with churn"),
    option(
        "order",
        "order",
        6,
        "Order of solvers that have several (LMS, UniPC, DEIS, iPNDM, DPM adaptive)",
    ),
    option("rho", "rho", 7, "Curve of the schedules karras (7) and exponential (1)"),
    option("sigma_min", "sigma-min", 8, "Lowest noise level of schedules by formula"),
    option("sigma_max", "sigma-max", 9, "Highest noise level of schedules by formula"),
];
