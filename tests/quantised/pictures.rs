//! What quantised models hold, and what they draw.

use crate::source::{BOTH, converted, gguf, ldm_tensors, open, starter_parts};
use crate::support::{self, psnr};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use colora::family::{self, ModelParts};
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraRef, LoraStack, Overlay, ReadOptions, StackEntry,
    Strength,
};
use colora::weights::{
    Arrangement, CheckpointFile, Component, MemorySource, Placement, Precision, Products,
    Quantisation, Site, WeightSource,
};
use colora::{DTypeChoice, Error, Fault, Picture, Pipeline, Request};
use std::path::Path;
use std::sync::Arc;

fn values(source: &dyn WeightSource, site: &Site) -> Vec<f32> {
    source.get_f32(site, &source.shape(site).unwrap()).unwrap()
}

/// What a weight becomes in blocks along the inputs, by candle.
fn by_candle(values: &[f32], shape: &[usize], kind: GgmlDType) -> Vec<f32> {
    let area: usize = shape.iter().skip(2).product();
    let tensor = Tensor::from_slice(values, (shape[0], shape[1], area), &Device::Cpu).unwrap();
    let taps_first = tensor.transpose(1, 2).unwrap().contiguous().unwrap();
    let made = QTensor::quantize(&taps_first, kind).unwrap().dequantize(&Device::Cpu).unwrap();
    let back = made.transpose(1, 2).unwrap().flatten_all().unwrap();
    back.to_vec1().unwrap()
}

#[test]
fn converted_models_hold_candles_numbers_and_their_own_settings() {
    let folder = tempfile::tempdir().unwrap();
    let before = starter_parts();
    for (kind, theirs) in BOTH {
        let path = converted(folder.path(), kind);
        let after = open(&path);
        assert_eq!((after.family, &after.unet), (before.family, &before.unet));
        assert_eq!((&after.text, &after.vae), (&before.text, &before.vae));
        assert_eq!(after.scheduler, before.scheduler);
        assert_eq!(after.defaults, before.defaults);
        let tokens = |parts: &ModelParts| parts.tokenizers[0].open().unwrap().encode("a red apple");
        assert_eq!(tokens(&after), tokens(&before));
        let file = CheckpointFile::open(&path).unwrap();
        let (mut quantised, mut plain) = (0, 0);
        assert_eq!(after.source.sites(), before.source.sites());
        for site in before.source.sites() {
            let shape = before.source.shape(&site).unwrap();
            let (old, new) = (values(&*before.source, &site), values(&*after.source, &site));
            if after.source.quantised(&site).is_some() {
                assert_eq!(file.info(site.as_str()).unwrap().type_name(), kind.name());
                assert!(new == by_candle(&old, &shape, theirs), "{site}");
                // Pieces, as packing and merging read them.
                for (first, count) in [(0, 1), (31, 40), (old.len() - 7, 7), (old.len() / 3, 513)] {
                    let mut piece = vec![0.0; count.min(old.len() - first)];
                    after.source.read_f32(&site, first, &mut piece).unwrap();
                    assert!(piece == new[first..first + piece.len()], "{site} {first}");
                }
                quantised += 1;
            } else {
                let half = |v: &f32| half::f16::from_f32(*v).to_f32();
                assert!(new == old.iter().map(half).collect::<Vec<_>>(), "{site}");
                plain += 1;
            }
        }
        assert!(quantised > 60 && plain > quantised, "{quantised} {plain}");
        let summary = after.summary();
        let unet = summary.components.iter().find(|part| part.name == "unet").unwrap();
        assert_eq!(unet.dtypes, ["F16", kind.name()]);
        let bits = 8.0 * unet.bytes as f64 / unet.parameters as f64;
        println!("{kind}: {quantised} weights, {bits:.2} bits a number in the UNet");
        assert!(bits < if kind == Quantisation::Q8_0 { 8.8 } else { 5.0 });
        let again =
            family::quantise(&after, kind, &path, false, &colora::Cancel::new()).unwrap_err();
        assert!(matches!(again, Error::Exists { .. }));
        // Quantising what is quantised changes nothing.
        let second = folder.path().join("second.safetensors");
        family::quantise(&after, kind, &second, true, &colora::Cancel::new()).unwrap();
        let second = open(&second);
        for site in before.source.sites() {
            assert!(values(&*second.source, &site) == values(&*after.source, &site), "{site}");
        }
    }
}

