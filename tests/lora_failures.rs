//! The table of failures, row by row: what happens, and in which words. Files that are refused as a whole are in
//! `zoo/bad` (`tests/lora_zoo.rs`); here is what only warns, and what depends on the base.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use candle_core::{DType, Device, Tensor};
use colora::Error;
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::weights::{Component, MemorySource, Placement, Site, Weight, WeightSource};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/zoo/{name}.safetensors"))
}

struct Base {
    source: Arc<dyn WeightSource>,
    dictionary: Dictionary,
}

fn base(name: &str) -> Base {
    let parts = ModelParts::open(&support::golden(name), Placement::default(), None).unwrap();
    let dictionary = Dictionary::new(&*parts.source, parts.family.to_string());
    Base { source: parts.source, dictionary }
}

fn open(name: &str, base: &Base, options: ReadOptions) -> Result<Arc<Lora>, Error> {
    let file = AdapterFile::open(zoo(name))?;
    Lora::resolve(file, &base.dictionary, options).map(Arc::new)
}

fn read(name: &str, base: &Base) -> Arc<Lora> {
    open(name, base, ReadOptions::default()).unwrap()
}

fn stack(entries: &[(&Arc<Lora>, f32)]) -> LoraStack {
    let entry = |(lora, w): &(&Arc<Lora>, f32)| StackEntry {
        lora: Arc::clone(lora),
        strength: Strength { unet: *w, text: *w, ..Strength::default() },
    };
    LoraStack::new(entries.iter().map(entry).collect())
}

/// A copy of a file of the zoo with some tensors changed, named anew or added.
fn edited(name: &str, edit: impl FnOnce(&mut HashMap<String, Tensor>)) -> AdapterFile {
    let mut tensors = candle_core::safetensors::load(zoo(name), &Device::Cpu).unwrap();
    edit(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edited.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    AdapterFile::from_vec(std::fs::read(path).unwrap(), "edited.safetensors").unwrap()
}

fn resolve(file: AdapterFile, base: &Base) -> Result<Arc<Lora>, Error> {
    Lora::resolve(file, &base.dictionary, ReadOptions::default()).map(Arc::new)
}

fn number(value: f32) -> Tensor {
    Tensor::new(value, &Device::Cpu).unwrap()
}

fn compose(base: &Base, stack: &LoraStack) -> Overlay {
    let source = base.source.clone();
    Overlay::compose(source, &base.dictionary, stack, Apply::Merge, |_| true).unwrap()
}

/// Largest difference of two overlays.
fn apart(a: &Overlay, b: &Overlay) -> f32 {
    let mut worst = 0f32;
    for site in a.changed_sites().chain(b.changed_sites()) {
        let shape = a.shape(site).unwrap();
        let (a, b) = (a.get_f32(site, &shape).unwrap(), b.get_f32(site, &shape).unwrap());
        worst = a.iter().zip(&b).fold(worst, |w, (a, b)| w.max((a - b).abs()));
    }
    worst
}

fn warns(lora: &Lora, words: &str) {
    let warnings = &lora.report().warnings;
    assert!(warnings.iter().any(|warning| warning.contains(words)), "{words}: {warnings:?}");
}

#[test]
fn alpha_zero_and_orphans_warn() {
    let lora = read("good/sd15-alphas", &base("sd15"));
    warns(&lora, "alpha is 0");
    warns(&lora, "unmatched");
    assert_eq!(lora.report().unmatched, ["lora_unet_mid_block_resnets_0_conv1.alpha"]);
}

#[test]
fn rank_zero_is_counted_and_changes_nothing() {
    let lora = read("good/sd15-rank0", &base("sd15"));
    assert_eq!(lora.report().empty, 1);
}

#[test]
fn a_file_without_effect_warns() {
    warns(&read("good/sd15-zero-up", &base("sd15")), "changes nothing");
}

#[test]
fn unmatched_keys_warn_or_are_an_error() {
    let base = base("sd15");
    let lora = read("good/sd15-unmatched", &base);
    warns(&lora, "4 unmatched keys");
    let strict = ReadOptions { strict: true, ..ReadOptions::default() };
    let error = open("good/sd15-unmatched", &base, strict).unwrap_err();
    assert!(error.to_string().contains("`strict`"), "{error}");
    assert_eq!(error.fault().exit_code(), 3);
}

#[test]
fn metadata_does_not_overrule_shapes() {
    let base = base("sd15");
    let (told, lied) = (read("good/sd15-kohya", &base), read("good/sd15-metadata-lies", &base));
    let composed = |lora| compose(&base, &stack(&[(lora, 1.0)]));
    assert_eq!(apart(&composed(&told), &composed(&lied)), 0.0);
}

#[test]
fn broken_modules_are_left_out_on_request() {
    let base = base("sd15");
    let lenient = ReadOptions { allow_nan: true, ..ReadOptions::default() };
    for name in ["bad/nan-up", "bad/inf-up"] {
        let refused = open(name, &base, ReadOptions::default()).and_then(|lora| {
            let (source, stack) = (base.source.clone(), stack(&[(&lora, 1.0)]));
            Overlay::compose(source, &base.dictionary, &stack, Apply::Merge, |_| true)
        });
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("`allow_nan`"), "{message}");
        // Alone in its file, the broken module leaves nothing behind but a report.
        let lora = open(name, &base, lenient).unwrap();
        assert_eq!(lora.report().skipped.len(), 1, "{name}");
        assert_eq!(compose(&base, &stack(&[(&lora, 1.0)])).changed(), lora.sites().len());
        warns(&lora, "not finite");
    }
}

