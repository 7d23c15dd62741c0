//! Single files: what family they are of, and what they hold.

use super::small::{Raw, Stored, unet};
use colora::Error;
use colora::family::{Family, ModelParts};
use colora::sampling::PredictionKind;
use colora::weights::{Placement, Site, WeightSource};
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
    // The width alone decides where the UNet says nothing.
    let mut real = stored.clone();
    for (width, family) in [(1024, Family::Sd2), (1280, Family::SdxlRefiner)] {
        let norm = Raw::f32(&[width], &vec![1.0; width]);
        real.add("conditioner.embedders.0.model.ln_final.weight", norm);
        let (found, other) = (open(&real), [Family::Sd2, Family::SdxlRefiner]);
        let is = |other: &Family| *other == family;
        match found {
            Ok(parts) => assert!(is(&parts.family), "{}", parts.family),
            // The rest of the file is of another width.
            Err(error) => assert_eq!(error.to_string().contains("refiner"), is(&other[1])),
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