#[test]
fn other_versions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = converted(folder.path(), Quantisation::Q4_0);
    let bytes = std::fs::read(&path).unwrap();
    let text = b"\"colora.format_version\":\"1\"";
    let at = bytes.windows(text.len()).position(|w| w == text).unwrap();
    let mut other = bytes.clone();
    other[at + text.len() - 2] = b'2';
    let error = CheckpointFile::from_vec(other, "x").unwrap_err();
    assert_eq!(error.fault(), Fault::Unsupported);
    assert!(error.to_string().contains("version 2"), "{error}");
    // Rows of the table that lie about their tensors.
    for (from, to, why) in [
        ("\\\"q4_0\\\"", "\\\"q8_0\\\"", "does not go with"),
        ("\\\"q4_0\\\"", "\\\"q5_0\\\"", "expected the type"),
        ("\\\"shape\\\":[", "\\\"shape\\\":[9", "does not go with"),
        ("\\\"unet.", "\\\"vnet.", "no such tensor"),
    ] {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
        let text = text.replacen(from, to, 1);
        let mut changed = (text.len() as u64).to_le_bytes().to_vec();
        changed.extend(text.bytes());
        changed.extend(&bytes[8 + header..]);
        let error = CheckpointFile::from_vec(changed, "x").unwrap_err();
        assert_eq!(error.fault(), Fault::File);
        assert!(error.to_string().contains(why), "{error}");
    }
}

fn options(dtype: Option<DTypeChoice>) -> colora::pipeline::Options {
    Pipeline::options().device("cpu".parse().unwrap()).dtype(dtype)
}

fn draw(pipeline: &Pipeline, prompt: &str, loras: &[&str], apply: Apply) -> Picture {
    let path = |name: &&str| format!("{}/loras/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let request = Request {
        prompt: prompt.into(),
        seed: Some(1),
        steps: Some(12),
        loras: loras.iter().map(|name| LoraRef::new(path(name))).collect(),
        apply,
        ..Request::default()
    };
    support::draw(pipeline, &request)
}

#[test]
fn pictures_stay_close_to_f32() {
    let folder = tempfile::tempdir().unwrap();
    let exact = options(None).open_starter().unwrap();
    let prompts = ["a red apple", "a rocket", "a cat face"];
    let goal = prompts.map(|prompt| draw(&exact, prompt, &[], Apply::Auto));
    for (kind, limit) in [(Quantisation::Q8_0, 45.0), (Quantisation::Q4_0, 28.0)] {
        let path = converted(folder.path(), kind);
        for dtype in [None, Some(DTypeChoice::Bf16)] {
            let Ok(asked) = options(dtype).quantize(Some(kind)).open_starter() else { continue };
            let stored = options(dtype).open(&path).unwrap();
            for (prompt, goal) in prompts.iter().zip(&goal) {
                let stored = psnr(&draw(&stored, prompt, &[], Apply::Auto), goal);
                let asked = psnr(&draw(&asked, prompt, &[], Apply::Auto), goal);
                println!(
                    "{kind} {dtype:?} {prompt}: {stored:.1} dB from a file, {asked:.1} dB when read"
                );
                assert!(
                    stored > limit && asked > limit,
                    "{kind} {dtype:?}: {stored:.1} {asked:.1}"
                );
            }
        }
    }
}

fn adapter(name: &str, dictionary: &Dictionary) -> LoraStack {
    let path = format!("{}/loras/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let lora = Lora::resolve(AdapterFile::open(path).unwrap(), dictionary, ReadOptions::default())
        .unwrap();
    let entry = StackEntry {
        lora: Arc::new(lora),
        strength: Strength { unet: 0.8, ..Strength::default() },
    };
    LoraStack { entries: vec![entry], ..LoraStack::default() }
}

#[test]
fn adapters_are_added_to_the_plain_numbers() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, _) in BOTH {
        let parts = open(&converted(folder.path(), kind));
        let mut plain = MemorySource::new(Placement::default());
        for site in parts.source.sites() {
            let shape = parts.source.shape(&site).unwrap();
            plain.insert(site.clone(), parts.source.get(&site, &shape).unwrap().base()).unwrap();
        }
        let dictionary = Dictionary::new(&*parts.source, "SD 1.x");
        let stack = adapter("flat", &dictionary);
        let overlay = |source: Arc<dyn WeightSource>, apply| {
            Overlay::compose(source, &dictionary, &stack, apply, |part| part == Component::UNet)
                .unwrap()
        };
        let ours = overlay(parts.source.clone(), Apply::Merge);
        let theirs = overlay(Arc::new(plain), Apply::Merge);
        let beside = overlay(parts.source.clone(), Apply::Bypass);
        assert!(ours.changed() > 20);
        for site in ours.changed_sites() {
            assert!(values(&ours, site) == values(&theirs, site), "{site}");
            let shape = ours.shape(site).unwrap();
            if shape.len() < 2 {
                continue;
            }
            let pack = |source: &dyn WeightSource| {
                source.pack(site, &shape, Arrangement::Plain, Precision::F32).unwrap().quantised()
            };
            // Merged numbers lie in no blocks, those beside adapters stay where they are.
            assert_eq!(pack(&ours), None, "{site}");
            assert_eq!(pack(&beside), parts.source.quantised(site), "{site}");
        }
        // Unless blocks are asked for.
        let placement = Placement { quantise: Some(kind), ..Placement::default() };
        let asked = colora::starter::open(placement, None).unwrap();
        let asked = overlay(asked.source, Apply::Merge);
        let site = ours.changed_sites().find(|s| s.as_str().ends_with("to_q.weight")).unwrap();
        let shape = ours.shape(site).unwrap();
        let packed = asked.pack(site, &shape, Arrangement::Plain, Precision::F32).unwrap();
        assert_eq!(packed.quantised(), Some(kind));
    }
}

