//! Single files: what family they are of, and what they hold.

use super::small::{Raw, Stored, unet};
use colora::family::{Family, ModelParts};
use colora::models::{PerBlock, UNet, UNetConfig, Vae};
use colora::sampling::PredictionKind;
use colora::weights::{Placement, Scope, Site, WeightSource};
use colora::{Error, Fault};
use safetensors::tensor::Dtype;

fn open_as(stored: &Stored, name: &str) -> colora::Result<ModelParts> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    stored.write(&path);
    ModelParts::open(&path, Placement::default(), None)
}

fn open(stored: &Stored) -> colora::Result<ModelParts> {
    open_as(stored, "model.safetensors")
}

fn single(family: Family) -> Stored {
    Stored::single(family, &unet(family))
}

#[test]
fn small_models_open_as_what_they_are() {
    for family in [Family::Sd1, Family::Sd2, Family::Sdxl, Family::SdxlRefiner] {
        let parts = open(&single(family)).unwrap();
        assert_eq!(parts.family, family);
        assert!(parts.text.iter().all(|tower| tower.num_hidden_layers == 3), "{family}");
    }
}

/// SD-Turbo's only file, and other SD 2.x models, are in the layout of SDXL's code.
#[test]
fn sd2_in_the_layout_of_sgm_is_no_refiner() {
    let stored = single(Family::Sd2).renamed("cond_stage_model.", "conditioner.embedders.0.");
    let parts = open_as(&stored, "sd_turbo.safetensors").unwrap();
    assert_eq!(parts.family, Family::Sd2);
    assert_eq!(parts.scheduler.prediction_type, PredictionKind::Epsilon);
    parts.text_towers(&*parts.source).unwrap();
    // Of the real widths, that of OpenCLIP-bigG is the refiner's, whose UNet takes sizes too.
    for (width, missing) in [(1024, None), (1280, Some("unet.add_embedding"))] {
        let norm = Raw::f32(&[width], &vec![1.0; width]);
        let mut real = stored.clone();
        real.add("conditioner.embedders.0.model.ln_final.weight", norm);
        let found = open(&real).map(|parts| parts.family);
        match missing {
            None => assert_eq!(found.unwrap(), Family::Sd2),
            Some(missing) => assert!(found.unwrap_err().to_string().contains(missing)),
        }
    }
}

/// The last layer of OpenCLIP-H is never used, and some converters leave it out.
#[test]
fn sd2_loses_only_the_layer_that_is_not_used() {
    let stored = single(Family::Sd2);
    for (layers, used) in [(3, 3), (23, 23), (24, 23)] {
        let mut longer = stored.clone();
        let first = "cond_stage_model.model.transformer.resblocks.0.";
        for (name, raw) in &stored.tensors {
            let Some(rest) = name.strip_prefix(first) else { continue };
            for i in 3..layers {
                let name = format!("cond_stage_model.model.transformer.resblocks.{i}.{rest}");
                longer.add(&name, raw.clone());
            }
        }
        let parts = open(&longer).unwrap();
        assert_eq!(parts.text[0].num_hidden_layers, used, "{layers} layers");
    }
}

/// E4M3 as a number; the byte is none of its NaN.
fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let value = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { value } else { -value }
}

/// The matrices of UNet and text towers in scaled 8 bits, with scales called `end`, and the same numbers in
/// 32 bits.
fn scaled(family: Family, end: &str) -> (Stored, Stored) {
    let (mut eight, mut plain) = (single(family), single(family));
    let mut bits = 0u32;
    for (name, raw) in plain.tensors.clone() {
        let Some(stem) = name.strip_suffix("weight").filter(|_| raw.shape.len() == 2) else {
            continue;
        };
        let scale = 3e-4 + 1e-6 * (eight.tensors.len() % 7) as f32;
        let bytes: Vec<u8> = (0..raw.values().len())
            .map(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Up to 240, of either sign.
                (bits >> 24) as u8 & 0xf7
            })
            .collect();
        let values: Vec<f32> = bytes.iter().map(|&byte| e4m3(byte) * scale).collect();
        plain.add(&name, Raw::f32(&raw.shape, &values));
        eight.add(&name, Raw { dtype: Dtype::F8_E4M3, shape: raw.shape.clone(), bytes });
        eight.add(&format!("{stem}{end}"), Raw::f32(&[1], &[scale]));
        eight.add(&format!("{stem}scale_input"), Raw::f32(&[], &[5.0]));
    }
    let marker = Raw { dtype: Dtype::F8_E4M3, shape: vec![2], bytes: vec![0; 2] };
    eight.add("model.diffusion_model.scaled_fp8", marker);
    (eight, plain)
}

