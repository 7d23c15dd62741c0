//! Adapters with a configuration of PEFT. The folders of `trust/peft` were written by PEFT 0.21.2 for the tiny bases, and
//! what lies beside them is its own merge minus the base (of a table of tokens, the first rows).

use crate::support;
use crate::world::World;
use candle_core::{DType, Device, Tensor};
use colora::family::ModelParts;
use colora::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
use colora::weights::{Placement, Site, WeightSource};
use colora::{Error, Fault};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn trust(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust/peft").join(name)
}

struct Base {
    source: Arc<dyn WeightSource>,
    names: Dictionary,
}

fn base() -> Base {
    let parts = ModelParts::open(&support::golden("sd15"), Placement::default(), None).unwrap();
    let names = Dictionary::new(&*parts.source, parts.family.to_string());
    Base { source: parts.source, names }
}

fn open(folder: &Path, base: &Base) -> Result<Lora, Error> {
    Lora::resolve(AdapterFile::open(folder)?, &base.names, ReadOptions::default())
}

/// Compares every change with PEFT's own.
fn compare(name: &str, base: &Base) -> Lora {
    let lora = open(&trust(name), base).unwrap();
    assert_eq!(lora.report().unmatched, [""; 0], "{name}");
    assert_eq!(lora.report().warnings, [""; 0], "{name}");
    let expected = trust(&format!("{name}-expected.safetensors"));
    let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
    let ours: BTreeSet<String> = lora.sites().iter().map(ToString::to_string).collect();
    let theirs: BTreeSet<String> = expected.keys().cloned().collect();
    assert_eq!(ours, theirs, "{name}");
    for (site, golden) in &expected {
        let flat = golden.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        let golden = flat.to_vec1::<f32>().unwrap();
        let change = lora.change(&*base.source, &Site::new(site), 1.0).unwrap().unwrap();
        let largest = golden.iter().fold(1e-12f32, |max, v| max.max(v.abs()));
        let worst = change.iter().zip(&golden).fold(0f32, |w, (a, b)| w.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "{name} {site}: {worst:e} of {largest:e}");
        if golden.len() < change.len() && name.contains("tokens") {
            assert!(change[golden.len()..].iter().all(|v| *v == 0.0), "{name} {site}");
        }
        // Half the strength is half the way, but where a magnitude or a rotation says otherwise.
        if !["te-dora", "conv-dora", "coft", "oft-two-terms"].contains(&name) {
            let half = lora.change(&*base.source, &Site::new(site), 0.5).unwrap().unwrap();
            let worst = half.iter().zip(&change).fold(0f32, |w, (a, b)| w.max((a - b / 2.0).abs()));
            assert!(worst <= 1e-5 * largest, "{name} {site} at half: {worst:e}");
        }
    }
    lora
}

/// A copy of a folder with another configuration.
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = "adapter_model.safetensors";
    std::fs::copy(trust(name).join(tensors), folder.path().join(tensors)).unwrap();
    let config = std::fs::read_to_string(trust(name).join("adapter_config.json")).unwrap();
    let mut config = serde_json::from_str(&config).unwrap();
    edit(&mut config);
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    folder
}

fn refusal(name: &str, base: &Base, edit: impl FnOnce(&mut Value)) -> Error {
    let folder = edited(name, edit);
    open(folder.path(), base).unwrap_err()
}

/// AdaLoRA was applied as a plain LoRA, without its singular values.
#[test]
fn adalora_is_computed() {
    let base = base();
    compare("adalora", &base);
    // Ranks that were pruned, and a convolution.
    compare("adalora-pruned", &base);
    let error = refusal("adalora", &base, |config| config["init_r"] = 12.into());
    assert!(error.to_string().contains("init_r says 12"), "{error}");
    let error = refusal("adalora", &base, |config| config["peft_type"] = "LORA".into());
    assert!(error.to_string().contains("AdaLoRA"), "{error}");
}

/// Weights and biases that were trained whole were left out with a warning.
#[test]
fn whole_tensors_replace_those_of_the_base() {
    let base = base();
    for name in ["whole", "bias", "ln", "te-tokens", "tokens"] {
        compare(name, &base);
    }
}

#[test]
fn variants_of_lora_and_oft_are_computed() {
    let base = base();
    for name in ["blocks", "te-dora", "conv-dora", "coft", "oft-two-terms"] {
        compare(name, &base);
    }
}

/// Norms under `LN_TUNING` were called a full checkpoint.
#[test]
fn tuned_norms_are_no_checkpoint() {
    let lora = open(&trust("norms"), &base()).unwrap();
    let sites: Vec<String> = lora.sites().iter().map(ToString::to_string).collect();
    assert_eq!(sites, ["unet.down_blocks.0.resnets.0.norm1.weight"]);
}

