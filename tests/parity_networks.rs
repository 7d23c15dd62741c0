//! Each network against diffusers and transformers, on small random models of the true topology.
//! The goldens are made by `goldens/make_models.py`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Device, Tensor};
use colora::family::ModelParts;
use colora::models::{AddedCondition, ClipTower, Tiling, TinyVae, UNet, UNetInput, Vae};
use colora::weights::names::Part;
use colora::weights::{Checkpoint, CheckpointFile, Placement, Scope, Site};
use std::collections::{BTreeSet, HashMap};
use support::{assert_close, golden, tensors};

/// The bar of the parity tests: 1e-4 relative to the largest value, in f32.
const TOLERANCE: f32 = 1e-4;

fn open(name: &str) -> ModelParts {
    let placement = Placement { device: Device::Cpu, dtype: DType::F32, ..Placement::default() };
    ModelParts::open(&golden(name), placement, None).unwrap()
}

/// The CASE in keys of the form PREFIX.CASE.SUFFIX.
fn cases(goldens: &HashMap<String, Tensor>, prefix: &str, suffix: &str) -> BTreeSet<String> {
    let inner = |key: &str| {
        let rest = key.strip_prefix(prefix)?.strip_prefix('.')?;
        rest.strip_suffix(suffix)?.strip_suffix('.').map(str::to_owned)
    };
    goldens.keys().filter_map(|key| inner(key)).collect()
}

fn check_text(name: &str, prefix: &str, index: usize) {
    let (parts, goldens) = (open(name), tensors(&format!("{name}_parts.safetensors")));
    let component = parts.text_components()[index];
    let tower = ClipTower::new(&Scope::new(&*parts.source, component), &parts.text[index]).unwrap();
    let found = cases(&goldens, prefix, "ids");
    assert!(found.len() >= 6, "{name} has only {} text cases", found.len());
    for case in found {
        let key = |what: &str| format!("{prefix}.{case}.{what}");
        let ids = goldens[&key("ids")].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
        let last = tower.forward(&ids, 0, true).unwrap();
        assert_close(
            &format!("{name} {}", key("last")),
            &last.hidden,
            &goldens[&key("last")],
            TOLERANCE,
        );
        let before = tower.forward(&ids, 1, false).unwrap();
        let what = format!("{name} {}", key("penultimate"));
        assert_close(&what, &before.hidden, &goldens[&key("penultimate")], TOLERANCE);
        let pooled = goldens.get(&key("pooled")).or(goldens.get(&key("embeds"))).unwrap();
        assert_close(&format!("{name} {}", key("pooled")), &last.pooled, pooled, TOLERANCE);
        assert_close(&format!("{name} {}", key("pooled")), &before.pooled, pooled, TOLERANCE);
    }
}

#[test]
fn text_towers() {
    check_text("sd15", "text", 0);
    check_text("sd2", "text", 0);
    check_text("sdxl", "text", 0);
    check_text("sdxl", "text2", 1);
}

fn check_unet(
    unet: &UNet,
    goldens: &HashMap<String, Tensor>,
    name: &str,
    prefix: &str,
    least: usize,
) {
    let found = cases(goldens, prefix, "out");
    assert!(found.len() >= least, "{name} has only {} UNet cases", found.len());
    for case in found {
        let get = |what: &str| goldens.get(&format!("{prefix}.{case}.{what}"));
        let added = get("text_embeds").map(|pooled| AddedCondition {
            pooled: pooled.clone(),
            micro: get("time_ids").unwrap().clone(),
        });
        let input = UNetInput {
            latents: get("sample").unwrap(),
            timesteps: get("timestep").unwrap(),
            context: get("context").unwrap(),
            added: added.as_ref(),
            guidance: get("timestep_cond"),
            merge_tokens: 0.0,
            freeu: None,
            perturbed: None,
            attention: None,
            cancel: None,
        };
        let out = unet.forward(input).unwrap();
        assert_close(&format!("{name} {prefix} {case}"), &out, get("out").unwrap(), TOLERANCE);
        // The finest layers over the deep features of the same input are the whole network.
        let (kept, deep) = unet.forward_keeping(input).unwrap();
        let shallow = unet.forward_shallow(input, &deep).unwrap();
        for (what, other) in [("keeping", kept), ("shallow", shallow)] {
            let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(&other), numbers(&out), "{name} {prefix} {case}, {what}");
        }
    }
}

#[test]
fn unets() {
    for name in ["sd15", "sd2", "sdxl"] {
        let parts = open(name);
        let unet = UNet::new(&Scope::new(&*parts.source, "unet"), &parts.unet).unwrap();
        let goldens = tensors(&format!("{name}_parts.safetensors"));
        check_unet(&unet, &goldens, name, "unet", 3);
    }
}

/// A component alone: CONFIG and weights in one folder of `goldens`.
fn component(folder: &str, name: &str) -> Checkpoint {
    let mut checkpoint = Checkpoint::new(folder, Placement::default());
    for entry in std::fs::read_dir(golden(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let file = CheckpointFile::open(&path).unwrap();
            let names: Vec<String> = file.names().map(str::to_owned).collect();
            for tensor in names {
                let site = Site::new(format!("{name}.{tensor}"));
                checkpoint.insert(site, &file, &tensor, Part::Whole).unwrap();
            }
        }
    }
    checkpoint
}

