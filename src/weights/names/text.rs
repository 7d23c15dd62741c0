//! Text towers: transformers ↔ open_clip, and the two spellings of transformers itself.

use super::{Part, after, index, rename, rename_back};

/// Modules of the whole tower: transformers, open_clip.
const TOWER: [(&str, &str); 2] = [
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.final_layer_norm", "ln_final"),
];

/// The one parameter that open_clip keeps without a module around it.
const POSITIONS: (&str, &str) =
    ("text_model.embeddings.position_embedding.weight", "positional_embedding");

/// Modules of a layer: transformers, open_clip.
const LAYER: [(&str, &str); 5] = [
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
];

/// The projections that open_clip keeps in one matrix, in the order of its rows.
const FUSED: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Ends of the fused names: transformers, open_clip (which has an underscore for the dot).
const ENDS: [(&str, &str); 3] = [(".weight", "_weight"), (".bias", "_bias"), ("", "")];

/// The canonical name of a transformers name of a CLIP text tower.
///
/// Recent transformers leave out the leading `text_model.`; here it is put back. `None` for what
/// is no weight of the tower: position ids, the temperature, the picture tower.
pub fn hf_text_name(name: &str) -> Option<String> {
    let inner = name.strip_prefix("text_model.").unwrap_or(name);
    if after(inner, "embeddings.position_ids").is_some() {
        return None;
    }
    if after(name, "text_projection").is_some() {
        return Some(name.to_owned());
    }
    ["embeddings", "encoder", "final_layer_norm"]
        .iter()
        .any(|module| after(inner, module).is_some())
        .then(|| format!("text_model.{inner}"))
}

/// The canonical weights in an open_clip tensor; empty for what is no weight of the text tower.
///
/// `rows`: length of the tensor's first dimension, which the fused projections share in thirds.
pub fn text_names_of_open_clip(name: &str, rows: usize) -> Vec<(String, Part)> {
    if name == POSITIONS.1 {
        return vec![(POSITIONS.0.into(), Part::Whole)];
    }
    if name == "text_projection" {
        return vec![("text_projection.weight".into(), Part::Transposed)];
    }
    // Some exports hold the projection as a linear layer.
    if name == "text_projection.weight" {
        return vec![(name.into(), Part::Whole)];
    }
    if let Some(name) = rename_back(name, &TOWER) {
        return vec![(name, Part::Whole)];
    }
    let Some((layer, rest)) = name.strip_prefix("transformer.resblocks.").and_then(index) else {
        return Vec::new();
    };
    let layer = format!("text_model.encoder.layers.{layer}");
    if let Some(inner) = rename_back(rest, &LAYER) {
        return vec![(format!("{layer}.{inner}"), Part::Whole)];
    }
    let end = rest
        .strip_prefix("attn.in_proj")
        .and_then(|end| ENDS.iter().find(|(_, theirs)| *theirs == end));
    match end {
        Some((end, _)) if rows.is_multiple_of(3) => {
            let len = rows / 3;
            let third = |(i, which): (usize, &&str)| {
                let part = Part::Rows { start: i * len, len };
                (format!("{layer}.self_attn.{which}{end}"), part)
            };
            FUSED.iter().enumerate().map(third).collect()
        }
        _ => Vec::new(),
    }
}

/// The canonical weights in a tensor with transformers' names; of open_clip towers stable-diffusion.cpp
/// renames tensors and leaves them what they are.
///
/// `rows`: length of the tensor's first dimension.
pub fn text_names_of_ggml(name: &str, rows: usize) -> Vec<(String, Part)> {
    if name == "text_model.text_projection" {
        return vec![("text_projection.weight".into(), Part::Transposed)];
    }
    if let Some((layer, end)) = name.split_once(".self_attn.in_proj") {
        let layer = layer.strip_prefix("text_model.encoder.layers.").and_then(index);
        let Some((layer, "")) = layer.filter(|_| rows.is_multiple_of(3)) else { return Vec::new() };
        let len = rows / 3;
        let third = |(i, which): (usize, &&str)| {
            let name = format!("text_model.encoder.layers.{layer}.self_attn.{which}{end}");
            (name, Part::Rows { start: i * len, len })
        };
        return FUSED.iter().enumerate().map(third).collect();
    }
    hf_text_name(name).map(|name| (name, Part::Whole)).into_iter().collect()
}

