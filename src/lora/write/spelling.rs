//! How adapter files spell the modules of a base.

use crate::lora::Dictionary;

/// Component and path of a canonical module name.
pub(super) fn split(module: &str) -> (&str, &str) {
    module.split_once('.').unwrap_or((module, ""))
}

/// kohya's stem: the original code's names for SDXL's UNet, diffusers' for older ones.
pub(super) fn kohya(base: &Dictionary, module: &str) -> String {
    let (component, path) = split(module);
    let two_towers = base.has_component("text_encoder_2");
    let (prefix, path) = match component {
        "unet" if two_towers => {
            let original = base.names().to_ldm(path);
            ("lora_unet_", original.unwrap_or_else(|| path.to_owned()))
        }
        "unet" => ("lora_unet_", path.to_owned()),
        "text_encoder_2" => ("lora_te2_", path.to_owned()),
        _ if two_towers => ("lora_te1_", path.to_owned()),
        _ => ("lora_te_", path.to_owned()),
    };
    format!("{prefix}{}", path.replace('.', "_"))
}

/// PEFT's path inside the component that it was made from.
///
/// Transformers left `text_model.` out of the first tower's names in version 5.6.
pub(super) fn peft(module: &str) -> String {
    let (component, path) = split(module);
    let flat = if component == "text_encoder" { without_tower(path) } else { path };
    format!("base_model.model.{flat}")
}

/// The path without the tower's own name, which fits old and new versions of transformers where
/// endings of paths are compared.
pub(super) fn without_tower(path: &str) -> &str {
    path.strip_prefix("text_model.").unwrap_or(path)
}
