//! Conversions give the same tensors under other names, there and back.

use super::zoo::{Base, Row, changes, contents, distance, files, zoo};
use colora::lora::write::{ConvertOptions, FileDtype, Format, convert};
use colora::{Cancel, Fault};
use std::collections::BTreeMap;
use std::path::Path;

fn options(format: Format) -> ConvertOptions {
    ConvertOptions { format, component: None, precision: None, force: false, cancel: Cancel::new() }
}

/// Converts and says whether the format can hold the file.
fn to(base: &Base, from: &Path, out: &Path, options: &ConvertOptions) -> bool {
    let lora = base.load(from).unwrap();
    match convert(&lora, &base.dictionary, out, options) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.fault(), Fault::Unsupported, "{}: {error}", from.display());
            assert!(error.to_string().contains("in the format"), "{error}");
            false
        }
    }
}

/// The same tensors, bit by bit.
fn same(found: &[Row], expected: &[Row]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(found == expected, "{found:?} instead of {expected:?}");
    }
}

/// kohya → diffusers → kohya, and kohya → PEFT's folders → kohya; whether either was possible.
fn there_and_back(base: &Base, kohya: &Path, folder: &Path) -> (bool, bool) {
    let mut original = contents(kohya);
    // Neither grammar has words.
    original.retain(|(name, ..)| !name.starts_with("bundle_emb."));
    let diffusers = folder.join("diffusers.safetensors");
    let there = to(base, kohya, &diffusers, &options(Format::Diffusers));
    if there {
        let back = folder.join("back.safetensors");
        assert!(to(base, &diffusers, &back, &options(Format::Kohya)));
        same(&contents(&back), &original);
    }
    let lora = base.load(kohya).unwrap();
    let mut parts: Vec<&str> = lora.modules().map(|m| m.split('.').next().unwrap()).collect();
    parts.dedup();
    let mut joined = Vec::new();
    let mut whole = true;
    for part in parts {
        let peft = folder.join(part);
        let component = Some(part.to_owned());
        if !to(base, kohya, &peft, &ConvertOptions { component, ..options(Format::Peft) }) {
            whole = false;
            continue;
        }
        let back = folder.join(format!("{part}.safetensors"));
        assert!(to(base, &peft, &back, &options(Format::Kohya)));
        joined.extend(contents(&back));
    }
    joined.sort_by(|a, b| a.0.cmp(&b.0));
    if whole {
        same(&joined, &original);
    }
    (there, whole)
}

#[test]
fn low_rank_files_survive_every_grammar() {
    let bases = ["sd15", "sd2", "sdxl"].map(|name| (name, Base::named(name)));
    let bases = BTreeMap::from(bases);
    let (mut tried, mut diffusers, mut peft) = (0, 0, 0);
    for (name, file, base) in files(&["lora", "locon", "dora", "dora-in", "dora-out"]) {
        let folder = tempfile::tempdir().unwrap();
        let kohya = folder.path().join("kohya.safetensors");
        let base = &bases[base.as_str()];
        let lora = base.load(&file).unwrap();
        if convert(&lora, &base.dictionary, &kohya, &options(Format::Kohya)).is_err() {
            assert!(name.contains("embedding"), "{name} cannot be written");
            continue;
        }
        for (site, change) in changes(&base.load(&kohya).unwrap(), base) {
            let before = lora.change(&*base.source, &site, 1.0).unwrap().unwrap();
            let error = distance(&change, &before);
            assert!(error < 1e-6, "{name}: {site} differs by {error:e}");
        }
        let (there, whole) = there_and_back(base, &kohya, folder.path());
        tried += 1;
        diffusers += usize::from(there);
        peft += usize::from(whole);
    }
    println!("{tried} files; diffusers holds {diffusers}, peft {peft}");
    assert!(tried > 100 && diffusers > 80 && peft > 80, "{tried}, {diffusers}, {peft}");
}