/// The open_clip tensor, and the part of it, that holds a canonical weight of a text tower.
///
/// `width`: the tower's width, a third of the rows of the fused projections.
pub fn open_clip_name(name: &str, width: usize) -> Option<(String, Part)> {
    if name == POSITIONS.0 {
        return Some((POSITIONS.1.into(), Part::Whole));
    }
    if name == "text_projection.weight" {
        return Some(("text_projection".into(), Part::Transposed));
    }
    if let Some(name) = rename(name, &TOWER) {
        return Some((name, Part::Whole));
    }
    let (layer, rest) = index(name.strip_prefix("text_model.encoder.layers.")?)?;
    let layer = format!("transformer.resblocks.{layer}");
    if let Some(inner) = rename(rest, &LAYER) {
        return Some((format!("{layer}.{inner}"), Part::Whole));
    }
    let rest = rest.strip_prefix("self_attn.")?;
    let (i, end) =
        FUSED.iter().enumerate().find_map(|(i, which)| Some((i, after(rest, which)?)))?;
    let (_, end) = ENDS.iter().find(|(ours, _)| *ours == end)?;
    let part = Part::Rows { start: i * width, len: width };
    Some((format!("{layer}.attn.in_proj{end}"), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ggml_keeps_open_clips_tensors() {
        let thirds = text_names_of_ggml("text_model.encoder.layers.3.self_attn.in_proj.bias", 12);
        let third = |which: &str, start| {
            let name = format!("text_model.encoder.layers.3.self_attn.{which}.bias");
            (name, Part::Rows { start, len: 4 })
        };
        assert_eq!(thirds, [third("q_proj", 0), third("k_proj", 4), third("v_proj", 8)]);
        let whole = "text_model.encoder.layers.3.mlp.fc1.weight";
        assert_eq!(text_names_of_ggml(whole, 5), [(whole.to_owned(), Part::Whole)]);
        let projection = text_names_of_ggml("text_model.text_projection", 5);
        assert_eq!(projection, [("text_projection.weight".to_owned(), Part::Transposed)]);
        assert_eq!(
            text_names_of_ggml("text_model.encoder.layers.x.self_attn.in_proj.bias", 12),
            []
        );
        assert_eq!(text_names_of_ggml("logit_scale", 1), []);
    }

    #[test]
    fn open_clip_names_are_one_to_one() {
        let mut names = vec![POSITIONS.0.to_owned(), "text_projection.weight".to_owned()];
        names.extend(TOWER.map(|(name, _)| format!("{name}.weight")));
        for inner in LAYER
            .iter()
            .map(|(inner, _)| (*inner).to_owned())
            .chain(FUSED.map(|f| format!("self_attn.{f}")))
        {
            for end in [".weight", ".bias", ""] {
                names.push(format!("text_model.encoder.layers.11.{inner}{end}"));
            }
        }
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let (theirs, part) = open_clip_name(&name, 8).unwrap();
            assert!(seen.insert((theirs.clone(), part)), "{name}");
            let ours = text_names_of_open_clip(&theirs, 24);
            assert!(ours.contains(&(name, part)), "{theirs}");
        }
    }

    #[test]
    fn fused_projections_are_thirds() {
        let names = text_names_of_open_clip("transformer.resblocks.3.attn.in_proj_bias", 12);
        assert_eq!(names[1].0, "text_model.encoder.layers.3.self_attn.k_proj.bias");
        assert_eq!(names[1].1, Part::Rows { start: 4, len: 4 });
        assert!(
            text_names_of_open_clip("transformer.resblocks.3.attn.in_proj_bias", 13).is_empty()
        );
        assert!(text_names_of_open_clip("logit_scale", 1).is_empty());
        assert!(text_names_of_open_clip("visual.proj", 1).is_empty());
    }

    #[test]
    fn both_spellings_of_transformers() {
        let whole = "text_model.encoder.layers.0.mlp.fc1.weight";
        assert_eq!(hf_text_name(whole).as_deref(), Some(whole));
        assert_eq!(hf_text_name("encoder.layers.0.mlp.fc1.weight").as_deref(), Some(whole));
        assert_eq!(hf_text_name("text_model.embeddings.position_ids"), None);
        assert_eq!(hf_text_name("logit_scale"), None);
        assert!(hf_text_name("text_projection.weight").is_some());
    }
}