#[test]
fn adapters_on_quantised_models_draw_what_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let exact = options(None).open_starter().unwrap();
    let goal = draw(&exact, "a cat face", &["flat"], Apply::Merge);
    let path = converted(folder.path(), Quantisation::Q8_0);
    let stored = options(None).open(&path).unwrap();
    let asked = options(None).quantize(Some(Quantisation::Q8_0)).open_starter().unwrap();
    for (what, pipeline) in [("a file", &stored), ("when read", &asked)] {
        for apply in [Apply::Merge, Apply::Bypass] {
            let distance = psnr(&draw(pipeline, "a cat face", &["flat"], apply), &goal);
            println!("q8_0 from {what}, {apply}: {distance:.1} dB");
            assert!(distance > 45.0, "{what} {apply}: {distance:.1}");
        }
    }
}

#[test]
fn gguf_holds_what_stable_diffusion_cpp_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = ldm_tensors(folder.path());
    for (theirs, ours, kept) in [
        (GgmlDType::Q8_0, "q8_0", Some(Quantisation::Q8_0)),
        (GgmlDType::Q4_0, "q4_0", Some(Quantisation::Q4_0)),
        (GgmlDType::Q4_1, "q4_1", Some(Quantisation::Q8_0)),
        (GgmlDType::Q5_0, "q5_0", Some(Quantisation::Q8_0)),
        (GgmlDType::Q5_1, "q5_1", Some(Quantisation::Q8_0)),
        (GgmlDType::Q4K, "q4_k", Some(Quantisation::Q8_0)),
        (GgmlDType::Q6K, "q6_k", Some(Quantisation::Q8_0)),
        (GgmlDType::F16, "F16", None),
        (GgmlDType::BF16, "BF16", None),
    ] {
        let path = folder.path().join(format!("{ours}.gguf"));
        let plain = gguf(&path, &tensors, theirs);
        let file = CheckpointFile::open(&path).unwrap();
        assert_eq!(file.len(), tensors.len());
        assert_eq!(file.metadata()["general.author"], "a test");
        let mut blocks = 0;
        for name in file.names() {
            let info = file.info(name).unwrap();
            let expected = plain[name].flatten_all().unwrap();
            let expected = expected.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(info.shape, plain[name].dims(), "{name}");
            let read = file.read_f32(name, None).unwrap();
            let same = read.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs());
            assert!(same && read.len() == expected.len(), "{name}");
            blocks += usize::from(info.type_name() == ours && info.blocks.is_some());
        }
        let parts = open(&path);
        let mut in_blocks = parts.source.sites();
        in_blocks.retain(|site| parts.source.quantised(site).is_some());
        assert_eq!(in_blocks.is_empty(), kept.is_none(), "{ours}");
        assert!(kept.is_none() || blocks > 20, "{ours}: {blocks}");
        for site in in_blocks {
            assert_eq!(parts.source.quantised(&site), kept, "{site}");
        }
    }
}

#[test]
fn gguf_draws() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = ldm_tensors(folder.path());
    let path = folder.path().join("model.gguf");
    gguf(&path, &tensors, GgmlDType::Q8_0);
    let exact = options(None).open_starter().unwrap();
    let goal = draw(&exact, "a rocket", &[], Apply::Auto);
    let distance =
        psnr(&draw(&options(None).open(&path).unwrap(), "a rocket", &[], Apply::Auto), &goal);
    println!("GGUF q8_0: {distance:.1} dB");
    assert!(distance > 35.0, "{distance:.1}");
    // And becomes an own file.
    let own = folder.path().join("own.safetensors");
    let written =
        family::quantise(&open(&path), Quantisation::Q8_0, &own, false, &colora::Cancel::new())
            .unwrap();
    assert!(written.quantised > 60 && written.plain > 100);
    let distance =
        psnr(&draw(&options(None).open(&own).unwrap(), "a rocket", &[], Apply::Auto), &goal);
    assert!(distance > 35.0, "{distance:.1}");
}

