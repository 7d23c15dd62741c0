//! Single files: what family they are of, and what they hold.

use super::small::{Raw, Stored, unet};
use colora::family::{Family, ModelParts};
use colora::sampling::PredictionKind;
use colora::weights::Placement;

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