/// The tuner was not looked at: VeRA was told that its keys are unknown.
#[test]
fn what_is_not_computed_is_refused_by_its_name() {
    let world = World::new();
    let vera = trust("vera");
    for verb in [&["lora", "check"][..], &["lora", "inspect"]] {
        let arguments = [verb, &[vera.to_str().unwrap()]].concat();
        let output = world.command(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if verb[1] == "check" {
            assert_eq!(output.status.code(), Some(5), "{text}");
            assert!(text.contains("vera/adapter_config.json: PEFT's `peft_type: VERA`"), "{text}");
        }
    }
    let base = base();
    for (name, value) in [
        ("use_qalora", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("arrow_config", json!({ "top_k": 2 })),
        ("layer_replication", json!([[0, 1]])),
        ("use_something_new", json!(true)),
    ] {
        let error = refusal("whole", &base, |config| config[name] = value);
        assert_eq!(error.fault(), Fault::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains("adapter_config.json") && text.contains(name), "{text}");
    }
}

#[test]
fn a_configuration_and_tensors_that_disagree_are_told() {
    let base = base();
    let missing = refusal("whole", &base, |config| config["use_dora"] = true.into());
    assert!(missing.to_string().contains("lora_magnitude_vector is missing"), "{missing}");
    let few = refusal("te-tokens", &base, |config| {
        config["trainable_token_indices"] = json!({ "token_embedding": [1, 2] });
    });
    assert!(few.to_string().contains("2 tokens"), "{few}");
    let far = refusal("te-tokens", &base, |config| {
        config["trainable_token_indices"] = json!({ "token_embedding": [1, 2, 1000] });
    });
    assert!(far.to_string().contains("token 1000"), "{far}");
    let warned = |name: &str, key: &str, value: Value| {
        let folder = edited(name, |config| config[key] = value);
        let lora = open(folder.path(), &base).unwrap();
        lora.report().warnings.join("\n")
    };
    let promised = warned("whole", "modules_to_save", json!(["conv_in", "conv_out"]));
    assert!(promised.contains("`conv_out`") && !promised.contains("`conv_in`"), "{promised}");
    assert!(warned("whole", "r", 8.into()).contains("rank_pattern"));
    assert!(warned("whole", "of_next_year", 1.into()).contains("`of_next_year`"));
}

/// Alpha by pattern as PEFT finds it: the first expression that fits, in the file's order.
#[test]
fn the_first_pattern_counts() {
    let base = base();
    let site = Site::new("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight");
    let change = |patterns: &str| {
        let folder = edited("whole", |config| {
            config["alpha_pattern"] = serde_json::from_str(patterns).unwrap();
        });
        let lora = open(folder.path(), &base).unwrap();
        lora.change(&*base.source, &site, 1.0).unwrap().unwrap()[0]
    };
    let plain = change("{}");
    let ratio = |patterns: &str| change(patterns) / plain;
    assert!((ratio(r#"{"to_q": 4, "attn1.to_q": 8}"#) - 2.0).abs() < 1e-5);
    assert!((ratio(r#"{"attn\\d+\\.to_[qk]": 8, "to_q": 4}"#) - 4.0).abs() < 1e-5);
    assert!((ratio(r#"{"o_q": 4}"#) - 1.0).abs() < 1e-5);
}

/// OneTrainer's and ComfyUI's whole biases were reported as unknown.
#[test]
fn whole_biases_of_other_programs_are_applied() {
    let base = base();
    let bias = Tensor::ones(8, DType::F32, &Device::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let tensors = [("diffusion_model.input_blocks.0.0.bias.set_weight".to_owned(), bias)];
    candle_core::safetensors::save(&tensors.into(), &path).unwrap();
    let lora = open(&path, &base).unwrap();
    let site = Site::new("unet.conv_in.bias");
    let change = lora.change(&*base.source, &site, 1.0).unwrap().unwrap();
    let old = base.source.get_f32(&site, &[8]).unwrap();
    assert!(change.iter().zip(&old).all(|(c, b)| (c + b - 1.0).abs() < 1e-6));
}

/// What was trained whole survives a conversion, and factors that hold more than their tensors are written out.
#[test]
fn conversions_keep_what_was_trained() {
    let base = base();
    let world = World::new();
    for name in ["whole", "adalora-pruned", "blocks"] {
        let source = trust(name);
        let out = format!("{name}.safetensors");
        world.run(&["lora", "convert", source.to_str().unwrap(), "-o", &out, "--to", "kohya"]);
        let (old, new) = (open(&source, &base).unwrap(), open(&world.path(&out), &base).unwrap());
        for site in old.sites() {
            let [a, b] =
                [&old, &new].map(|l| l.change(&*base.source, &site, 1.0).unwrap().unwrap());
            let largest = a.iter().fold(1e-12f32, |max, v| max.max(v.abs()));
            let worst = a.iter().zip(&b).fold(0f32, |w, (a, b)| w.max((a - b).abs()));
            assert!(worst <= 1e-5 * largest, "{name} {site}: {worst:e} of {largest:e}");
        }
    }
}
