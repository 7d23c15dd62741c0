//! Names, shapes and headers of adapter files.

use crate::adapters::{Base, Tensors, close, expected, numbers, refused, says, trust, zoo};
use crate::world::World;
use colora::lora::AdapterFile;
use colora::lora::ReadOptions;
use std::sync::Arc;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sd15");
/// A module of the tiny base, 8 by 8, in diffusers' spelling.
const TO_Q: &str = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";

/// A LoRA of rank 4 for that module.
fn lora(prefix: &str) -> Tensors {
    let key = |end: &str| format!("{prefix}.{end}.weight");
    Tensors::default().floats(&key("lora_A"), &[4, 8], &numbers(32, 1)).floats(
        &key("lora_B"),
        &[8, 4],
        &numbers(32, 2),
    )
}

/// LoRAs of networks that were compiled, spread over cards or saved under their name twice fitted nothing.
#[test]
fn wrappers_in_names_are_left_out() {
    let (base, expected) = (Base::open("sd15"), expected("lora-wrapper-prefixes"));
    for name in ["compiled", "compiled-kohya", "doubled-unet", "parallel", "parallel-outside"] {
        let lora = base.read_file(&trust(&format!("lora-wrapper-prefixes/{name}.safetensors")));
        let changes = base.changes(&lora.unwrap());
        assert_eq!(changes.len(), expected.len(), "{name}");
        for (site, change) in &expected {
            close(name, &changes[site], change, 1e-6);
        }
    }
}

/// Every wrapper at every place before the path, dotted and flattened, for every kind and component.
#[test]
fn wrapped_names_of_every_kind_do_what_plain_ones_do() {
    let dotted =
        ["unet.", "text_encoder_2.", "text_encoder.", "diffusion_model.", "model.diffusion_model."];
    let flat = ["lora_unet_", "lora_te1_", "lora_te2_", "lora_te_"];
    let after = |key: &str, prefixes: &[&str], wrapper: &str| {
        let prefix = prefixes.iter().find(|prefix| key.starts_with(**prefix)).unwrap();
        format!("{prefix}{wrapper}{}", &key[prefix.len()..])
    };
    let twice = |key: &str| {
        let prefix = dotted.iter().find(|prefix| key.starts_with(**prefix)).unwrap();
        format!("{prefix}{key}")
    };
    let inside = |key: &str| {
        let inner = key.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._orig_mod.");
        inner.replace(".lora", "._orig_mod.lora")
    };
    type Rename<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let for_dotted: [Rename<'_>; 9] = [
        Box::new(|key| after(key, &dotted, "_orig_mod.")),
        Box::new(|key| after(key, &dotted, "module.")),
        Box::new(|key| after(key, &dotted, "_fsdp_wrapped_module.")),
        Box::new(|key| after(key, &dotted, "module._orig_mod.")),
        Box::new(|key| format!("module.{key}")),
        Box::new(|key| format!("_orig_mod.module.{key}")),
        Box::new(twice),
        Box::new(|key| format!("module.{}", twice(key))),
        Box::new(inside),
    ];
    let for_flat: [Rename<'_>; 5] = [
        Box::new(|key| key.replacen("lora_unet_", "lora_unet_unet_", 1)),
        Box::new(|key| after(key, &flat, "_orig_mod_")),
        Box::new(|key| after(key, &flat, "module_")),
        Box::new(|key| after(key, &flat, "_fsdp_wrapped_module_")),
        Box::new(|key| after(key, &flat, "module__orig_mod_")),
    ];
    let files = [
        ("sd15", "sd15-peft-dora", &for_dotted[..]),
        ("sd15", "sd15-dotted", &for_dotted),
        ("sdxl", "sdxl-peft", &for_dotted),
        ("sd15", "sd15-comfy", &for_dotted),
        ("sd15", "sd15-lyco-loha", &for_flat),
        ("sd15", "sd15-lyco-lokr", &for_flat),
        ("sdxl", "sdxl-kohya", &for_flat),
    ];
    for (base, name, renames) in files {
        let (base, tensors) = (Base::open(base), Tensors::open(&zoo(name)));
        let known = |key: &str| dotted.iter().chain(&flat).any(|prefix| key.starts_with(prefix));
        let plain = base.read_tensors(&tensors).unwrap();
        for (i, rename) in renames.iter().enumerate() {
            let wrapped =
                tensors.renamed(|key| if known(key) { rename(key) } else { key.to_owned() });
            let lora = base.read_tensors(&wrapped).unwrap_or_else(|e| panic!("{name} {i}: {e}"));
            assert_eq!(lora.report().unmatched.len(), plain.report().unmatched.len(), "{name} {i}");
            assert_eq!(base.changes(&lora), base.changes(&plain), "{name} {i}");
        }
    }
}

