//! Numbers that were recorded from A1111, ComfyUI, k-diffusion and diffusers themselves: noise and its streams,
//! samplers, schedules and whole runs. `goldens/vectors.json`, picked by `goldens/make_vectors.py`, is always read;
//! the whole file of records too where there is one: `COLORA_VECTORS`, or `../shared/data/sampler_vectors.json`.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

mod support;
mod vectors {
    pub mod a1111;
    pub mod diffusers;
    pub mod edges;
    pub mod noise;
    pub mod shared;
    pub mod streams;
}
