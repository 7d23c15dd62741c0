//! Files that are no adapters for Stable Diffusion, recognised by their keys.

use crate::error::Error;
use crate::hint::Hint;
use crate::lora::read::keys::{self, Role};
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
    // FLUX too has modules called `img_mod` and `txt_mlp`, inside of these.
    ("double_blocks", "FLUX, Chroma or HunyuanVideo"),
    ("single_blocks", "FLUX, Chroma or HunyuanVideo"),
    ("single_transformer_blocks", "FLUX"),
    ("img_mod", "Qwen-Image"),
    ("txt_mlp", "Qwen-Image"),
    ("img_mlp.net", "Qwen-Image"),
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

/// How keys of transformers begin that stand without a prefix, and what follows somewhere.
const BARE: [(&str, &str, &str); 5] = [
    ("blocks.", ".self_attn.", "Wan, Cosmos or Anima"),
    ("blocks.", ".cross_attn.", "Wan, Cosmos or Anima"),
    ("layers.", ".attention.", "Lumina 2 or Z-Image"),
    ("lora_unet_layers_", "_attention_", "Lumina 2 or Z-Image"),
    ("transformer_blocks.", ".", "SD3 or a newer transformer model"),
];

/// The error for a file that is something else; `None` for what may be an adapter.
///
/// `configured`: whether a configuration of PEFT describes it as one; weights may then replace the base's.
pub(in crate::lora) fn refusal(file: &CheckpointFile, configured: bool) -> Option<Error> {
    let wrong = |found: &str| {
        Some(Error::WrongFamily {
            path: file.path().to_path_buf(),
            expected: "an adapter for SD 1.x, SD 2.x or SDXL".into(),
            found: found.to_owned(),
            hint: None,
        })
    };
    if let Some(found) = family(file) {
        return wrong(&format!("made for {found}"));
    }
    if is_inversion(file) {
        let found = "a textual inversion embedding (new words for the text encoder), not a LoRA";
        return wrong(found);
    }
    if !configured && is_checkpoint(file) {
        let error = wrong("a full checkpoint, not an adapter");
        return error.map(|error| error.with_hint(Hint::UseAsModel));
    }
    None
}

/// The family whose keys the file has, by the pieces above.
fn family(file: &CheckpointFile) -> Option<&'static str> {
    // `down_blocks` and the like contain "blocks." too: only keys of no UNet are looked at.
    let known = FAMILIES.iter().find_map(|(piece, family)| {
        let has = |key: &str| key.contains(piece) && !is_unet_block(key, piece);
        file.names().any(has).then_some(*family)
    });
    let bare = || {
        BARE.iter().find_map(|(start, piece, family)| {
            let has = |key: &str| {
                let path = key.strip_prefix("base_model.model.").unwrap_or(key);
                path.starts_with(start) && path.contains(piece)
            };
            file.names().any(has).then_some(*family)
        })
    };
    known.or_else(bare)
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

/// First layers of networks, which no adapter holds as plain weights without the word of one.
const FIRST_LAYERS: [&str; 3] = ["conv_in", "input_blocks.0.0", "token_embedding"];

/// Whether the file holds a model's own weights: plain ones from the first layer on, with no word of an adapter.
/// A few plain weights under names of the model are an adapter of an unknown kind.
fn is_checkpoint(file: &CheckpointFile) -> bool {
    let mut plain = false;
    for name in file.names() {
        match keys::split(name) {
            Some(key) if key.role == Role::Weight => plain |= is_first_layer(&key.stem),
            Some(_) => return false,
            None => {}
        }
    }
    plain
}

