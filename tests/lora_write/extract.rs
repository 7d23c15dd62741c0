//! Extraction finds what was planted; resizing keeps what it says.

use super::zoo::{Base, distance, sites, zoo};
use colora::Cancel;
use colora::lora::write::{
    ConvertOptions, ExtractOptions, FileDtype, Format, Law, MergeOptions, ResizeOptions, convert,
    extract, merge, resize,
};
use colora::lora::{Apply, LoraStack, Overlay, StackEntry, Strength};
use colora::weights::{Site, WeightSource};
use std::sync::Arc;

fn options() -> ExtractOptions {
    ExtractOptions {
        rank: 4,
        conv_rank: 4,
        threshold: 0.0,
        full_norms: false,
        precision: FileDtype::F32,
        force: true,
        cancel: Cancel::new(),
    }
}

/// The base with an adapter of the zoo in it.
fn tuned(base: &Base, name: &str) -> Overlay {
    let lora = Arc::new(base.load(&zoo(&format!("good/{name}.safetensors"))).unwrap());
    let stack = LoraStack::new(vec![StackEntry { lora, strength: Strength::default() }]);
    Overlay::compose(base.source.clone(), &base.dictionary, &stack, Apply::Merge, |_| true).unwrap()
}

#[test]
fn a_planted_difference_is_found() {
    for name in ["sd15-kohya", "sdxl-kohya", "sd15-lyco-locon"] {
        let (base, folder) =
            (Base::named(name.split('-').next().unwrap()), tempfile::tempdir().unwrap());
        let (tuned, out) = (tuned(&base, name), folder.path().join("out.safetensors"));
        let from = &*base.source;
        let done =
            extract(from, &tuned, &base.dictionary, &out, &options(), &|_, _| Ok(())).unwrap();
        assert!(done.components.iter().all(|part| part.energy > 1.0 - 1e-6), "{done:?}");
        assert!(done.left_out.is_empty(), "{done:?}");
        let found = base.load(&out).unwrap();
        assert_eq!(sites(&found), tuned.changed_sites().cloned().collect::<Vec<_>>());
        let mut worst = 0f32;
        for site in found.sites() {
            let change = found.change(from, &site, 1.0).unwrap().unwrap();
            let (before, after) = (base.weight(&site), weight(&tuned, &site));
            let wanted: Vec<f32> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
            worst = worst.max(distance(&change, &wanted));
        }
        println!("{name}: planted ranks are found to {worst:.1e}");
        assert!(worst < 1e-4, "{name}: {worst:e}");
    }
}

fn weight(source: &dyn WeightSource, site: &Site) -> Vec<f32> {
    source.get_f32(site, &source.shape(site).unwrap()).unwrap()
}

#[test]
fn norms_and_biases_are_kept_or_reported() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let (tuned, out) = (tuned(&base, "sd15-lyco-full"), folder.path().join("out.safetensors"));
    let from = &*base.source;
    let done = extract(from, &tuned, &base.dictionary, &out, &options(), &|_, _| Ok(())).unwrap();
    assert!(done.whole == 0 && !done.left_out.is_empty(), "{done:?}");
    let whole = ExtractOptions { full_norms: true, rank: 64, conv_rank: 64, ..options() };
    let done = extract(from, &tuned, &base.dictionary, &out, &whole, &|_, _| Ok(())).unwrap();
    assert!(done.whole > 0 && done.left_out.is_empty(), "{done:?}");
    let found = base.load(&out).unwrap();
    assert_eq!(sites(&found), tuned.changed_sites().cloned().collect::<Vec<_>>());
    let none = extract(from, from, &base.dictionary, &out, &options(), &|_, _| Ok(())).unwrap_err();
    assert!(none.to_string().contains("do not differ"), "{none}");
}

#[test]
fn resizing_keeps_what_it_says() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let lora = base.load(&zoo("good/sd15-kohya.safetensors")).unwrap();
    let out = folder.path().join("out.safetensors");
    let precision = Some(FileDtype::F32);
    let cancel = Cancel::new();
    let options = |rank, energy| ResizeOptions {
        rank,
        energy,
        precision,
        force: true,
        cancel: cancel.clone(),
    };
    let done = resize(&lora, &base.dictionary, &out, &options(None, Some(1.0))).unwrap();
    assert!(done.modules.iter().all(|row| row.new <= row.old && row.energy > 1.0 - 1e-9));
    for (rank, energy) in [(Some(1), None), (None, Some(0.7)), (Some(2), Some(0.9))] {
        let done = resize(&lora, &base.dictionary, &out, &options(rank, energy)).unwrap();
        let small = base.load(&out).unwrap();
        assert_eq!(small.sites(), lora.sites());
        for row in &done.modules {
            assert!(rank.is_none_or(|rank| row.new <= rank), "{row:?}");
            assert!(rank.is_some() || row.energy >= energy.unwrap() - 1e-9, "{row:?}");
            let site = Site::new(format!("{}.weight", row.module));
            let change =
                |l: &colora::lora::Lora| l.change(&*base.source, &site, 1.0).unwrap().unwrap();
            let (before, after) = (change(&lora), change(&small));
            let square = |v: &f32| f64::from(*v).powi(2);
            let lost: f64 = before.iter().zip(&after).map(|(b, a)| square(&(b - a))).sum();
            let share = 1.0 - lost / before.iter().map(square).sum::<f64>();
            assert!((share - row.energy).abs() < 1e-5, "{row:?} keeps {share}");
        }
    }
    let loha = base.load(&zoo("good/sd15-lyco-loha.safetensors")).unwrap();
    let error = resize(&loha, &base.dictionary, &out, &options(Some(2), None)).unwrap_err();
    assert!(error.to_string().contains("LoHa"), "{error}");
}

#[test]
fn what_is_cancelled_leaves_nothing() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let path = zoo("good/sd15-kohya.safetensors");
    let out = folder.path().join("out.safetensors");
    let cancel = Cancel::new();
    cancel.cancel();
    let lora = || base.load(&path).unwrap();
    let options = ResizeOptions {
        rank: Some(1),
        energy: None,
        precision: None,
        force: true,
        cancel: cancel.clone(),
    };
    let resized = resize(&lora(), &base.dictionary, &out, &options).map(drop);
    let entries = vec![StackEntry { lora: Arc::new(lora()), strength: Strength::default() }];
    let law = Law::Cat;
    let options =
        MergeOptions { law, precision: FileDtype::F32, force: true, cancel: cancel.clone() };
    let stack = LoraStack::new(entries);
    let merged = merge(&*base.source, &base.dictionary, &stack, &out, &options).map(drop);
    let options = ConvertOptions {
        format: Format::Kohya,
        component: None,
        precision: None,
        force: true,
        cancel: cancel.clone(),
    };
    let converted = convert(&lora(), &base.dictionary, &out, &options).map(drop);
    for done in [resized, merged, converted] {
        assert!(matches!(done, Err(colora::Error::Cancelled)), "{done:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