#[test]
fn kohya_files_become_themselves() {
    for (name, base) in [("sd15-kohya", "sd15"), ("sd2-kohya", "sd2"), ("sdxl-kohya", "sdxl")] {
        let folder = tempfile::tempdir().unwrap();
        let (base, file) = (Base::named(base), zoo(&format!("good/{name}.safetensors")));
        let out = folder.path().join("out.safetensors");
        assert!(to(&base, &file, &out, &options(Format::Kohya)));
        assert!(contents(&out) == contents(&file), "{name}");
        let (old, new) = (base.load(&file).unwrap(), base.load(&out).unwrap());
        for (key, value) in old.file().metadata().iter().filter(|(key, _)| key.starts_with("ss_")) {
            assert_eq!(new.file().metadata().get(key), Some(value));
        }
        assert_eq!(new.file().metadata()["colora.operation"], "convert to kohya");
    }
}

#[test]
fn every_kind_is_held_by_kohya_or_refused_by_name() {
    let bases = ["sd15", "sd2", "sdxl"].map(|name| (name, Base::named(name)));
    let bases = BTreeMap::from(bases);
    let kinds = [
        "loha",
        "lokr",
        "glora",
        "ia3",
        "oft",
        "boft",
        "oft-rescaled",
        "full",
        "norm",
        "set",
        "mixed",
        "embedding",
    ];
    let (mut held, mut refused) = (0, Vec::new());
    for (name, file, base) in files(&kinds) {
        let folder = tempfile::tempdir().unwrap();
        let (base, out) = (&bases[base.as_str()], folder.path().join("out.safetensors"));
        let lora = base.load(&file).unwrap();
        match convert(&lora, &base.dictionary, &out, &options(Format::Kohya)) {
            Ok(_) => {
                let again = base.load(&out).unwrap();
                assert_eq!(again.inversions().len(), lora.inversions().len(), "{name}");
                assert_eq!(again.sites(), lora.sites(), "{name}");
                for (site, change) in changes(&again, base) {
                    let before = lora.change(&*base.source, &site, 1.0).unwrap().unwrap();
                    let error = distance(&change, &before);
                    assert!(error < 1e-5, "{name}: {site} differs by {error:e}");
                }
                held += 1;
            }
            Err(error) => {
                assert_eq!(error.fault(), Fault::Unsupported, "{name}: {error}");
                refused.push(name);
            }
        }
    }
    println!("kohya holds {held}, refused: {refused:?}");
    assert!(refused.iter().all(|name| name.contains("peft")), "{refused:?}");
    assert!(held > 35, "{held}");
}

#[test]
fn other_kinds_are_no_files_of_diffusers() {
    let base = Base::named("sd15");
    for (name, word) in [("lyco-loha", "LoHa"), ("lyco-lokr", "LoKr"), ("lyco-norm", "w_norm")] {
        let folder = tempfile::tempdir().unwrap();
        let lora = base.load(&zoo(&format!("good/sd15-{name}.safetensors"))).unwrap();
        let out = folder.path().join("out.safetensors");
        let options = options(Format::Diffusers);
        let error = convert(&lora, &base.dictionary, &out, &options).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("diffusers"), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn precision_and_components_are_chosen() {
    let (base, folder) = (Base::named("sd15"), tempfile::tempdir().unwrap());
    let lora = base.load(&zoo("good/sd15-kohya.safetensors")).unwrap();
    let out = folder.path().join("out.safetensors");
    let precision = Some(FileDtype::F32);
    let half = ConvertOptions { precision, ..options(Format::Kohya) };
    convert(&lora, &base.dictionary, &out, &half).unwrap();
    assert!(contents(&out).iter().all(|(_, dtype, ..)| dtype.is_empty() || dtype == "F32"));
    let again = convert(&lora, &base.dictionary, &out, &half).unwrap_err();
    assert!(again.to_string().contains("`force`"), "{again}");
    let peft = folder.path().join("peft");
    let error = convert(&lora, &base.dictionary, &peft, &options(Format::Peft)).unwrap_err();
    assert!(error.to_string().contains("`component`"), "{error}");
    assert!(!peft.exists());
    let component = Some("vae".to_owned());
    let wrong = ConvertOptions { component, ..options(Format::Peft) };
    let error = convert(&lora, &base.dictionary, &peft, &wrong).unwrap_err();
    assert!(error.to_string().contains("text_encoder, unet"), "{error}");
}