/// A name that stays unknown was shown whole, with no word on which piece of it was not understood.
#[test]
fn the_unknown_piece_of_a_name_is_named() {
    let base = Base::open("sd15");
    for (stem, piece) in [
        (TO_Q.replace("unet.", "unet.wrapper."), "`wrapper` in"),
        (TO_Q.replace("unet.", "wrapper.unet."), "`wrapper` in"),
        (TO_Q.replace("to_q", "to_z"), "`to_z` in"),
        (TO_Q.replace("unet.", "unet._orig_mod.shell."), "`shell` in"),
        (format!("lora_{}", TO_Q.replace("unet.", "unet_wrap_").replace('.', "_")), "`wrap` in"),
        ("unet.down_blocks.0".to_owned(), "no module in it"),
    ] {
        let error = refused(base.read_tensors(&lora(&stem))).to_string();
        says(&error, &["0 of 2 keys", piece]);
    }
}

/// A file whose alpha stands in its header alone acted twice as strongly as it was trained, without a word.
#[test]
fn alphas_of_headers_are_applied() {
    let (base, expected) = (Base::open("sd15"), expected("lora-alpha-in-metadata"));
    for name in ["plain", "component", "network"] {
        let lora = base.read_file(&trust(&format!("lora-alpha-in-metadata/{name}.safetensors")));
        let lora = lora.unwrap();
        assert!(lora.report().warnings.is_empty(), "{name}: {:?}", lora.report().warnings);
        for (site, change) in &expected {
            close(name, &base.change(&lora, site), change, 1e-6);
        }
    }
}

#[test]
fn alphas_of_headers_are_the_weakest_and_contradictions_are_named() {
    let (base, site) = (Base::open("sd15"), format!("{TO_Q}.weight"));
    let read = |tensors: &Tensors| base.read_tensors(tensors).unwrap();
    let plain = base.change(&read(&lora(TO_Q)), &site);
    let scaled = |tensors: &Tensors, scale: f32, words: &[&str]| {
        let lora = read(tensors);
        let expected: Vec<f32> = plain.iter().map(|v| v * scale).collect();
        close("scale", &base.change(&lora, &site), &expected, 1e-6);
        let warnings = lora.report().warnings.join("\n");
        assert_eq!(warnings.is_empty(), words.is_empty(), "{warnings}");
        says(&warnings, words);
    };
    let noted = |alpha: &str, r: &str| lora(TO_Q).note("lora_alpha", alpha).note("r", r);
    scaled(&noted("2", "4").note("use_rslora", "true"), 1.0, &[]);
    scaled(&noted("2", "4").floats(&format!("{TO_Q}.alpha"), &[], &[8.0]), 2.0, &[]);
    let settings = r#"{"unet.r": 4, "unet.lora_alpha": 16}"#;
    let both = noted("2", "4").note("lora_adapter_metadata", settings);
    scaled(&both, 4.0, &["2 in `lora_alpha`", "16 in `lora_adapter_metadata`", "latter"]);
    scaled(&noted("2", "8"), 0.5, &["8 in `r`", "rank 4", "scale 0.5"]);
    scaled(&noted("2", "4").note("network_alpha", "3"), 0.5, &["`network_alpha`", "former"]);
    scaled(&noted("two", "4"), 1.0, &["`lora_alpha`", "`two`"]);
    // kohya notes what it trained with, and keeps alphas in tensors.
    let kohya = lora(TO_Q).note("ss_network_alpha", "2").note("ss_network_dim", "4");
    scaled(&kohya, 1.0, &[]);
}

