//! What a weight file is, from the names and shapes in its header.

use super::Family;
use super::original::Original;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::input;
use crate::sampling::{PredictionKind, Training};
use crate::weights::names::{Place, prefix};
use std::path::Path;

/// What a single-file checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kind {
    pub family: Family,
    pub prediction: PredictionKind,
    /// Noise schedule rescaled to zero terminal signal-to-noise ratio.
    pub zero_snr: bool,
    /// Another noise than the discrete one.
    pub edm: Option<Training>,
}

/// Tell-tale parts of names, and what a file with them is. The order matters: a LoRA of another
/// family is first of all a LoRA.
const OTHERS: &[(&[&str], &str)] = &[
    (
        &[
            ".lora_down.",
            ".lora_up.",
            ".lora_A.",
            ".lora_B.",
            "lora_unet_",
            ".hada_w1_a",
            ".lokr_w1",
            "_lora.down.",
            ":down",
        ],
        "a LoRA, which changes a model but is none; pass the model it was made for",
    ),
    (&["double_blocks.", "single_transformer_blocks."], "a Flux checkpoint"),
    (&["joint_blocks.", "add_q_proj"], "an SD 3 checkpoint"),
    (
        &["clip_txt_mapper", "clip_txt_pooled_mapper", "effnet_mapper"],
        "a Stable Cascade checkpoint",
    ),
    (
        &["control_model.", "input_hint_block", "controlnet_cond_embedding", "zero_convs."],
        "a ControlNet",
    ),
    (&["adaln_single", "caption_projection"], "a PixArt or LTX checkpoint"),
    (&["string_to_param", "emb_params", "clip_g", "clip_l"], "a textual inversion embedding"),
    (&["motion_modules."], "an AnimateDiff motion module"),
    (&["ip_adapter", "image_proj."], "an IP-Adapter"),
];

/// Finds out what `file` is.
///
/// # Errors
/// [`Error::WrongFamily`] saying what it is instead of a Stable Diffusion checkpoint.
pub(super) fn checkpoint(file: &Original<'_>) -> Result<Kind> {
    let has = |start: &str| file.has(start);
    // Elsewhere the same names may be a LoRA's or a ControlNet's.
    let other = file.place() != &Place::Expected && other_kind(file).is_some();
    if other || !has(&format!("{}input_blocks.", prefix::UNET)) {
        return Err(refuse(file));
    }
    refuse_bare(file)?;
    // The later families have further marks.
    let marked = Family::ALL.into_iter().rev().find(|family| (family.spec().detect)(file));
    let family = marked.map_or_else(|| by_text_width(file), Ok)?;
    let edm = other_noise(file)?;
    Ok(Kind { family, prediction: prediction(file, family)?, zero_snr: has("ztsnr"), edm })
}

/// A UNet without the other parts is of no use: the text encoders cannot be recognised from it.
fn refuse_bare(file: &Original<'_>) -> Result<()> {
    if file.has("cond_stage_model.") || file.has("conditioner.embedders.") {
        return Ok(());
    }
    let missing = if file.has(prefix::VAE) { "text encoder" } else { "text encoder and VAE" };
    Err(refusal(file, format!("{} without {missing}", file.place())))
}

/// Some models are SDXL in all but their noise, and mark it with tensors: CosXL with the bounds of its levels, Playground
/// 2.5 with the mean and the deviation of its latents.
fn other_noise(file: &Original<'_>) -> Result<Option<Training>> {
    if file.info("edm_vpred.sigma_max").is_some() {
        let bound = |name: &str| -> Result<Option<f64>> {
            Ok(file.numbers(name)?.and_then(|numbers| numbers.first().copied()))
        };
        let Training::Edm { v, low, high, data } = Training::COSXL else { return Ok(None) };
        let low = bound("edm_vpred.sigma_min")?.unwrap_or(low);
        let high = bound("edm_vpred.sigma_max")?.unwrap_or(high);
        if !(low > 0.0 && low < high && high.is_finite()) {
            let why = format!(
                "its noise levels reach from {low} to {high} (edm_vpred), which do not rise"
            );
            return Err(Error::corrupt(file.path(), why));
        }
        return Ok(Some(Training::Edm { v, low, high, data }));
    }
    let marked = ["edm_mean", "edm_std"].iter().any(|name| file.info(name).is_some());
    Ok(marked.then_some(Training::PLAYGROUND))
}