#[test]
fn scaled_eight_bits_are_read_with_their_scales() {
    for (family, end) in [(Family::Sd1, "scale_weight"), (Family::Sdxl, "weight_scale")] {
        let (eight, plain) = scaled(family, end);
        let (eight, plain) = (open(&eight).unwrap(), open(&plain).unwrap());
        assert_eq!(eight.source.sites(), plain.source.sites());
        for site in eight.source.sites() {
            let shape = plain.source.shape(&site).unwrap();
            let numbers = |parts: &ModelParts| parts.source.get_f32(&site, &shape).unwrap();
            let wanted = numbers(&plain);
            assert_eq!(numbers(&eight), wanted, "{site}");
            let tensor = eight.source.get(&site, &shape).unwrap();
            let tensor = tensor.base().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(tensor, wanted, "{site}");
            let mut part = vec![0.0; wanted.len() / 2];
            eight.source.read_f32(&site, wanted.len() / 3, &mut part).unwrap();
            assert_eq!(part, wanted[wanted.len() / 3..][..part.len()], "{site}");
        }
        let site = Site::new("unet.time_embedding.linear_1.weight");
        assert!(plain.source.is_exact(&site) && !eight.source.is_exact(&site));
    }
}

#[test]
fn scales_that_are_not_understood_are_refused() {
    let (eight, _) = scaled(Family::Sd1, "weight_scale");
    let stem = "model.diffusion_model.time_embed.0.";
    let kind = |text: &str| {
        let (bytes, mut other) = (text.as_bytes().to_vec(), eight.clone());
        let raw = Raw { dtype: Dtype::U8, shape: vec![bytes.len()], bytes };
        other.add(&format!("{stem}comfy_quant"), raw);
        open(&other)
    };
    assert!(kind(r#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#).is_ok());
    for text in [r#"{"format": "nvfp4"}"#, "{}", "\u{1}"] {
        assert!(matches!(kind(text), Err(Error::Unsupported { .. })), "{text}");
    }
    let scale = |raw: Raw| {
        let mut other = eight.clone();
        other.add(&format!("{stem}weight_scale"), raw);
        open(&other)
    };
    let rows = scale(Raw::f32(&[256, 1], &[1.0; 256]));
    assert!(matches!(rows, Err(Error::Unsupported { .. })), "{rows:?}");
    for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        assert!(matches!(scale(Raw::f32(&[1], &[bad])), Err(Error::Corrupt { .. })), "{bad}");
    }
}

/// CosXL and Playground 2.5 mark their noise with tensors.
#[test]
fn other_noise_is_marked_by_tensors() {
    use colora::sampling::{NoiseProcess, PredictionKind};
    let opened = |tensors: &[(&str, &[f32])]| {
        let mut stored = single(Family::Sdxl);
        for (name, numbers) in tensors {
            stored.add(name, Raw::f32(&[numbers.len()], numbers));
        }
        open(&stored)
    };
    let cosxl = opened(&[("edm_vpred.sigma_max", &[120.0])]).unwrap();
    let process = NoiseProcess::new(&cosxl.scheduler).unwrap();
    assert!((process.table().sigma(999.0) - 120.0).abs() < 1e-6);
    assert_eq!(cosxl.scheduler.prediction_type, PredictionKind::V);
    let (mean, deviation) = ([-1.6, 1.8, -1.3, 2.5], [8.4, 5.9, 6.5, 5.2]);
    let playground = opened(&[("edm_mean", &mean), ("edm_std", &deviation)]).unwrap();
    assert!(
        matches!(NoiseProcess::new(&playground.scheduler), Ok(NoiseProcess::Edm { data, .. }) if (data - 0.5).abs() < 1e-9)
    );
    assert!((playground.vae.scaling_factor - 0.5).abs() < 1e-9);
    assert_eq!(playground.vae.latents_mean.unwrap().len(), 4);
    for bad in [f32::NAN, -1.0, 0.001] {
        assert!(
            matches!(opened(&[("edm_vpred.sigma_max", &[bad])]), Err(Error::Corrupt { .. })),
            "{bad}"
        );
    }
}

/// A card beside a file says what the file does not.
#[test]
fn a_card_says_what_a_file_predicts() {
    use colora::sampling::PredictionKind;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    single(Family::Sdxl).write(&path);
    let opened = || ModelParts::open(&path, Placement::default(), None);
    assert_eq!(opened().unwrap().scheduler.prediction_type, PredictionKind::Epsilon);
    std::fs::write(folder.path().join("m.toml"), "title = \"x\"\nprediction = \"v:zsnr\"\n")
        .unwrap();
    let parts = opened().unwrap();
    assert_eq!(parts.scheduler.prediction_type, PredictionKind::V);
    assert!(parts.scheduler.rescale_betas_zero_snr);
    std::fs::write(folder.path().join("m.toml"), "prediction = \"x0\"\n").unwrap();
    let error = opened().unwrap_err().to_string();
    assert!(error.contains("m.toml") && error.contains("epsilon, v"), "{error}");
}

#[test]
fn sd2_says_in_many_ways_what_it_predicts() {
    let stored = single(Family::Sd2);
    let prediction = |stored: &Stored| open(stored).unwrap().scheduler.prediction_type;
    assert_eq!(prediction(&stored), PredictionKind::V);
    for (found, kind) in [("epsilon", PredictionKind::Epsilon), ("v", PredictionKind::V)] {
        let mut noted = stored.clone();
        noted.notes.insert("modelspec.predict_key".into(), found.into());
        assert_eq!(prediction(&noted), kind);
    }
    // Inpainting, and depths.
    for channels in [9, 5] {
        let config = UNetConfig { in_channels: channels, ..unet(Family::Sd2) };
        assert_eq!(prediction(&Stored::single(Family::Sd2, &config)), PredictionKind::Epsilon);
    }
}

#[test]
fn incomplete_files_are_refused() {
    let unet = "model.diffusion_model.";
    let bigg = "conditioner.embedders.1.model.";
    for (family, part) in [
        (Family::Sdxl, format!("{bigg}text_projection")),
        (Family::Sdxl, format!("{unet}label_emb.")),
        (Family::Sdxl, format!("{bigg}transformer.resblocks.1.")),
        (Family::Sdxl, "conditioner.embedders.0.transformer.text_model.encoder.layers.1.".into()),
        // Of the transformers of a level, all, one, and the inside of one.
        (Family::Sdxl, format!("{unet}input_blocks.3.1.")),
        (Family::Sdxl, format!("{unet}output_blocks.1.1.t")),
        (Family::Sdxl, format!("{unet}output_blocks.3.1.proj_in")),
        (Family::Sd1, format!("{unet}output_blocks.6.1.")),
        (Family::Sd1, format!("{unet}middle_block.1.")),
        (Family::Sd1, format!("{unet}middle_block.0.")),
        (Family::Sd2, format!("{unet}input_blocks.1.0.")),
        (Family::Sd2, "first_stage_model.post_quant_conv.".into()),
        (Family::Sd2, "first_stage_model.quant_conv.".into()),
        (Family::Sd2, "first_stage_model.decoder.mid.attn_1.".into()),
        (Family::Sd2, "first_stage_model.encoder.mid.attn_1.".into()),
    ] {
        let stored = single(family).without(&part);
        let parts = open(&stored).and_then(|parts| {
            // What opening does not look at, building does.
            let source = &*parts.source;
            UNet::new(&Scope::new(source, "unet"), &parts.unet)?;
            Vae::new(&Scope::new(source, "vae"), &parts.vae)?;
            parts.text_towers(source).map(drop)
        });
        let Err(error) = parts else { panic!("{family} without {part} was opened") };
        let fault = error.fault();
        assert!(matches!(fault, Fault::File | Fault::Unsupported), "{family}, {part}: {error}");
    }
}

/// Real towers have known depths: nothing else tells that the last layer is missing.
#[test]
fn towers_of_known_width_have_all_their_layers() {
    let stored = single(Family::Sd1);
    let prefix = "cond_stage_model.transformer.text_model.";
    let wide = |layers: usize| {
        let mut other = stored.clone();
        other.tensors.retain(|name, _| !name.starts_with(prefix) && !name.contains(".attn2."));
        let mut add = |name: &str, shape: &[usize]| {
            let count = shape.iter().product();
            let raw = Raw { dtype: Dtype::F8_E4M3, shape: shape.to_vec(), bytes: vec![0; count] };
            other.add(name, raw);
        };
        add(&format!("{prefix}embeddings.token_embedding.weight"), &[49_408, 768]);
        add(&format!("{prefix}embeddings.position_embedding.weight"), &[77, 768]);
        add(&format!("{prefix}final_layer_norm.weight"), &[768]);
        for i in 0..layers {
            add(&format!("{prefix}encoder.layers.{i}.layer_norm1.weight"), &[768]);
            add(&format!("{prefix}encoder.layers.{i}.mlp.fc1.weight"), &[3072, 768]);
        }
        for (name, raw) in &stored.tensors {
            match (name.contains(".attn2."), &raw.shape[..]) {
                (true, &[outputs, _]) if name.contains("to_k") || name.contains("to_v") => {
                    add(name, &[outputs, 768]);
                }
                (true, _) => add(name, &raw.shape),
                _ => {}
            }
        }
        open(&other)
    };
    for layers in [2, 12] {
        assert!(wide(layers).is_ok(), "{:?}", wide(layers));
    }
    for layers in [6, 11, 13] {
        let error = wide(layers).unwrap_err().to_string();
        assert!(error.contains(&format!("{layers} layers, expected 12")), "{error}");
    }
}

#[test]
fn models_that_take_more_than_text_are_no_sd2() {
    let mut stored = single(Family::Sd2);
    for (name, shape) in [("0", [256, 64]), ("2", [256, 256])] {
        let name = format!("model.diffusion_model.label_emb.0.{name}.weight");
        stored.add(&name, Raw::f32(&shape, &vec![0.0; shape[0] * shape[1]]));
    }
    let error = open(&stored).unwrap_err();
    assert!(matches!(error, Error::WrongFamily { .. }), "{error}");
    assert!(error.to_string().contains("unCLIP"), "{error}");
}

/// Networks that were distilled lack whole parts of their teachers, and are complete.
#[test]
fn distilled_networks_are_complete() {
    let each = |depths: &[usize]| PerBlock::Each(depths.to_vec());
    let without_middle = UNetConfig { mid_block_type: None, ..unet(Family::Sdxl) };
    let plain_middle = UNetConfig {
        mid_block_type: Some("UNetMidBlock2D".into()),
        layers_per_block: PerBlock::All(2),
        transformer_layers_per_block: PerBlock::Each(vec![
            PerBlock::All(0),
            PerBlock::All(2),
            PerBlock::All(4),
        ]),
        reverse_transformer_layers_per_block: Some(vec![
            each(&[4, 4, 10]),
            each(&[2, 1, 1]),
            PerBlock::All(1),
        ]),
        ..unet(Family::Sdxl)
    };
    let small = UNetConfig {
        mid_block_type: None,
        block_out_channels: vec![64; 3],
        down_block_types: vec!["CrossAttnDownBlock2D".into(); 3],
        up_block_types: vec!["CrossAttnUpBlock2D".into(); 3],
        ..unet(Family::Sd1)
    };
    for (family, config) in [
        (Family::Sdxl, without_middle),
        (Family::Sdxl, plain_middle),
        (Family::Sd1, small),
        (Family::Sd1, UNetConfig { mid_block_type: None, ..unet(Family::Sd1) }),
        (Family::Sd1, UNetConfig { in_channels: 8, ..unet(Family::Sd1) }),
    ] {
        let parts = open(&Stored::single(family, &config)).unwrap();
        UNet::new(&Scope::new(&*parts.source, "unet"), &parts.unet).unwrap();
    }
}

#[test]
fn endless_texts_are_refused() {
    let mut stored = single(Family::Sd1);
    let name = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight";
    let bytes = vec![0; 40_000 * 64];
    stored.add(name, Raw { dtype: Dtype::F8_E4M3, shape: vec![40_000, 64], bytes });
    let error = open(&stored).unwrap_err();
    assert!(error.to_string().contains("max_position_embeddings = 40000"), "{error}");
}