#[test]
fn the_first_encoders_old_name_warns_on_sdxl() {
    warns(&read("good/sdxl-te-prefix", &base("sdxl")), "lora_te_");
}

#[test]
fn two_differing_spellings_warn() {
    warns(&read("good/sdxl-twice-differing", &base("sdxl")), "come twice");
}

#[test]
fn the_same_file_twice_adds() {
    let base = base("sd15");
    let lora = read("good/sd15-kohya", &base);
    let twice = compose(&base, &stack(&[(&lora, 0.5), (&lora, 0.75)]));
    let once = compose(&base, &stack(&[(&lora, 1.25)]));
    assert!(apart(&twice, &once) < 1e-5, "{}", apart(&twice, &once));
}

#[test]
fn huge_changes_warn() {
    let base = base("sd15");
    let lora = read("good/sd15-kohya", &base);
    let warnings = |weight| compose(&base, &stack(&[(&lora, weight)])).warnings().join(" ");
    assert!(warnings(100.0).contains("10 times"), "{}", warnings(100.0));
    assert_eq!(warnings(0.01), "");
}

#[test]
fn an_inpainting_base_takes_the_adapter_of_its_family() {
    let base = base("sd15");
    let mut wide = MemorySource::resident(&*base.source).unwrap();
    let site = Site::new("unet.conv_in.weight");
    let shape = base.source.shape(&site).unwrap();
    let Weight::Dense(narrow) = base.source.get(&site, &shape).unwrap() else { unreachable!() };
    // Five more channels: the mask, and the latents of the masked picture.
    let more = Tensor::ones((shape[0], 5, shape[2], shape[3]), DType::F32, &Device::Cpu).unwrap();
    wide.insert(site.clone(), &Tensor::cat(&[&narrow, &more], 1).unwrap()).unwrap();
    let wide = Arc::new(wide);
    let dictionary = Dictionary::new(&*wide, "SD 1.x");
    let file = AdapterFile::open(zoo("good/sd15-lcm-like")).unwrap();
    let lora = Lora::resolve(file, &dictionary, ReadOptions::default()).unwrap();
    let change = lora.change(&*wide, &site, 1.0).unwrap().unwrap();
    let plain = read("good/sd15-lcm-like", &base);
    let expected = plain.change(&*base.source, &site, 1.0).unwrap().unwrap();
    let kernel = shape[2] * shape[3];
    for (ours, theirs) in change.chunks(9 * kernel).zip(expected.chunks(4 * kernel)) {
        assert!(ours[..4 * kernel].iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(ours[4 * kernel..].iter().all(|v| *v == 0.0));
    }
    // A core stands between; kinds that cannot be widened cost this layer, not the file.
    let tucker = [("lora_up", vec![8, 2, 1, 1]), ("lora_mid", vec![2, 2, 3, 3])];
    let tucker = [&tucker[..], &[("lora_down", vec![2, 4, 1, 1])]].concat();
    let hada = ["hada_w1_a", "hada_w2_a"].map(|word| (word, vec![8, 2]));
    let hada = [hada, ["hada_w1_b", "hada_w2_b"].map(|word| (word, vec![2, 36]))].concat();
    for (parts, widened) in [(tucker, true), (hada, false)] {
        let file = || {
            edited("good/sd15-kohya", |tensors| {
                for (word, dims) in &parts {
                    let values = Tensor::ones(dims.as_slice(), DType::F32, &Device::Cpu).unwrap();
                    let bare = word.starts_with("hada");
                    let ending = if bare { "" } else { ".weight" };
                    tensors.insert(format!("lora_unet_conv_in.{word}{ending}"), values);
                }
            })
        };
        let plain = resolve(file(), &base).unwrap();
        assert!(plain.change(&*base.source, &site, 1.0).unwrap().is_some());
        let lora = Lora::resolve(file(), &dictionary, ReadOptions::default()).unwrap();
        let warnings = &lora.report().warnings;
        assert_eq!(lora.change(&*wide, &site, 1.0).unwrap().is_some(), widened, "{warnings:?}");
        assert_eq!(warnings.iter().any(|w| w.contains("conv_in`: left out")), !widened);
    }
}

#[test]
fn embeddings_that_fit_nothing_do_not_refuse_the_layers_beside_them() {
    let base = base("sd15");
    for odd in ["clip_g_out", "emb_params", "string_to_token.*"] {
        let key = format!("bundle_emb.mytok.{odd}");
        let file = edited("good/sd15-kohya", |tensors| {
            let vectors = Tensor::ones((2, 7), DType::F32, &Device::Cpu).unwrap();
            tensors.insert(key.clone(), vectors);
        });
        let lora = resolve(file, &base).unwrap();
        assert!(lora.inversions().is_empty() && lora.modules().next().is_some());
        assert_eq!(lora.report().unmatched, [key]);
    }
}

#[test]
fn stacks_over_one_base_run_side_by_side() {
    let base = base("sd15");
    let names = ["good/sd15-kohya", "good/sd15-lyco-loha", "good/sd15-lyco-dora-out"];
    let loras: Vec<Arc<Lora>> = names.iter().map(|name| read(name, &base)).collect();
    let alone: Vec<Overlay> =
        loras.iter().map(|lora| compose(&base, &stack(&[(lora, 0.8)]))).collect();
    let together: Vec<Overlay> = std::thread::scope(|scope| {
        let base = &base;
        let run = move |lora| compose(base, &stack(&[(lora, 0.8)]));
        let threads: Vec<_> = loras.iter().map(|lora| scope.spawn(move || run(lora))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (a, b) in alone.iter().zip(&together) {
        assert_eq!(apart(a, b), 0.0);
    }
}

#[test]
fn an_alpha_beyond_reason_warns() {
    let base = base("sd15");
    let mut key = String::new();
    let file = edited("good/sd15-kohya", |tensors| {
        key = tensors
            .keys()
            .filter(|key| key.split('.').next_back() == Some("alpha"))
            .min()
            .unwrap()
            .clone();
        tensors.insert(key.clone(), number(1e7));
    });
    let lora = resolve(file, &base).unwrap();
    warns(&lora, "alpha is 10000000, which is hardly meant");
    warns(&lora, key.trim_end_matches(".alpha"));
}

#[test]
fn keys_without_meaning_are_silent() {
    let base = base("sd15");
    let file = edited("good/sd15-kohya", |tensors| {
        for key in [
            "lora_te1_text_projection.alpha",
            "lora_te_text_model_embeddings.position_ids",
            "lora_unet_mid_block_resnets_0_norm1.num_batches_tracked",
        ] {
            tensors.insert(key.into(), number(1.0));
        }
    });
    let report = resolve(file, &base).unwrap().report().clone();
    assert_eq!((report.unmatched.len(), report.keys), (0, report.used + 3));
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
}

#[test]
fn unmatched_keys_come_with_their_reasons() {
    let base = base("sd15");
    let report = read("good/sd15-unmatched", &base).report().clone();
    let found: Vec<(&str, usize)> =
        report.reasons.iter().map(|(why, keys)| (*why, keys.len())).collect();
    let expected =
        [("no adapter has keys that end like this", 1), ("the model has no such module", 3)];
    assert_eq!(found, expected);
    let mut keys = report.reasons.values().flatten().cloned().collect::<Vec<_>>();
    keys.sort();
    assert_eq!(keys, report.unmatched);
}

#[test]
fn without_a_text_encoder_the_unet_part_loads_and_says_so() {
    let whole = base("sd15");
    let mut unet = MemorySource::new(Placement::default());
    for site in whole.source.sites().into_iter().filter(|s| s.component() == Component::UNet) {
        let shape = whole.source.shape(&site).unwrap();
        let Weight::Dense(weight) = whole.source.get(&site, &shape).unwrap() else {
            unreachable!()
        };
        unet.insert(site, &weight).unwrap();
    }
    let dictionary = Dictionary::new(&unet, "SD 1.x");
    let source: Arc<dyn WeightSource> = Arc::new(unet);
    let bare = Base { source, dictionary };
    let lora = read("good/sd15-kohya", &bare);
    assert!(lora.modules().count() > 5 && lora.modules().all(|m| m.starts_with("unet.")));
    warns(&lora, "unmatched keys");
    let left = &lora.report().reasons["the model has no such text encoder"];
    assert_eq!(left.len(), lora.report().unmatched.len());
    assert!(left.iter().all(|key| key.starts_with("lora_te_")), "{left:?}");
}

#[test]
fn rare_prefixes_mean_the_same() {
    let base = base("sd15");
    for (name, from, to) in [
        ("good/sd15-kohya", "lora_unet_", "lora_unet__"),
        ("good/sd15-kohya", "lora_unet_", "oft_unet_"),
        ("good/sd15-kohya", "lora_te_", "oft_te_"),
        ("good/sd15-kohya", "lora_te_", "lora_te1_"),
        ("good/sd15-dotted", "text_encoder.", "te."),
        ("good/sd15-dotted", "text_encoder.", "te1."),
        ("good/sd15-dotted", "text_encoder.", "cond_stage_model.transformer."),
        ("good/sd15-dotted", "text_encoder.", "conditioner.embedders.0.transformer."),
        ("good/sd15-dotted", "text_encoder.", "base_model.model.text_encoder."),
        ("good/sd15-dotted", "unet.", "base_model.model.unet."),
        ("good/sd15-dotted", "unet.", "model.diffusion_model."),
    ] {
        let plain = resolve(edited(name, |_| ()), &base).unwrap();
        let mut renamed = 0;
        let file = edited(name, |tensors| {
            let other = |(key, tensor): (String, Tensor)| {
                let rest = key.strip_prefix(from).map(|rest| format!("{to}{rest}"));
                renamed += usize::from(rest.is_some());
                (rest.unwrap_or(key), tensor)
            };
            *tensors = std::mem::take(tensors).into_iter().map(other).collect();
        });
        let lora = resolve(file, &base).unwrap();
        assert!(renamed > 2, "{name} has no key with {from}");
        assert_eq!(lora.report().unmatched, plain.report().unmatched, "{to}");
        let composed = |lora| compose(&base, &stack(&[(lora, 1.0)]));
        assert_eq!(apart(&composed(&lora), &composed(&plain)), 0.0, "{to}");
    }
}

#[test]
fn families_are_told_apart_without_plain_factors() {
    let refused = |file: AdapterFile, model: &str| {
        let error = resolve(file, &base(model)).unwrap_err();
        assert!(matches!(error, Error::WrongFamily { .. }), "{model}: {error}");
        error.to_string()
    };
    // Self-attention alone says no width, and many of its shapes are in both families.
    let own = edited("good/sd15-kohya-full", |tensors| {
        tensors.retain(|key, _| key.contains("attn1"));
        assert!(tensors.len() > 100);
    });
    let message = refused(own, "sdxl");
    assert!(message.contains("SD 1.x or 2.x"), "{message}");
    for (name, model, width) in [
        ("good/sd15-lyco-lokr", "sd2", "32 wide"),
        ("good/sd15-lyco-glora", "sd2", "32 wide"),
        ("good/sd15-glora-old", "sd2", "32 wide"),
        ("good/sd2-lyco-lokr-dora", "sd15", "24 wide"),
        ("good/sd2-lyco-loha", "sd15", "24 wide"),
    ] {
        let message = refused(edited(name, |_| ()), model);
        assert!(message.contains(width), "{name} on {model}: {message}");
    }
}

#[test]
fn fused_projections_of_another_size_are_the_files_fault() {
    let base = base("sd2");
    let mut tried = 0;
    for end in ["diff", "diff_b", "w_norm", "b_norm", "lora_up.bias"] {
        for shape in [vec![5], vec![], vec![5, 5]] {
            let file = edited("good/sd2-openclip-fused", |tensors| {
                let fused = |key: &String| key.contains("in_proj") && key.contains("lora_up");
                let key = tensors.keys().find(|key| fused(key)).unwrap();
                let key = key.replace("lora_up.weight", end);
                let tensor = Tensor::ones(shape.clone(), DType::F32, &Device::Cpu).unwrap();
                tensors.insert(key, tensor);
            });
            let error = resolve(file, &base).unwrap_err();
            assert_eq!(error.fault(), colora::Fault::File, "{end} {shape:?}: {error}");
            assert!(error.to_string().contains("shape"), "{end}: {error}");
            tried += 1;
        }
    }
    assert_eq!(tried, 15);
}

/// cloneofsimo's "extended" files number the layers of residual blocks too, behind the transformers of
/// their block; the middle block comes last.
#[test]
fn numbered_pairs_reach_residual_blocks() {
    let base = base("sd15");
    let inner = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ff.net.0.proj",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
    ];
    let mut order: Vec<String> = Vec::new();
    let mut block = |prefix: &str, attentions: usize, residual: usize| {
        for i in 0..attentions {
            let path = format!("{prefix}.attentions.{i}.transformer_blocks.0");
            order.extend(inner.iter().map(|name| format!("{path}.{name}")));
        }
        for i in 0..residual {
            for name in ["conv1", "time_emb_proj", "conv2", "conv_shortcut"] {
                let module = format!("{prefix}.resnets.{i}.{name}");
                if base.source.has(&Site::new(format!("{module}.weight"))) {
                    order.push(module);
                }
            }
        }
    };
    for i in 0..4 {
        block(&format!("unet.down_blocks.{i}"), if i < 3 { 2 } else { 0 }, 2);
    }
    for i in 0..4 {
        block(&format!("unet.up_blocks.{i}"), if i > 0 { 3 } else { 0 }, 3);
    }
    block("unet.mid_block", 1, 2);
    // Every pair adds a number of its own to all of its weight.
    let number = |i: usize| (i + 1) as f64 / 64.0;
    let shape = |module: &str| base.source.shape(&Site::new(format!("{module}.weight"))).unwrap();
    let file = edited("good/sd15-kohya", |tensors| {
        tensors.clear();
        for (i, module) in order.iter().enumerate() {
            let shape = shape(module);
            let (mut up, mut down) = (vec![shape[0], 1], vec![1]);
            up.extend(shape.iter().skip(2).map(|_| 1));
            down.extend(&shape[1..]);
            let ones = |shape: Vec<usize>| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
            tensors.insert(format!("unet:{i}:up"), (ones(up) * number(i)).unwrap());
            tensors.insert(format!("unet:{i}:down"), ones(down));
        }
    });
    let lora = resolve(file, &base).unwrap();
    assert_eq!(lora.modules().count(), order.len());
    let stack = stack(&[(&lora, 1.0)]);
    let source = base.source.clone();
    let overlay = Overlay::compose(source, &base.dictionary, &stack, Apply::Merge, |_| true);
    let overlay = overlay.unwrap();
    for (i, module) in order.iter().enumerate() {
        let (site, shape) = (Site::new(format!("{module}.weight")), shape(module));
        let before = base.source.get_f32(&site, &shape).unwrap();
        let after = overlay.get_f32(&site, &shape).unwrap();
        let added = after.iter().zip(&before).map(|(a, b)| f64::from(a - b) - number(i));
        let worst = added.fold(0.0, |worst: f64, error| worst.max(error.abs()));
        assert!(worst < 1e-5, "{module}: {worst}");
    }
}