/// Width of the text features that the UNet listens to.
fn by_text_width(file: &Original<'_>) -> Result<Family> {
    let cross = |name: &&str| name.starts_with(prefix::UNET) && name.ends_with("attn2.to_k.weight");
    let width = file.names().find(cross).and_then(|name| file.info(name)?.shape.get(1).copied());
    let of_width = |width| Family::ALL.into_iter().find(|family| family.spec().context == width);
    width.and_then(of_width).ok_or_else(|| Error::WrongFamily {
        path: file.path().to_path_buf(),
        expected: "SD 1.x, SD 2.x or SDXL".into(),
        found: match width {
            Some(width) => format!("a UNet for text features of width {width}"),
            None => "a UNet that takes no text".into(),
        },
        hint: None,
    })
}

/// What the network predicts: markers and metadata first, then the family's own guess.
fn prediction(file: &Original<'_>, family: Family) -> Result<PredictionKind> {
    if file.info("v_pred").is_some() {
        return Ok(PredictionKind::V);
    }
    // The second one is what ComfyUI writes.
    for key in ["modelspec.prediction_type", "modelspec.predict_key"] {
        match file.file.metadata().get(key).map(String::as_str) {
            Some("v" | "v_prediction") => return Ok(PredictionKind::V),
            Some("epsilon" | "eps") => return Ok(PredictionKind::Epsilon),
            _ => {}
        }
    }
    if let Some(kind) = sidecar_yaml(file.path())? {
        return Ok(kind);
    }
    Ok((family.spec().prediction)(file))
}

/// Longest YAML file that is read, in bytes.
const MAX_YAML: u64 = 1 << 20;

/// `model.yaml` beside `model.ckpt`, as the original code needs it.
fn sidecar_yaml(path: &Path) -> Result<Option<PredictionKind>> {
    let yaml = path.with_extension("yaml");
    let text = input::text_if_there(&yaml, MAX_YAML, "the original code's configuration")?;
    let Some(text) = text else { return Ok(None) };
    let line = text.lines().find_map(|line| line.trim().strip_prefix("parameterization:"));
    Ok(match line.unwrap_or_default().trim().trim_matches(['"', '\'']) {
        "v" => Some(PredictionKind::V),
        "eps" => Some(PredictionKind::Epsilon),
        _ => None,
    })
}

/// What a file is instead of a checkpoint, by the names in it.
fn other_kind(file: &Original<'_>) -> Option<&'static str> {
    let contains = |part: &&str| file.names().any(|name| name.contains(part));
    OTHERS.iter().find(|(parts, _)| parts.iter().any(contains)).map(|(_, what)| *what)
}

/// The error for a file that is no checkpoint; it names what the file is.
pub(super) fn refuse(file: &Original<'_>) -> Error {
    let starts = |part: &str| file.has(part);
    let found = match (other_kind(file), file.place()) {
        (Some(what), _) => what.to_owned(),
        (None, place @ Place::Unknown(_)) => {
            format!("{place}, and only `{}` is read", prefix::UNET)
        }
        (None, place @ Place::Averages(_)) => place.to_string(),
        _ if starts("first_stage_model.") || starts("decoder.") || starts("encoder.down") => {
            return refusal(file, "a VAE alone".into()).with_hint(Hint::UseAsVae);
        }
        _ if starts("down_blocks.") || starts("up_blocks.") => {
            "a UNet alone in the diffusers layout; put it as unet/ into a model folder".into()
        }
        _ if starts("text_model.") || starts("transformer.resblocks") => {
            "a text encoder alone; it belongs into a model folder as text_encoder/".into()
        }
        _ => {
            let names: Vec<&str> = file.file.names().take(3).collect();
            format!("a file of unknown weights ({})", names.join(", "))
        }
    };
    refusal(file, found)
}

fn refusal(file: &Original<'_>, found: String) -> Error {
    Error::WrongFamily {
        path: file.path().to_path_buf(),
        expected: "an SD 1.x, SD 2.x or SDXL checkpoint".into(),
        found,
        hint: None,
    }
}
