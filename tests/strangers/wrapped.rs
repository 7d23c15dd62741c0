//! Single files as training leaves them: names with wrappers around them, averages alone, parts that lack.

use super::small::{Stored, unet};
use colora::Error;
use colora::family::{Family, ModelParts};
use colora::weights::{Placement, WeightSource};
use std::path::Path;

const UNET: &str = "model.diffusion_model.";
const FAMILIES: [Family; 4] = [Family::Sd1, Family::Sd2, Family::Sdxl, Family::SdxlRefiner];

fn open_with(stored: &Stored, vae: Option<&Path>) -> colora::Result<ModelParts> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    stored.write(&path);
    ModelParts::open(&path, Placement::default(), vae)
}

fn open(stored: &Stored) -> colora::Result<ModelParts> {
    open_with(stored, None)
}

fn single(family: Family) -> Stored {
    Stored::single(family, &unet(family))
}

fn named(stored: &Stored, name: impl Fn(&str) -> String) -> Stored {
    let tensors = stored.tensors.iter().map(|(n, raw)| (name(n), raw.clone())).collect();
    Stored { tensors, notes: stored.notes.clone() }
}

/// The names of a UNet elsewhere.
fn moved(stored: &Stored, to: &str) -> Stored {
    named(stored, |name| match name.strip_prefix(UNET) {
        Some(inner) => format!("{to}{inner}"),
        None => name.to_owned(),
    })
}

/// As the original code keeps averages: without dots.
fn averaged(stored: &Stored) -> Stored {
    named(stored, |name| match name.strip_prefix(UNET) {
        Some(inner) => format!("model_ema.diffusion_model{}", inner.replace('.', "")),
        None => name.to_owned(),
    })
}

fn all_before(stored: &Stored, outer: &str) -> Stored {
    named(stored, |name| format!("{outer}{name}"))
}

fn same(found: &ModelParts, wanted: &ModelParts, what: &str) {
    assert_eq!((found.family, &found.unet), (wanted.family, &wanted.unet), "{what}");
    assert_eq!(found.source.sites(), wanted.source.sites(), "{what}");
    for site in wanted.source.sites() {
        let shape = wanted.source.shape(&site).unwrap();
        let numbers = |parts: &ModelParts| parts.source.get_f32(&site, &shape).unwrap();
        assert_eq!(numbers(found), numbers(wanted), "{what}: {site}");
    }
}

/// Such files were called a VAE alone, or a file of unknown weights.
#[test]
fn wrappers_and_lone_averages_are_read() {
    for family in FAMILIES {
        let plain = single(family);
        let wanted = open(&plain).unwrap();
        let wrapped = [
            ("compiled", moved(&plain, "model.diffusion_model._orig_mod.")),
            ("of a whole program", moved(&plain, "diffusion_model.")),
            ("parallel", all_before(&plain, "module.")),
            ("compiled and parallel", all_before(&plain, "_orig_mod.module.")),
            ("a trainer's", all_before(&plain, "model.")),
            ("without prefix", moved(&plain, "")),
            ("averages", averaged(&plain)),
            ("averages with dots", moved(&plain, "model_ema.diffusion_model.")),
            ("blocks", plain.renamed(".in_layers.", "._checkpoint_wrapped_module.in_layers.")),
        ];
        for (what, stored) in wrapped {
            same(&open(&stored).unwrap(), &wanted, &format!("{family}, {what}"));
        }
        let mut both = averaged(&plain);
        both.tensors.values_mut().for_each(|raw| raw.bytes.fill(0));
        both.tensors.extend(plain.tensors.clone());
        let both = open(&both).unwrap();
        same(&both, &wanted, "the model counts more than its averages");
    }
}

#[test]
fn a_wrapped_vae_serves_as_vae() {
    let plain = single(Family::Sd1);
    let wanted = open(&plain).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let vae = folder.path().join("vae.safetensors");
    let mut alone = plain.clone();
    alone.tensors.retain(|name, _| name.starts_with("first_stage_model."));
    let without = plain.without("first_stage_model.");
    for start in ["", "module.", "_orig_mod."] {
        named(&alone, |name| name.replace("first_stage_model.", start)).write(&vae);
        same(&open_with(&without, Some(&vae)).unwrap(), &wanted, start);
    }
}

/// What cannot be read is called what it is.
#[test]
fn what_lacks_or_lies_elsewhere_is_said() {
    let plain = single(Family::Sd1);
    let mut alone = plain.clone();
    alone.tensors.retain(|name, _| name.starts_with(UNET));
    let textless = plain.without("cond_stage_model.");
    let lora = plain.renamed("to_k.weight", "to_k.lora_down.weight");
    let bare = "a UNet without text encoder and VAE";
    for (stored, expected) in [
        (moved(&alone, ""), bare),
        (alone.clone(), bare),
        (moved(&alone, "diffusion_model."), "the prefix `diffusion_model.` without text encoder"),
        (averaged(&alone), "averages of training only (under `model_ema.`) without text encoder"),
        (textless.clone(), "a UNet without text encoder;"),
        (moved(&plain, "teacher."), "a UNet under the prefix `teacher.`"),
        (moved(&plain, "x.diffusion_model."), "a UNet under the prefix `x.diffusion_model.`"),
        (moved(&plain, "model_ema.diffusion_modelx"), "a VAE alone"),
        (moved(&lora, "diffusion_model."), "a LoRA"),
        (moved(&plain, "control_model."), "a ControlNet"),
        (moved(&alone, "").renamed("time_embed.", "input_hint_block."), "a ControlNet"),
    ] {
        let error = open(&stored).unwrap_err();
        assert!(matches!(error, Error::WrongFamily { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.fault().exit_code(), 3);
    }
    // Some tensors of a wrapped model: where they are is a part of what is wrong.
    let some = moved(&plain, "diffusion_model._orig_mod.").without("output_blocks.");
    let error = open(&some).unwrap_err().to_string();
    assert!(error.contains("mirror") && error.contains("`diffusion_model.`"), "{error}");
}