/// Towers of open_clip under transformers' names, with one matrix for three projections.
#[test]
fn gguf_of_sdxl_with_renamed_towers_opens() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    for (model, renames) in [
        (
            "sdxl",
            &[
                ("conditioner.embedders.0.transformer.", "cond_stage_model.transformer."),
                ("conditioner.embedders.1.model.", "cond_stage_model.1.transformer."),
            ][..],
        ),
        ("sd2", &[("cond_stage_model.model.", "cond_stage_model.transformer.")][..]),
    ] {
        let single = golden.join(format!("single/{model}.safetensors"));
        let tensors = candle_core::safetensors::load(single, &Device::Cpu).unwrap();
        let renamed = tensors.into_iter().map(|(name, tensor)| (ggml_name(&name, renames), tensor));
        let path = folder.path().join(format!("{model}.gguf"));
        gguf(&path, &renamed.collect(), GgmlDType::Q8_0);
        let beside = path.with_extension("config");
        std::fs::remove_dir_all(&beside).unwrap();
        copy_settings(&golden.join(model), &beside);
        let theirs = open(&path);
        let ours = open(&golden.join(model));
        assert_eq!(theirs.family, ours.family);
        for site in ours.source.sites() {
            let (a, b) = (values(&*ours.source, &site), values(&*theirs.source, &site));
            // Where rows fill blocks, within half a step of the largest number.
            let step = a.iter().fold(0f32, |m, v| m.max(v.abs())) / 200.0;
            let near = a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= step);
            assert!(a.len() == b.len() && near, "{model}: {site}");
        }
    }
}

fn ggml_name(name: &str, renames: &[(&str, &str)]) -> String {
    let Some((from, to)) = renames.iter().find(|(from, _)| name.starts_with(from)) else {
        return name.to_owned();
    };
    let mut name = format!("{to}{}", &name[from.len()..]);
    for (theirs, ours) in [
        ("transformer.transformer.resblocks.", "transformer.text_model.encoder.layers."),
        ("transformer.ln_final.", "transformer.text_model.final_layer_norm."),
        ("transformer.token_embedding.", "transformer.text_model.embeddings.token_embedding."),
        (
            "transformer.positional_embedding",
            "transformer.text_model.embeddings.position_embedding.weight",
        ),
        ("attn.in_proj_", "self_attn.in_proj."),
        ("attn.out_proj", "self_attn.out_proj"),
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ] {
        if from.ends_with("model.") {
            name = name.replace(theirs, ours);
        }
    }
    if name.ends_with("transformer.text_projection") {
        name = name.replace("text_projection", "text_model.text_projection");
    }
    name
}

fn copy_settings(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_settings(&path, &target);
        } else if path.extension().is_some_and(|e| e == "json" || e == "txt") {
            std::fs::copy(path, target).unwrap();
        }
    }
}

#[test]
fn devices_without_packed_products_read_plain_numbers_or_keep_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = converted(folder.path(), Quantisation::Q8_0);
    let placement =
        Placement { products: Products::Plain, dtype: DType::F16, ..Placement::default() };
    let parts = ModelParts::open(&path, placement, None).unwrap();
    let site = Site::new("unet.mid_block.resnets.0.conv1.weight");
    let shape = parts.source.shape(&site).unwrap();
    let weight = parts.source.get(&site, &shape).unwrap();
    assert_eq!((weight.base().dtype(), weight.base().dims()), (DType::F16, &shape[..]));
    let blocks = parts.source.in_blocks(&site, &shape).unwrap().unwrap();
    assert_eq!(blocks.bytes(), shape.iter().product::<usize>() / 32 * 34);
    let kernel = weight.base().permute((0, 2, 3, 1)).unwrap();
    let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<half::f16>().unwrap();
    assert!(numbers(&blocks.unpacked(DType::F16).unwrap()) == numbers(&kernel));
    let bias = Site::new("unet.mid_block.resnets.0.conv1.bias");
    assert!(parts.source.in_blocks(&bias, &shape[..1]).unwrap().is_none());
    let error = Pipeline::options().quantize(Some(Quantisation::Q4_0)).open(&path);
    assert!(error.is_ok(), "on a CPU");
}

#[test]
fn a_vae_is_taken_from_a_quantised_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = converted(folder.path(), Quantisation::Q4_0);
    let starter = colora::starter::open(Placement::default(), Some(&path)).unwrap();
    let site = Site::new("vae.decoder.conv_in.weight");
    assert_eq!(values(&*starter.source, &site), values(&*open(&path).source, &site));
    let site = Site::new("unet.mid_block.resnets.0.conv1.weight");
    assert_eq!(starter.source.quantised(&site), None);
    assert!(family::held_files(&path).unwrap().contains_key("tokenizer/vocab.json"));
}
