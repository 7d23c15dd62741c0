//! How adapter files spell the modules of a base.

use crate::lora::Dictionary;
use crate::weights::Component;

/// kohya's stem: the original code's names for SDXL's UNet, diffusers' for older ones.
pub(super) fn kohya(base: &Dictionary, module: &str) -> String {
    let (component, path) = Component::split(module);
    let two_towers = base.has_component(Component::TextEncoder2);
    let (prefix, path) = match component {
        Component::UNet if two_towers => {
            let original = base.names().to_ldm(path);
            ("lora_unet_", original.unwrap_or_else(|| path.to_owned()))
        }
        Component::UNet => ("lora_unet_", path.to_owned()),
        Component::TextEncoder2 => ("lora_te2_", path.to_owned()),
        _ if two_towers => ("lora_te1_", path.to_owned()),
        _ => ("lora_te_", path.to_owned()),
    };
    format!("{prefix}{}", path.replace('.', "_"))
}

/// PEFT's path inside the component that it was made from.
///
/// Transformers left `text_model.` out of the first tower's names in version 5.6.
pub(super) fn peft(module: &str) -> String {
    let (component, path) = Component::split(module);
    let flat = if component == Component::TextEncoder { without_tower(path) } else { path };
    format!("base_model.model.{flat}")
}

/// The path without the tower's own name, which fits old and new versions of transformers where
/// endings of paths are compared.
pub(super) fn without_tower(path: &str) -> &str {
    path.strip_prefix("text_model.").unwrap_or(path)
}
