//! A file of any bytes as an adapter of two small bases: it is refused, or its report accounts for every key, and
//! composing it gives finite weights or an error. Never a panic.
//!
//! One base has a handful of modules; the other is the tiny SD 1.5 of the tests, which the files of the zoo fit,
//! so that they are useful to begin from.
#![no_main]

use candle_core::{Device, Tensor};
use colora::family::ModelParts;
use colora::lora::{
    AdapterFile, Apply, Dictionary, Lora, LoraStack, Overlay, ReadOptions, StackEntry, Strength,
};
use colora::weights::{MemorySource, Placement, Site, WeightSource};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

type Base = (Arc<dyn WeightSource>, Dictionary);

/// A base with a module of every kind.
static SMALL: LazyLock<Base> = LazyLock::new(|| {
    let mut base = MemorySource::new(Placement::default());
    let attention = "unet.down_blocks.0.attentions.0";
    let block = format!("{attention}.transformer_blocks.0");
    let layer = "text_encoder.text_model.encoder.layers.0";
    for (module, shape, bias) in [
        ("unet.down_blocks.0.resnets.0.conv1".into(), vec![8, 8, 3, 3], true),
        ("unet.down_blocks.0.resnets.0.norm1".into(), vec![8], true),
        (format!("{attention}.proj_in"), vec![8, 8, 1, 1], true),
        (format!("{block}.attn1.to_q"), vec![8, 8], false),
        (format!("{block}.attn2.to_k"), vec![8, 32], false),
        (format!("{layer}.self_attn.q_proj"), vec![32, 32], true),
        (format!("{layer}.self_attn.k_proj"), vec![32, 32], true),
        (format!("{layer}.self_attn.v_proj"), vec![32, 32], true),
        ("text_encoder.text_model.embeddings.token_embedding".into(), vec![50, 32], false),
    ] {
        let parts = [("weight", shape.clone()), ("bias", vec![shape[0]])];
        for (part, shape) in parts.into_iter().take(1 + usize::from(bias)) {
            let tensor = Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu);
            let site = Site::new(format!("{module}.{part}"));
            tensor.map_err(Into::into).and_then(|t| base.insert(site, &t)).expect("small tensors");
        }
    }
    let dictionary = Dictionary::new(&base, "SD 1.x");
    (Arc::new(base), dictionary)
});

/// The tiny SD 1.5.
static TINY: LazyLock<Base> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/sd15");
    let parts = ModelParts::open(folder.as_ref(), Placement::default(), None).expect("the goldens");
    let base = MemorySource::resident(&*parts.source).expect("its weights");
    let dictionary = Dictionary::new(&base, "SD 1.x");
    (Arc::new(base), dictionary)
});

fuzz_target!(|bytes: &[u8]| {
    try_on(&SMALL, bytes);
    try_on(&TINY, bytes);
});

fn try_on((base, dictionary): &Base, bytes: &[u8]) {
    let Ok(file) = AdapterFile::from_vec(bytes.to_vec(), "fuzz.safetensors") else { return };
    for allow_nan in [false, true] {
        let options = ReadOptions { strict: false, allow_nan };
        let Ok(lora) = Lora::resolve(file.clone(), dictionary, options) else { continue };
        let report = lora.report();
        assert!(report.used + report.unmatched.len() <= report.keys + 8, "{report:?}");
        let _ = lora.describe(&**base);
        let entry = StackEntry { lora: Arc::new(lora), strength: Strength::default() };
        let stack = LoraStack::new(vec![entry]);
        for apply in [Apply::Merge, Apply::Bypass] {
            let overlay = Overlay::compose(base.clone(), dictionary, &stack, apply, |_| true);
            let Ok(overlay) = overlay else { continue };
            for site in overlay.changed_sites() {
                let shape = overlay.shape(site).unwrap_or_default();
                if apply == Apply::Merge {
                    let weight = overlay.get_f32(site, &shape).expect("a changed weight");
                    assert!(weight.iter().all(|v| v.is_finite()), "{site}");
                }
            }
        }
    }
}