fn is_first_layer(stem: &str) -> bool {
    let before = FIRST_LAYERS.iter().find_map(|layer| stem.strip_suffix(layer));
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    /// A file with tensors of one number under these keys.
    fn file(keys: &[&str]) -> CheckpointFile {
        let entry = |(i, key): (usize, &&str)| {
            let offsets = [4 * i, 4 * i + 4];
            let entry = json!({ "dtype": "F32", "shape": [1], "data_offsets": offsets });
            ((*key).to_owned(), entry)
        };
        let header: Map<String, Value> = keys.iter().enumerate().map(entry).collect();
        let header = serde_json::to_vec(&header).unwrap();
        let data = vec![0; 4 * keys.len()];
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        CheckpointFile::from_vec(bytes, "x.safetensors").unwrap()
    }

    #[test]
    fn other_families_are_named_by_any_of_their_keys() {
        for (key, family) in [
            ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "FLUX"),
            ("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", "FLUX"),
            ("double_blocks.3.txt_mlp.0.lora_A.weight", "FLUX"),
            ("lora_unet_single_blocks_9_linear1.lora_up.weight", "FLUX"),
            ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "FLUX"),
            ("lora_transformer_single_transformer_blocks_0_attn_to_q.alpha", "FLUX"),
            ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "SD3"),
            ("transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight", "SD3"),
            ("transformer_blocks.0.attn.to_q.lora_A.weight", "SD3"),
            ("transformer_blocks.0.img_mod.1.lora_A.weight", "Qwen"),
            ("transformer_blocks.7.txt_mlp.net.2.lora_B.weight", "Qwen"),
            ("lora_prior_unet_down_blocks_0_3_channelwise_0.lora_up.weight", "Cascade"),
            ("lora_prior_te_text_model_encoder_layers_0_mlp_fc1.alpha", "Cascade"),
            ("down_blocks.0.1.channelwise.0.lora_A.weight", "Cascade"),
            ("blocks.0.self_attn.q.lora_A.weight", "Wan"),
            ("base_model.model.blocks.0.cross_attn.k.lora_A.weight", "Wan"),
            ("diffusion_model.blocks.0.ffn.0.lora_down.weight", "Wan"),
            ("lora_unet_blocks_0_self_attn_q.lora_down.weight", "Wan"),
            ("lora_unet__blocks_0_self_attn_q.lora_down.weight", "Anima"),
            ("layers.0.attention.to_q.lora_A.weight", "Lumina"),
            ("diffusion_model.layers.0.attention.qkv.lora_A.weight", "Z-Image"),
            ("lora_unet_layers_0_attention_to_q.lora_down.weight", "Z-Image"),
            ("context_refiner.0.attention.to_k.lora_A.weight", "Lumina"),
            ("noise_refiner.1.attention.to_k.lora_A.weight", "Z-Image"),
            ("adaln_single.linear.lora_A.weight", "PixArt"),
            ("transformer.caption_projection.linear_1.lora_A.weight", "LTX"),
            ("lora_hydit_blocks_0_attn1_to_q.lora_down.weight", "Hunyuan"),
            ("lora_te1_bert_encoder_layer_0_output_dense.alpha", "Hunyuan"),
            ("lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha", "T5"),
            ("text_encoders.t5xxl.transformer.encoder.block.0.lora_up.weight", "T5"),
            (
                "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.lora_A.weight",
                "Animate",
            ),
            ("lora_controlnet", "Control-LoRA"),
            ("zero_convs.0.0.weight", "Control-LoRA"),
            ("lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight", "LLLite"),
            ("ip_adapter.1.to_k_ip.weight", "IP-Adapter"),
            ("image_proj.proj.weight", "IP-Adapter"),
            ("unet.mid_block.attn.processor.to_k_custom_diffusion.weight", "Custom Diffusion"),
            ("model.diffusion_model.input_blocks.0.0.weight", "full checkpoint"),
            ("emb_params", "textual inversion"),
            ("clip_g", "textual inversion"),
        ] {
            let error = refusal(&file(&[key]), false).map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(family), "{key}: `{error}` does not name {family}");
        }
    }

    #[test]
    fn adapters_of_stable_diffusion_are_none_of_these() {
        for key in [
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
            "unet.mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj.lora_A.weight",
            "diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_k.lora_up.weight",
            "up_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
            "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.down_blocks.0.resnets.0.conv1.lora_A.weight",
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.alpha",
            "unet:3:up",
            "bundle_emb.star.clip_g",
            // Kinds that are not known are no checkpoints because of their endings.
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_left.weight",
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.down.weight",
            "base_model.model.down_blocks.0.resnets.0.norm1.weight",
            "unet.conv_in.lora_left.weight",
            "text_model.encoder.layers.0.layer_norm1.weight",
        ] {
            assert!(refusal(&file(&[key]), false).is_none(), "{key}");
        }
    }
}
