//! Folders in the diffusers layout: settings that are impossible or mean something else, parts of different
//! models.

use super::support::{assert_close, copy_folder, draw, golden, tensors};
use candle_core::DType;
use colora::family::ModelParts;
use colora::models::Vae;
use colora::sampling::{Sampler, Schedule};
use colora::weights::{Placement, Scope};
use colora::{Error, Fault, Picture, Pipeline, Request};
use serde_json::{Value, json};
use std::path::Path;

fn copy(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&golden(model), folder.path());
    folder
}

fn open(folder: &Path) -> colora::Result<ModelParts> {
    ModelParts::open(folder, Placement::default(), None)
}

/// Puts the part `part` of `model` in the place of the folder's own.
fn replace(folder: &Path, part: &str, model: &str) {
    std::fs::remove_dir_all(folder.join(part)).unwrap();
    copy_folder(&golden(model).join(part), &folder.join(part));
}

fn change(folder: &Path, file: &str, changes: &Value) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
}

fn changed(model: &str, file: &str, changes: &Value) -> colora::Result<ModelParts> {
    let folder = copy(model);
    change(folder.path(), file, changes);
    open(folder.path())
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    let huge = 1_000_000_000_000u64;
    for (file, field, values) in [
        ("text_encoder", "max_position_embeddings", json!([65_536, huge, 2, 0])),
        ("text_encoder", "intermediate_size", json!([0, huge])),
        ("text_encoder", "hidden_size", json!([0, huge])),
        ("text_encoder_2", "projection_dim", json!([0, huge])),
        ("text_encoder", "num_hidden_layers", json!([0, 65, huge])),
        ("text_encoder", "vocab_size", json!([0, huge])),
        ("unet", "addition_time_embed_dim", json!([0, 1, huge])),
        ("unet", "time_cond_proj_dim", json!([0, 1, huge])),
        ("unet", "projection_class_embeddings_input_dim", json!([0, huge])),
        ("unet", "layers_per_block", json!([0, 65, huge, [], [2, huge, 2]])),
        (
            "unet",
            "transformer_layers_per_block",
            json!([65, huge, [1, 2, huge], [1, [1, huge], 1]]),
        ),
        ("unet", "downsample_padding", json!([0, 2, 1_000_000])),
        ("unet", "cross_attention_dim", json!([0, huge, []])),
        ("unet", "in_channels", json!([0, huge])),
        ("unet", "conv_in_kernel", json!([0, 1, huge])),
        ("unet", "num_class_embeds", json!([1000])),
        ("vae", "latent_channels", json!([0, huge])),
        ("vae", "layers_per_block", json!([0, huge])),
        ("vae", "latents_mean", json!([[0.0, 0.0, 0.0, 0.0], [0.0]])),
    ] {
        for value in values.as_array().unwrap() {
            let changes = json!({ field: value });
            let error = changed("sdxl", &format!("{file}/config.json"), &changes).unwrap_err();
            assert!(
                matches!(error.inner(), Error::Unsupported { .. }),
                "{field} = {value}: {error}"
            );
            assert!(error.to_string().contains(field), "{field} = {value}: {error}");
        }
    }
}

#[test]
fn noise_that_is_not_built_is_refused() {
    for changes in [
        json!({"_class_name": "EDMOther"}),
        json!({"_class_name": "FlowMatchHeunDiscreteScheduler"}),
        json!({"sigma_data": 0.5}),
        json!({"prediction_type": "flow_prediction"}),
        json!({"timestep_type": "continuous"}),
        json!({"interpolation_type": "log_linear"}),
        json!({"use_beta_sigmas": true}),
        json!({"use_flow_sigmas": true}),
    ] {
        let error = changed("sdxl", "scheduler/scheduler_config.json", &changes).unwrap_err();
        assert!(matches!(error.inner(), Error::Unsupported { .. }), "{changes}: {error}");
        let field = changes.as_object().unwrap().keys().next().unwrap();
        assert!(error.to_string().contains(field.as_str()), "{changes}: {error}");
    }
    let fine = json!({
        "_class_name": "DPMSolverMultistepScheduler", "sigma_data": null, "timestep_type": "discrete",
        "interpolation_type": "linear", "use_beta_sigmas": false, "use_flow_sigmas": false,
    });
    assert!(changed("sdxl", "scheduler/scheduler_config.json", &fine).is_ok());
}