fn config<T: serde::de::DeserializeOwned>(folder: &str) -> T {
    let text = std::fs::read_to_string(golden(folder).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// 9- and 8-channel inputs, LCM's guidance embedding, the blocks that distilled networks drop.
#[test]
fn unet_variants() {
    let goldens = tensors("variants_parts.safetensors");
    let single = ["inpaint", "pix2pix", "lcm", "ssd-1b", "koala", "tiny-sd"];
    for name in single.into_iter().chain(["tiny-sd-bf16", "tiny-sd-sharded"]) {
        let folder = format!("variants/{name}");
        let source = component(&folder, "unet");
        let unet = UNet::new(&Scope::new(&source, "unet"), &config(&folder)).unwrap();
        // The shards hold the weights of `tiny-sd`.
        check_unet(&unet, &goldens, name, name.trim_end_matches("-sharded"), 1);
    }
}

#[test]
fn tiny_autoencoder() {
    let (source, goldens) = (component("taesd", "vae"), tensors("taesd_parts.safetensors"));
    let vae = TinyVae::new(&Scope::new(&source, "vae"), &config("taesd")).unwrap();
    for case in cases(&goldens, "taesd.decode", "out") {
        let key = |what: &str| format!("taesd.decode.{case}.{what}");
        let out = vae.decode(&goldens[&key("latents")]).unwrap();
        assert_close(&format!("taesd decode {case}"), &out, &goldens[&key("out")], TOLERANCE);
    }
    let out = vae.encode(&goldens["taesd.encode.8x8.picture"]).unwrap();
    assert_close("taesd encode", &out, &goldens["taesd.encode.8x8.out"], TOLERANCE);
}

#[test]
fn autoencoders() {
    for name in ["sd15", "sd2", "sdxl"] {
        let (parts, goldens) = (open(name), tensors(&format!("{name}_parts.safetensors")));
        let vae = Vae::new(&Scope::new(&*parts.source, "vae"), &parts.vae).unwrap();
        for case in cases(&goldens, "vae.decode", "out") {
            let latents = &goldens[&format!("vae.decode.{case}.latents")];
            // The goldens leave the scaling factor out.
            let out = vae.decode(&vae.scale(latents).unwrap()).unwrap();
            let what = format!("{name} decode {case}");
            assert_close(&what, &out, &goldens[&format!("vae.decode.{case}.out")], TOLERANCE);
        }
        for case in cases(&goldens, "vae.encode", "mean") {
            let key = |what: &str| format!("vae.encode.{case}.{what}");
            let moments = vae.encode(&goldens[&key("picture")]).unwrap();
            let what = format!("{name} encode {case}");
            assert_close(&what, &moments.mean, &goldens[&key("mean")], TOLERANCE);
            assert_close(&what, &moments.log_variance, &goldens[&key("logvar")], TOLERANCE);
        }
    }
}

/// Large pictures are decoded in tiles: where no other tile reaches, a tile's pixels are its own.
#[test]
fn tiles_are_put_where_they_belong() {
    let parts = open("sd15");
    let vae = Vae::new(&Scope::new(&*parts.source, "vae"), &parts.vae).unwrap();
    let (height, width) = (20, 28);
    let latents = Tensor::randn(0f32, 1.0, (1, 4, height, width), &Device::Cpu).unwrap();
    let whole = vae.decode(&latents).unwrap();
    let one = vae.decode_tiled(&latents, Tiling::default(), |_, _| Ok(())).unwrap();
    assert_close("one tile", &one, &whole, 1e-6);
    let tiling = Tiling { tile: 12, overlap: 4 };
    let mut seen = Vec::new();
    let tiled = vae.decode_tiled(&latents, tiling, |at, of| {
        seen.push((at, of));
        Ok(())
    });
    let tiled = tiled.unwrap();
    assert_eq!(seen, (0..6).map(|at| (at, 6)).collect::<Vec<_>>());
    assert_eq!(tiled.dims(), [1, 3, 8 * height, 8 * width]);
    let cut = |t: &Tensor, y: usize, x: usize, side: usize| {
        t.narrow(2, y, side).unwrap().narrow(3, x, side).unwrap().contiguous().unwrap()
    };
    // The first cells of the first tile, and the last of the last.
    let (tile, own) = (tiling.tile, 8 * (tiling.tile - tiling.overlap));
    for (y, x, within) in [(0, 0, 0), (height - tile, width - tile, 8 * tiling.overlap)] {
        let alone = vae.decode(&cut(&latents, y, x, tile)).unwrap();
        let (ours, theirs) =
            (cut(&tiled, 8 * y + within, 8 * x + within, own), cut(&alone, within, within, own));
        assert_close(&format!("tile at {y}, {x}"), &ours, &theirs, 1e-5);
    }
    let stopped = vae.decode_tiled(&latents, tiling, |at, _| match at {
        2 => Err(colora::Error::Cancelled),
        _ => Ok(()),
    });
    assert!(matches!(stopped, Err(colora::Error::Cancelled)));
}
