//! Models whose autoencoder has another number of levels than Stable Diffusion's four, as the public tiny
//! pipelines for tests have. The goldens are made by `goldens/make_two_levels.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use colora::family::ModelParts;
use colora::models::{Tiling, UNetConfig, Vae, VaeConfig};
use colora::sampling::{Sampler, Schedule};
use colora::weights::{Placement, Scope};
use colora::{Pipeline, Request};
use support::{assert_close, draw, golden, tensors};

const MODEL: &str = "two-levels";

fn request(sampler: Sampler, width: usize, height: usize) -> Request {
    Request {
        prompt: "a photo of a cat".into(),
        negative_prompt: "blurry, low quality".into(),
        width: Some(width),
        height: Some(height),
        steps: Some(5),
        guidance_scale: Some(7.5),
        sampler: Some(sampler),
        schedule: Some(match sampler {
            Sampler::DpmPp2m => Schedule::Karras,
            _ => Schedule::Discrete,
        }),
        seed: Some(7),
        ..Request::default()
    }
}

#[test]
fn pictures_equal_diffusers() {
    let pipeline = Pipeline::open(golden(MODEL)).unwrap();
    let goldens = tensors("two-levels_pictures.safetensors");
    for (name, sampler, width, height) in [
        ("euler", Sampler::Euler, 72, 56),
        ("ddim", Sampler::Ddim, 40, 48),
        ("dpm", Sampler::DpmPp2m, 64, 64),
    ] {
        let plan = pipeline.plan(&request(sampler, width, height), 0).unwrap();
        let mut steps = pipeline.steps(&plan, 0).unwrap();
        for step in steps.by_ref() {
            step.unwrap();
        }
        let latents = steps.latents().unwrap().squeeze(0).unwrap();
        assert_eq!(latents.dims(), [4, height / 2, width / 2]);
        assert_close(name, &latents, &goldens[&format!("{name}.latents")], 1e-3);
        let picture = steps.finish().unwrap().picture;
        let golden = goldens[&format!("{name}.picture")].flatten_all().unwrap();
        let golden = golden.to_vec1::<u8>().unwrap();
        assert_eq!(picture.bytes().len(), golden.len());
        let differences = picture.bytes().iter().zip(&golden).map(|(a, b)| a.abs_diff(*b));
        let worst = differences.max().unwrap();
        println!("{name}: largest difference {worst}/255");
        assert!(worst <= 2, "{name}: a pixel differs by {worst}/255");
    }
}

#[test]
fn sizes_follow_from_the_model() {
    let two = Pipeline::open(golden(MODEL)).unwrap();
    // 32 latent cells of two pixels.
    let plan = two.plan(&Request::default(), 0).unwrap();
    assert_eq!((plan.width, plan.height), (64, 64));
    // An odd number of cells, and a size that eight does not divide.
    let picture = draw(&two, &Request { steps: Some(2), ..request(Sampler::Euler, 34, 26) });
    assert_eq!((picture.width(), picture.height()), (34, 26));
    let error = two.plan(&request(Sampler::Euler, 33, 64), 0).unwrap_err().to_string();
    assert!(error.contains("width = 33") && error.contains("32 or 34"), "{error}");
    let eight = Pipeline::open(golden("sd15")).unwrap();
    let error = eight.plan(&request(Sampler::Euler, 34, 64), 0).unwrap_err().to_string();
    assert!(error.contains("multiple of 8; try 32 or 40"), "{error}");
}

#[test]
fn large_pictures_are_decoded_in_tiles() {
    let parts = ModelParts::open(&golden(MODEL), Placement::default(), None).unwrap();
    let vae = Vae::decoder(&Scope::new(&*parts.source, "vae"), &parts.vae).unwrap();
    let latents = tensors("two-levels_pictures.safetensors")["dpm.latents"].unsqueeze(0).unwrap();
    let whole = vae.decode(&latents).unwrap();
    let tiling = Tiling { tile: 20, overlap: 8 };
    let tiled = vae.decode_tiled(&latents, tiling, |_, _| Ok(())).unwrap();
    assert_eq!(tiled.dims(), whole.dims());
    let off = (tiled - whole).unwrap().abs().unwrap().mean_all().unwrap();
    let off = off.to_scalar::<f32>().unwrap();
    // Tiles have statistics of their own; a tile in the wrong place would differ by 0.3 and more.
    assert!(off < 0.1, "{off}");
}

#[test]
fn memory_is_estimated_for_the_latents_of_the_model() {
    let two = Pipeline::open(golden(MODEL)).unwrap();
    let sample = |side| {
        let plan = two.plan(&request(Sampler::Euler, side, side), 0).unwrap();
        two.budget(&plan).unwrap().sample
    };
    // 256 px are 128 cells, in which attention and maps take 16 times what 32 cells take.
    assert!(sample(256) > 4 * sample(64), "{} {}", sample(256), sample(64));
}

/// A VAE of another factor makes latents that the UNet was not trained on.
#[test]
fn another_vae_has_the_same_factor() {
    let options = Pipeline::options().vae(Some(golden(MODEL).join("vae")));
    let error = options.open(golden("sd15")).unwrap_err().to_string();
    assert!(error.contains("2") && error.contains("expected a VAE with 8 pixels"), "{error}");
}

/// Configurations with the widths of diffusers' own tests, which hf-internal-testing's `tiny-stable-diffusion`
/// pipelines have too; the repositories themselves are not read here.
#[test]
fn configurations_of_the_public_tiny_pipelines_are_accepted() {
    let vae = r#"{
        "_class_name": "AutoencoderKL", "_diffusers_version": "0.13.0.dev0", "act_fn": "silu",
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 32,
        "out_channels": 3, "sample_size": 32, "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]
    }"#;
    let vae: VaeConfig = serde_json::from_str(vae).unwrap();
    vae.validate().unwrap();
    assert_eq!(vae.factor(), 2);
    let unet = r#"{
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [32, 64], "center_input_sample": false, "cross_attention_dim": 32,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1,
        "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4,
        "sample_size": 32, "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]
    }"#;
    let unet: UNetConfig = serde_json::from_str(unet).unwrap();
    unet.validate().unwrap();
    assert_eq!(unet.native_pixels(vae.factor()), 64);
    // A list of levels that does not fit the others, and too many.
    let kinds = vec!["DownEncoderBlock2D".into(); 3];
    assert!(VaeConfig { down_block_types: kinds, ..vae.clone() }.validate().is_err());
    assert!(VaeConfig { block_out_channels: vec![32; 64], ..vae }.validate().is_err());
}
