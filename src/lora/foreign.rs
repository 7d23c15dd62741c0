//! Floor 3. Files that are no adapters for Stable Diffusion, recognised by their keys.

use super::keys::{self, Role};
use crate::error::Error;
use crate::weights::CheckpointFile;

/// Pieces of keys and the family that has them; the first that fits any key decides.
const FAMILIES: [(&str, &str); 46] = [
    ("lora_te3_", "a model with a T5 text encoder (SD3 or FLUX)"),
    ("t5xxl", "a model with a T5 text encoder (SD3 or FLUX)"),
    ("text_encoders.t5", "a model with a T5 text encoder (SD3 or FLUX)"),
    ("lora_prior_unet_", "Stable Cascade (Würstchen)"),
    ("lora_prior_te_", "Stable Cascade (Würstchen)"),
    (".channelwise", "Stable Cascade (Würstchen)"),
    ("_channelwise", "Stable Cascade (Würstchen)"),
    ("joint_blocks", "SD3"),
    ("img_mod", "Qwen-Image"),
    ("txt_mlp", "Qwen-Image"),
    ("img_mlp.net", "Qwen-Image"),
    ("double_blocks", "FLUX, Chroma or HunyuanVideo"),
    ("single_blocks", "FLUX, Chroma or HunyuanVideo"),
    ("single_transformer_blocks", "FLUX"),
    ("img_attn", "FLUX, Chroma or HunyuanVideo"),
    ("txt_attn", "FLUX, Chroma or HunyuanVideo"),
    ("hydit", "HunyuanDiT"),
    ("_bert_", "HunyuanDiT"),
    (".bert.", "HunyuanDiT"),
    ("adaln_single", "PixArt or LTX"),
    ("caption_projection", "PixArt or LTX"),
    ("context_refiner", "Lumina 2 or Z-Image"),
    ("noise_refiner", "Lumina 2 or Z-Image"),
    ("motion_modules", "AnimateDiff (a motion LoRA needs a motion UNet)"),
    ("temporal_transformer", "AnimateDiff (a motion LoRA needs a motion UNet)"),
    ("lora_controlnet", "Control-LoRA (a ControlNet, not an adapter of the UNet)"),
    ("zero_convs", "ControlNet or Control-LoRA"),
    ("input_hint_block", "ControlNet or Control-LoRA"),
    ("controlnet_cond_embedding", "ControlNet or Control-LoRA"),
    ("lllite_", "ControlNet-LLLite"),
    ("ip_adapter", "IP-Adapter"),
    ("image_proj", "IP-Adapter"),
    ("to_k_ip", "IP-Adapter"),
    ("_custom_diffusion", "Custom Diffusion (whole attention weights, no LoRA)"),
    ("lora_unet_blocks_", "Wan, Cosmos or Anima"),
    ("lora_unet__blocks_", "Wan, Cosmos or Anima"),
    ("diffusion_model.blocks.", "Wan, Cosmos or Anima"),
    ("transformer.blocks.", "Wan, Cosmos or Anima"),
    ("llm_adapter", "Wan, Cosmos or Anima"),
    ("attn.add_q_proj", "SD3"),
    ("attn_add_q_proj", "SD3"),
    ("lora_transformer_", "a transformer model (FLUX, SD3 or newer)"),
    ("transformer.transformer_blocks.", "SD3 or a newer transformer model"),
    ("transformer.layers.", "Lumina 2 or Z-Image"),
    ("diffusion_model.layers.", "Lumina 2 or Z-Image"),
    ("oft_transformer_", "a transformer model (FLUX, SD3 or newer)"),
];

/// The error for a file that is something else; `None` for what may be an adapter.
pub(super) fn refusal(file: &CheckpointFile) -> Option<Error> {
    let wrong = |found: &str| {
        Some(Error::WrongFamily {
            path: file.path().to_path_buf(),
            expected: "an adapter for SD 1.x, SD 2.x or SDXL".into(),
            found: found.to_owned(),
        })
    };
    if let Some(found) = family(file) {
        return wrong(&format!("made for {found}"));
    }
    if is_inversion(file) {
        let found = "a textual inversion embedding (new words for the text encoder), not a LoRA";
        return wrong(found);
    }
    if is_checkpoint(file) {
        return wrong("a full checkpoint, not an adapter; load it with --model");
    }
    None
}

/// The family whose keys the file has, by the pieces above.
fn family(file: &CheckpointFile) -> Option<&'static str> {
    // `down_blocks` and the like contain "blocks." too: only keys of no UNet are looked at.
    FAMILIES.iter().find_map(|(piece, family)| {
        let has = |key: &str| key.contains(piece) && !is_unet_block(key, piece);
        file.names().any(has).then_some(*family)
    })
}

/// Whether `piece` stands in `key` only as the tail of a UNet's `down_blocks.` and the like.
fn is_unet_block(key: &str, piece: &str) -> bool {
    piece.contains("blocks")
        && ["down_blocks", "up_blocks", "input_blocks", "output_blocks"]
            .iter()
            .any(|block| key.contains(block))
        && !piece.contains("single")
        && !piece.contains("double")
        && !piece.contains("joint")
}

/// Whether the file holds nothing but vectors for new words.
fn is_inversion(file: &CheckpointFile) -> bool {
    let is = |key: &str| {
        ["string_to_", "name", "step", "sd_checkpoint"].iter().any(|start| key.starts_with(start))
            || ["emb_params", "clip_l", "clip_g"].contains(&key)
    };
    !file.is_empty() && file.names().all(is)
}

/// Whether the file holds a model's own weights: plain ones, with no word of an adapter.
fn is_checkpoint(file: &CheckpointFile) -> bool {
    let mut plain = 0;
    for name in file.names() {
        match keys::split(name).map(|key| key.role) {
            Some(Role::Weight) => plain += 1,
            Some(_) => return false,
            None => {}
        }
    }
    let blocks =
        ["down_blocks", "input_blocks", "mid_block", "middle_block", "resblocks", "encoder"];
    plain > 0 && file.names().any(|name| blocks.iter().any(|block| name.contains(block)))
}