/// What the parts of such a model say when its text and UNet are put together.
fn refused(folder: &Path) -> String {
    let error = open(folder).map(|parts| parts.name).unwrap_err();
    assert_eq!(error.fault(), Fault::File, "{error}");
    error.to_string()
}

#[test]
fn parts_of_other_models_are_refused() {
    for (model, part, other, expected) in [
        ("sd15", "text_encoder", "sd2", "text features of width 32; expected one for width 24"),
        ("sd2", "text_encoder", "sd15", "text features of width 24; expected one for width 32"),
        ("sd15", "unet", "sd2", "text features of width 24"),
        ("sd2", "unet", "sd15", "text features of width 32"),
        ("sdxl", "unet", "sdxl-refiner", "a UNet for text features of width"),
        ("sdxl", "text_encoder", "sd2", "a UNet for text features of width"),
    ] {
        let folder = copy(model);
        replace(folder.path(), part, other);
        let error = refused(folder.path());
        assert!(error.contains(expected), "{model} with {part} of {other}: {error}");
    }
    let folder = copy("sdxl");
    change(folder.path(), "model_index.json", &json!({"requires_aesthetics_score": true}));
    assert!(refused(folder.path()).contains("the sizes of a refiner"));
    for dim in [6, 9] {
        let folder = copy("sdxl");
        change(folder.path(), "unet/config.json", &json!({"addition_time_embed_dim": dim}));
        assert!(refused(folder.path()).contains("numbers beside the text"));
    }
    let folder = copy("sdxl");
    let plain = json!({"architectures": ["CLIPTextModel"]});
    change(folder.path(), "text_encoder_2/config.json", &plain);
    assert!(refused(folder.path()).contains("CLIPTextModelWithProjection"));
    let folder = copy("sd15");
    change(folder.path(), "vae/config.json", &json!({"latent_channels": 16}));
    assert!(refused(folder.path()).contains("16 latent channels"));
}

fn request() -> Request {
    Request {
        prompt: "a photo of a cat".into(),
        negative_prompt: "blurry, low quality".into(),
        width: Some(64),
        height: Some(64),
        steps: Some(5),
        guidance_scale: Some(7.5),
        sampler: Some(Sampler::Euler),
        schedule: Some(Schedule::Discrete),
        seed: Some(0),
        ..Request::default()
    }
}

fn picture(folder: &Path) -> Picture {
    draw(&Pipeline::options().over(open(folder).unwrap()).unwrap(), &request())
}

/// A tokenizer may promise more places than the text tower has.
#[test]
fn long_windows_are_those_of_the_tower() {
    let folder = copy("sd15");
    let own = picture(folder.path());
    for length in [78, 512, 100_000] {
        let changes = json!({ "model_max_length": length });
        change(folder.path(), "tokenizer/tokenizer_config.json", &changes);
        assert!(picture(folder.path()).bytes() == own.bytes(), "{length}");
    }
}

/// The goldens are made by `goldens/make_statistics.py`.
#[test]
fn statistics_of_latents_are_those_of_diffusers() {
    let goldens = tensors("statistics.safetensors");
    let numbers = |name: &str| goldens[name].to_vec1::<f32>().unwrap();
    let folder = copy("sdxl");
    let changes = json!({"latents_mean": numbers("mean"), "latents_std": numbers("deviation")});
    change(folder.path(), "vae/config.json", &changes);
    let parts = open(folder.path()).unwrap();
    let vae = Vae::new(&Scope::new(&*parts.source, "vae"), &parts.vae).unwrap();
    let scaled = vae.scale(&goldens["unscaled"]).unwrap();
    assert_close("scaled latents", &scaled, &goldens["scaled"], 1e-5);
    let drawn = picture(folder.path());
    let wanted = goldens["picture"].to_dtype(DType::U8).unwrap().flatten_all().unwrap();
    let pairs = drawn.bytes().iter().zip(wanted.to_vec1::<u8>().unwrap());
    let worst = pairs.map(|(ours, theirs)| ours.abs_diff(theirs)).max().unwrap();
    assert!(worst <= 2, "a pixel differs by {worst}");
}
