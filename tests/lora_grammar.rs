//! Every module of the full-size models, written in every grammar that adapter files use, leads to itself.
//!
//! The names of the original code are computed here once more, from the published arithmetic.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use colora::family::{Blueprint, Family};
use colora::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use colora::weights::{Site, WeightSource};
use rayon::prelude::*;

/// A family at full size, by its names alone.
struct Base {
    family: Family,
    source: Blueprint,
    dictionary: Dictionary,
}

impl Base {
    fn new(family: Family) -> Self {
        let source = Blueprint::of(family).unwrap();
        let dictionary = Dictionary::new(&source, family.to_string());
        Self { family, source, dictionary }
    }

    /// The modules that a file with the one key `stem` changes; an error's words otherwise.
    fn lookup(&self, stem: &str, outputs: usize) -> Result<Vec<String>, String> {
        let size = 4 * outputs;
        let header = serde_json::json!({
            format!("{stem}.diff_b"): { "dtype": "F32", "shape": [outputs], "data_offsets": [0, size] }
        });
        let header = serde_json::to_vec(&header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(&header);
        bytes.resize(bytes.len() + size, 0);
        let file = AdapterFile::from_vec(bytes, "key.safetensors").map_err(|e| e.to_string())?;
        let strict = ReadOptions { strict: true, ..ReadOptions::default() };
        let lora = Lora::resolve(file, &self.dictionary, strict).map_err(|e| e.to_string())?;
        Ok(lora.modules().map(str::to_owned).collect())
    }

    /// Whether the attentions of an up block are there, which decides where its upsampler stands.
    fn up_has_attention(&self, block: usize) -> bool {
        match self.family {
            Family::Sdxl => block < 2,
            Family::SdxlRefiner => (1..3).contains(&block),
            _ => block > 0,
        }
    }

    /// The original code's name of a module of the UNet.
    fn ldm(&self, path: &str) -> String {
        let parts: Vec<&str> = path.split('.').collect();
        let number = |i: usize| parts[i].parse::<usize>().unwrap();
        let inner = |from: usize| match parts[from] {
            "norm1" => "in_layers.0".to_owned(),
            "conv1" => "in_layers.2".to_owned(),
            "norm2" => "out_layers.0".to_owned(),
            "conv2" => "out_layers.3".to_owned(),
            "time_emb_proj" => "emb_layers.1".to_owned(),
            "conv_shortcut" => "skip_connection".to_owned(),
            other => unreachable!("{other}"),
        };
        let linear = |i: usize| {
            2 * (parts[i].strip_prefix("linear_").unwrap().parse::<usize>().unwrap() - 1)
        };
        match (parts[0], parts.get(2).copied()) {
            ("conv_in", _) => "input_blocks.0.0".into(),
            ("conv_norm_out", _) => "out.0".into(),
            ("conv_out", _) => "out.2".into(),
            ("time_embedding", _) => format!("time_embed.{}", linear(1)),
            ("add_embedding", _) => format!("label_emb.0.{}", linear(1)),
            ("down_blocks", Some("downsamplers")) => {
                format!("input_blocks.{}.0.op", 3 * (number(1) + 1))
            }
            ("down_blocks", Some(kind)) => {
                let block = 3 * number(1) + number(3) + 1;
                match kind {
                    "resnets" => format!("input_blocks.{block}.0.{}", inner(4)),
                    _ => format!("input_blocks.{block}.1.{}", parts[4..].join(".")),
                }
            }
            ("mid_block", _) if parts[1] == "resnets" => {
                format!("middle_block.{}.{}", 2 * number(2), inner(3))
            }
            ("mid_block", _) => format!("middle_block.1.{}", parts[3..].join(".")),
            ("up_blocks", Some("upsamplers")) => {
                let place = if self.up_has_attention(number(1)) { 2 } else { 1 };
                format!("output_blocks.{}.{place}.conv", 3 * number(1) + 2)
            }
            ("up_blocks", Some(kind)) => {
                let block = 3 * number(1) + number(3);
                match kind {
                    "resnets" => format!("output_blocks.{block}.0.{}", inner(4)),
                    _ => format!("output_blocks.{block}.1.{}", parts[4..].join(".")),
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// Every way to write a module.
    fn stems(&self, module: &str) -> Vec<String> {
        let (component, path) = module.split_once('.').unwrap();
        let flat = |path: &str| path.replace('.', "_");
        if component == "unet" {
            let flattened = format!("diffusion_model_{}", flat(&self.ldm(path)));
            return [path.to_owned(), self.ldm(path)]
                .iter()
                .flat_map(|path| {
                    let dotted = ["unet.", "diffusion_model.", "model.diffusion_model.", ""]
                        .map(|prefix| format!("{prefix}{path}"));
                    let peft =
                        ["base_model.model.", "unet.base_model.model.", "base_model.model.unet."]
                            .map(|prefix| format!("{prefix}{path}"));
                    let kohya = ["lora_unet_", "lycoris_unet_", "lycoris_", "lora_unet__"]
                        .map(|prefix| format!("{prefix}{}", flat(path)));
                    [&dotted[..], &peft[..], &kohya[..]].concat()
                })
                .chain([flattened])
                .collect();
        }
        let second = component == "text_encoder_2";
        let only = self.family != Family::Sdxl;
        let dotted: &[&str] = match (second, only) {
            (true, _) => {
                &["text_encoder_2.", "clip_g.", "te2.", "text_encoders.clip_g.transformer."]
            }
            (false, true) => {
                &["text_encoder.", "clip_l.", "clip_h.", "te.", "text_encoders.clip_h.transformer."]
            }
            (false, false) => &[
                "text_encoder.",
                "clip_l.",
                "te1.",
                "text_encoders.clip_l.transformer.",
                "conditioner.embedders.0.transformer.",
            ],
        };
        let kohya: &[&str] = match (second, only) {
            (true, _) => &["lora_te2_", "lycoris_te2_"],
            (false, true) => &["lora_te_", "lycoris_te_", "lora_te1_"],
            (false, false) => &["lora_te1_", "lycoris_te1_", "lora_te_"],
        };
        // The original code's paths, flattened, where it uses these towers.
        let flattened = match (second, only) {
            (true, _) => None,
            (false, true) => Some(format!("transformer_{}", flat(path))),
            (false, false) => Some(format!("0_transformer_{}", flat(path))),
        };
        let bare = path.strip_prefix("text_model.").unwrap_or(path);
        [path, bare]
            .iter()
            .flat_map(|path| {
                let dotted = dotted.iter().map(move |prefix| format!("{prefix}{path}"));
                dotted.chain(
                    kohya.iter().map(move |prefix| format!("{prefix}{}", path.replace('.', "_"))),
                )
            })
            .chain(flattened)
            .collect()
    }
}

#[test]
fn every_spelling_of_every_module_leads_to_it() {
    for (family, modules, least) in [
        (Family::Sd1, 391 + 72 + 28, 10_000),
        (Family::Sd2, 391 + 138 + 48, 11_500),
        (Family::Sdxl, 1050 + 264 + 96, 27_500),
        // Four levels, one text encoder, which is the second of SDXL.
        (Family::SdxlRefiner, 1000, 19_000),
    ] {
        let base = Base::new(family);
        let all = base.dictionary.modules();
        assert!(all.len() >= modules - 10, "{family} has only {} modules", all.len());
        let wrong: Vec<String> = all
            .par_iter()
            .flat_map_iter(|module| {
                let shape = base.source.shape(&Site::new(format!("{module}.weight"))).unwrap();
                base.stems(module).into_iter().map(move |stem| (module, shape[0], stem))
            })
            .filter_map(|(module, outputs, stem)| match base.lookup(&stem, outputs) {
                Ok(found) if found == [module.as_str()] => None,
                other => Some(format!("{stem}: {other:?} instead of {module}")),
            })
            .collect();
        let tried: usize = all.iter().map(|module| base.stems(module).len()).sum();
        println!("{family}: {tried} keys of {} modules", all.len());
        assert!(tried >= least, "{family}: only {tried} keys");
        assert!(
            wrong.is_empty(),
            "{family}: {} of {tried} wrong:\n{}",
            wrong.len(),
            wrong[..wrong.len().min(20)].join("\n")
        );
    }
}

#[test]
fn flattened_names_of_open_clip() {
    for (family, prefix, component) in
        [(Family::Sd2, "model_", "text_encoder"), (Family::Sdxl, "1_model_", "text_encoder_2")]
    {
        let base = Base::new(family);
        let module = format!("{component}.text_model.encoder.layers.3.mlp.fc1");
        let shape = base.source.shape(&Site::new(format!("{module}.weight"))).unwrap();
        let stem = format!("{prefix}transformer_resblocks_3_mlp_c_fc");
        assert_eq!(base.lookup(&stem, shape[0]), Ok(vec![module]));
    }
}
