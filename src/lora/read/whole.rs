//! Whole tensors in files with a configuration of PEFT: what stands in such a file under the name of one of
//! the base's own tensors replaces it.
//!
//! These are modules that were trained as a whole (`modules_to_save`), biases (`bias`: `all`, `lora_only`), tuned
//! norms (`LN_TUNING`), and tables of resized vocabularies.

use crate::lora::read::keys::{self, Key, Role};

/// Elements of paths by which PEFT wraps a module, and whether an adapter's name may follow.
const WRAPPERS: [(&str, bool); 3] =
    [("base_layer", false), ("modules_to_save", true), ("ln_tuning_layers", true)];

/// Takes a key apart as [`keys::split`] does, plain weights and biases being whole tensors.
pub(in crate::lora) fn split(key: &str) -> Option<Key> {
    match keys::split(key) {
        Some(known) if known.role != Role::Weight => Some(known),
        _ => whole(key),
    }
}

fn whole(key: &str) -> Option<Key> {
    let (path, word) = key.rsplit_once('.')?;
    let role = match word {
        "weight" => Role::SetWeight,
        "bias" => Role::SetBias,
        _ => return None,
    };
    let mut parts: Vec<&str> = path.split('.').collect();
    while let Some((at, named)) = wrapper(&parts) {
        let end = if named && at + 1 < parts.len() { at + 2 } else { at + 1 };
        parts.drain(at..end);
    }
    let stem = parts.join(".");
    (!stem.is_empty()).then_some(Key { stem, role, gain: false })
}

/// The first wrapper of a path, and whether a name may follow it.
fn wrapper(parts: &[&str]) -> Option<(usize, bool)> {
    parts.iter().enumerate().find_map(|(at, part)| {
        WRAPPERS.iter().find(|(word, _)| word == part).map(|(_, named)| (at, *named))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_tensors_in_every_spelling() {
        for (key, stem, role) in [
            ("base_model.model.conv_in.weight", "base_model.model.conv_in", Role::SetWeight),
            ("unet.conv_in.modules_to_save.default.bias", "unet.conv_in", Role::SetBias),
            ("conv_in.modules_to_save.weight", "conv_in", Role::SetWeight),
            ("a.modules_to_save.default.linear_1.weight", "a.linear_1", Role::SetWeight),
            ("a.to_out.0.base_layer.bias", "a.to_out.0", Role::SetBias),
            ("a.norm1.ln_tuning_layers.weight", "a.norm1", Role::SetWeight),
            ("a.norm1.ln_tuning_layers.default.bias", "a.norm1", Role::SetBias),
            ("a.to_q.lora_B.bias", "a.to_q", Role::UpBias),
            ("a.to_q.lora_A.default.weight", "a.to_q", Role::Down),
        ] {
            let expected = Some(Key { stem: stem.into(), role, gain: false });
            assert_eq!(split(key), expected, "{key}");
        }
        for key in ["weight", "base_layer.bias", "a.running_mean", ""] {
            assert_eq!(split(key), None, "{key}");
        }
    }
}