/// Adapters of unknown kinds were called full checkpoints, to be loaded with `--model`.
#[test]
fn unknown_endings_are_named() {
    let base = Base::open("sd15");
    for (file, words) in [
        ("left-right.safetensors", &["`…to_q` is known", "and `.lora_right.weight` are not"][..]),
        ("short.safetensors", &["`…to_q` is known", "`.down.weight`", "`.up.weight`"]),
    ] {
        let error = refused(base.read_file(&trust(&format!("lora-unknown-suffixes/{file}"))));
        assert_eq!(error.fault().exit_code(), 3);
        says(&error.to_string(), words);
        assert!(!error.to_string().contains("checkpoint"), "{error}");
    }
    let vera = Tensors::default()
        .floats(&format!("{TO_Q}.vera_lambda_b"), &[8], &numbers(8, 1))
        .floats(&format!("{TO_Q}.vera_lambda_d"), &[4], &numbers(4, 1));
    says(&refused(base.read_tensors(&vera)).to_string(), &["`.vera_lambda_b`", "are not"]);
    let norm = Tensors::default().floats(
        "base_model.model.down_blocks.0.resnets.0.norm1.weight",
        &[8],
        &numbers(8, 1),
    );
    let error = refused(base.read_tensors(&norm)).to_string();
    says(&error, &["`…norm1` is known, `.weight` holds a whole parameter"]);
    // Beside keys that are used it is a warning.
    let mixed = lora(TO_Q).floats(&format!("{TO_Q}.lora_C.weight"), &[4], &numbers(4, 1));
    let report = base.read_tensors(&mixed).unwrap().report().clone();
    says(&report.warnings.join("\n"), &["1 unmatched keys of 3", "`.lora_C.weight` is not"]);
}

/// A down factor without rows beside an up factor with columns was left out, and every key called used.
#[test]
fn ranks_of_zero_must_agree_and_are_named() {
    let base = Base::open("sd15");
    for name in ["rank0-beside-rank4", "rank0-huge"] {
        let error = refused(base.read_file(&trust(&format!("hostile/{name}.safetensors"))));
        assert_eq!(error.fault().exit_code(), 3, "{name}");
        says(&error.to_string(), &["shape", "[0, "]);
    }
    let huge = Tensors::default()
        .raw(&format!("{TO_Q}.lora_down.weight"), "F32", &[0, 1 << 62, 1 << 62], &[])
        .raw(&format!("{TO_Q}.lora_up.weight"), "F32", &[8, 0], &[]);
    says(&refused(base.read_tensors(&huge)).to_string(), &["shape"]);
    let report = base.read_file(&zoo("sd15-rank0")).unwrap().report().clone();
    says(&report.warnings.join("\n"), &["a module of rank 0 changes nothing: `"]);
}

/// Whole numbers under a factor's name were taken by value, with a norm of 36,291.
#[test]
fn factors_of_whole_numbers_are_refused() {
    let sd2 = Base::open("sd2");
    let error = refused(sd2.read_file(&trust("hostile/u16-factor.safetensors")));
    assert_eq!(error.fault().exit_code(), 3);
    says(&error.to_string(), &["out_proj.lora_down.weight", "U16", "expected floats"]);
    let base = Base::open("sd15");
    for (dtype, size) in [("I8", 1), ("U8", 1), ("I16", 2), ("U16", 2), ("I32", 4), ("I64", 8)] {
        let whole = lora(TO_Q).raw(
            &format!("{TO_Q}.lora_A.weight"),
            dtype,
            &[4, 8],
            &[1; 8 * 32][..size * 32],
        );
        says(&refused(base.read_tensors(&whole)).to_string(), &[dtype, "lora_A"]);
    }
    let word = Tensors::default().raw("bundle_emb.star", "I32", &[1, 32], &[1; 128]);
    says(&refused(base.read_tensors(&word)).to_string(), &["bundle_emb.star", "I32"]);
    // An alpha is a number, however it is stored.
    let alpha = lora(TO_Q).raw(&format!("{TO_Q}.alpha"), "I64", &[], &[2, 0, 0, 0, 0, 0, 0, 0]);
    let site = format!("{TO_Q}.weight");
    let half: Vec<f32> = base.change(&base.read_tensors(&lora(TO_Q)).unwrap(), &site);
    let half: Vec<f32> = half.iter().map(|v| v / 2.0).collect();
    close("alpha", &base.change(&base.read_tensors(&alpha).unwrap(), &site), &half, 1e-6);
}

