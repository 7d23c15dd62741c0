//! How other layouts name the weights: tables and pure functions, no files.
//!
//! The canonical names are diffusers' ([`Site`](super::Site)). Checkpoints in one file use the names
//! of the original code instead: `ldm` for SD 1.x and 2.x, `sgm` for SDXL (the same names),
//! `open_clip` for the text towers of SD 2.x and SDXL's second. Every function takes names without
//! the component's prefix; names of modules (without `.weight` or `.bias`) are mapped too, so that
//! adapter files can use the same tables.
//!
//! # Source
//! The index arithmetic was checked against diffusers 0.42 for all parameters of SD 1.x, 2.x and
//! SDXL.

mod averages;
mod original;
mod text;
mod unet;
mod vae;

pub use original::{OriginalNames, Place};
pub use text::{hf_text_name, open_clip_name, text_names_of_ggml, text_names_of_open_clip};
pub use unet::UNetNames;
pub use vae::{VaeNames, modern_vae_name};

/// The part of a stored tensor that is one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// All of it.
    Whole,
    /// Some indices of the first dimension.
    Rows {
        /// First index.
        start: usize,
        /// Number of indices.
        len: usize,
    },
    /// All of it, with the dimensions in reverse order.
    Transposed,
}

/// Where the parts of single-file checkpoints lie.
pub mod prefix {
    /// The UNet, ldm names.
    pub const UNET: &str = "model.diffusion_model.";
    /// The autoencoder, ldm names.
    pub const VAE: &str = "first_stage_model.";
    /// SD 1.x: CLIP-L, transformers names.
    pub const SD1_TEXT: &str = "cond_stage_model.transformer.";
    /// SD 2.x: OpenCLIP-H, open_clip names.
    pub const SD2_TEXT: &str = "cond_stage_model.model.";
    /// SDXL: CLIP-L, transformers names.
    pub const SDXL_TEXT: &str = "conditioner.embedders.0.transformer.";
    /// SDXL: OpenCLIP-bigG, open_clip names.
    pub const SDXL_TEXT_2: &str = "conditioner.embedders.1.model.";
    /// SDXL as stable-diffusion.cpp renames it: OpenCLIP-bigG, transformers names. The first tower lies
    /// where that of SD 1.x does.
    pub const GGML_TEXT_2: &str = "cond_stage_model.1.transformer.";
    /// SDXL refiner: OpenCLIP-bigG, open_clip names.
    pub const REFINER_TEXT: &str = "conditioner.embedders.0.model.";
}

/// The canonical name of a tensor in a component's folder of the diffusers layout.
///
/// `component`: `unet`, `vae`, `text_encoder` or `text_encoder_2`. A name that is no weight of the
/// component stays as it is.
pub fn canonical(component: &str, name: &str) -> String {
    match component {
        "vae" => modern_vae_name(name),
        _ if component.starts_with("text_encoder") => {
            hf_text_name(name).unwrap_or_else(|| name.to_owned())
        }
        _ => name.to_owned(),
    }
}

/// What follows `module` in `name`: empty or beginning with a dot; `None` for another module.
fn after<'a>(name: &'a str, module: &str) -> Option<&'a str> {
    name.strip_prefix(module).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Replaces a leading module by its partner in `table`, from left to right.
fn rename(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| Some(format!("{to}{}", after(name, from)?)))
}

/// Replaces a leading module by its partner in `table`, from right to left.
fn rename_back(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(to, from)| Some(format!("{to}{}", after(name, from)?)))
}

/// Splits `12.rest` into 12 and `rest`, or `12` into 12 and nothing.
///
/// Only the plain spelling is a number (no sign, no leading zero), so that the maps stay one-to-one.
fn index(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.').unwrap_or((name, ""));
    let plain = number == "0" || !number.starts_with('0');
    let digits = (1..=4).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    (plain && digits).then(|| number.parse().ok()).flatten().map(|number| (number, rest))
}

/// `a.b`, or `a` when there is no `b`.
fn join(a: &str, b: &str) -> String {
    if b.is_empty() { a.to_owned() } else { format!("{a}.{b}") }
}