/// A factor of shape [3, 3, 8, 3] was read as one of [3, 8, 3, 3].
#[test]
fn kernels_of_factors_are_the_weight_s() {
    let sd2 = Base::open("sd2");
    let error = refused(sd2.read_file(&trust("hostile/conv-kernel-shape.safetensors")));
    assert_eq!(error.fault().exit_code(), 3);
    says(&error.to_string(), &["[3, 3, 8, 3]", "shape"]);
    let base = Base::open("sd15");
    let conv = "lora_unet_down_blocks_0_resnets_0_conv1";
    let make = |down: (&str, &[usize]), up: (&str, &[usize])| {
        let count = |shape: &[usize]| shape.iter().product();
        Tensors::default()
            .floats(&format!("{conv}.{}", down.0), down.1, &numbers(count(down.1), 1))
            .floats(&format!("{conv}.{}", up.0), up.1, &numbers(count(up.1), 2))
    };
    let (down, up) = ("lora_down.weight", "lora_up.weight");
    for good in [
        make((down, &[2, 8, 3, 3]), (up, &[8, 2, 1, 1])),
        make((down, &[2, 72]), (up, &[8, 2])),
        make((down, &[2, 8, 1, 1]), (up, &[8, 2, 3, 3])),
        make(("lokr_w1", &[2, 2]), ("lokr_w2", &[4, 4, 3, 3])),
        make(("lokr_w1", &[2, 2]), ("lokr_w2", &[4, 36])),
    ] {
        base.read_tensors(&good).unwrap();
    }
    for bad in [
        make((down, &[2, 3, 8, 3]), (up, &[8, 2, 1, 1])),
        make((down, &[2, 72, 1, 1]), (up, &[8, 2, 1, 1])),
        make((down, &[2, 8, 9, 1]), (up, &[8, 2, 1, 1])),
        make((down, &[2, 8, 1, 1]), (up, &[8, 2, 9, 1])),
        make(("lokr_w1", &[2, 2]), ("lokr_w2", &[4, 3, 3, 4])),
    ] {
        says(&refused(base.read_tensors(&bad)).to_string(), &["shape", "conv1"]);
    }
}

/// Embeddings with infinite numbers passed the check and stopped the first picture.
#[test]
fn checking_reads_embeddings() {
    let world = World::new();
    let file = trust("hostile/embedding-inf.safetensors");
    let file = file.to_str().unwrap();
    for verb in ["check", "inspect"] {
        let error = world.fail(3, &["lora", verb, file, "-m", MODEL]);
        says(&error, &["embedding-inf.safetensors", "bundle_emb.", "infinite"]);
    }
    let base = Base::open("sd15");
    let lenient = ReadOptions { allow_nan: true, ..ReadOptions::default() };
    let adapter = AdapterFile::open(file).unwrap();
    let lora = colora::lora::Lora::resolve(adapter, &base.dictionary, lenient).unwrap();
    assert_eq!((lora.inversions().len(), lora.report().skipped.len()), (2, 1));
    says(&lora.report().warnings.join("\n"), &["words with numbers that are not finite"]);
}

/// Of several LoRAs with one layer in common nobody said which had overflowed.
#[test]
fn a_product_that_overflows_names_its_file() {
    let base = Base::open("sd15");
    let broken = base.read_file(&trust("hostile/product-not-finite.safetensors")).unwrap();
    let (broken, good) = (Arc::new(broken), Arc::new(base.read_file(&zoo("sd15-kohya")).unwrap()));
    for loras in [&[&broken][..], &[&good, &broken]] {
        let error = base.compose(loras).unwrap_err();
        assert_eq!(error.fault().exit_code(), 3);
        let text = error.to_string();
        says(&text, &["product-not-finite.safetensors", "the product of `", "not finite"]);
        assert!(!text.contains("sd15-kohya"), "{text}");
    }
}

/// What a user is told on a terminal, with the promised exit codes.
#[test]
fn the_words_on_a_terminal() {
    let world = World::new();
    let trust = |name: &str| trust(name).to_str().unwrap().to_owned();
    for (verb, file, words) in [
        (
            "check",
            "lora-wrapper-prefixes/compiled.safetensors",
            &["2 of 2 keys used, 1 weights"][..],
        ),
        ("inspect", "lora-alpha-in-metadata/plain.safetensors", &["scale     0.5"]),
        ("check", "oft-single-file/kohya.safetensors", &["1 of 1 keys used, 1 weights"]),
    ] {
        says(&world.run(&["lora", verb, &trust(file), "-m", MODEL]), words);
    }
    for (file, words) in [
        ("lora-unknown-suffixes/left-right.safetensors", &["`…to_q` is known"][..]),
        ("hostile/rank0-beside-rank4.safetensors", &["the ranks differ", "is damaged"]),
        ("hostile/rank0-huge.safetensors", &["[0, 4611686018427387904]"]),
    ] {
        for verb in ["check", "inspect"] {
            let error = world.fail(3, &["lora", verb, &trust(file), "-m", MODEL]);
            says(&error, words);
            assert!(!error.contains("another shape or family") || file.contains("huge"), "{error}");
            says(&error, &[file.rsplit('/').next().unwrap()]);
        }
    }
}
