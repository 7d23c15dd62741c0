//! Models that are damaged, incomplete or out of reach, from outside.

use super::support::copy_folder;
use super::world::{MODEL, World};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";
const COMMIT: &str = "0123456789012345678901234567890123456789";
const OTHER: &str = "abcdef0123456789012345678901234567890123";

/// Draws the model in `m`, quickly.
fn drawing<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let usual = ["-m", "m", "--size", "64x64", "-s", "1", "-S", "1", "-o", "x.png", "a cat"];
    [&usual[..], more].concat()
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let owned = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    all.into_iter().map(|(name, view)| (name, owned(view))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let view = |(dtype, shape, bytes)| TensorView::new(dtype, shape, bytes).unwrap();
    let views =
        tensors.iter().map(|(n, (dtype, shape, bytes))| (n, view((*dtype, shape.clone(), bytes))));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Changes the numbers of some tensors of a file.
fn change(path: &Path, of: &str, to: impl Fn(f32) -> f32, most: usize) -> usize {
    let mut tensors = read(path);
    let mut changed = 0;
    for (dtype, _, bytes) in tensors.iter_mut().filter(|(n, _)| n.ends_with(of)).map(|(_, t)| t) {
        assert!(matches!(*dtype, Dtype::F32 | Dtype::F16), "{dtype:?}");
        let halves: Vec<f32> = bytes
            .chunks_exact(2)
            .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect();
        let mut values: Vec<f32> = match dtype {
            Dtype::F16 => halves,
            _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        values.iter_mut().take(most).for_each(|value| *value = to(*value));
        *dtype = Dtype::F32;
        *bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        changed += 1;
    }
    write(path, &tensors);
    changed
}

/// One infinite weight of a VAE was blamed on f32 while f32 was running, without a file.
#[test]
fn weights_that_are_no_numbers_are_found() {
    let world = World::new();
    let bad: [(&str, &str, f32); 6] = [
        (VAE, "decoder.conv_in.weight", f32::INFINITY),
        (VAE, "decoder.conv_out.bias", f32::NEG_INFINITY),
        (UNET, "mid_block.attentions.0.proj_in.weight", f32::NAN),
        (UNET, "time_embedding.linear_1.bias", f32::INFINITY),
        (TEXT, "encoder.layers.0.self_attn.k_proj.weight", f32::NAN),
        (TEXT, "final_layer_norm.weight", f32::INFINITY),
    ];
    for (file, tensor, number) in bad {
        for type_of_numbers in ["f32", "bf16"] {
            copy_folder(Path::new(MODEL), &world.path("m"));
            assert_eq!(change(&world.path("m").join(file), tensor, |_| number, 2), 1);
            let error = world.fail(3, &drawing(&["--dtype", type_of_numbers]));
            assert!(error.contains(&format!("m/{file}: `")), "{error}");
            assert!(error.contains(&format!("{tensor}` is not finite: 2 of ")), "{error}");
            assert!(!error.contains("use f32"), "{error}");
        }
    }
    // As --vae, and in several tensors.
    copy_folder(Path::new(MODEL), &world.path("m"));
    copy_folder(&Path::new(MODEL).join("vae"), &world.path("v"));
    let file = world.path("v/diffusion_pytorch_model.safetensors");
    let count = change(&file, "norm1.weight", |_| f32::NAN, 1);
    let error = world.fail(3, &drawing(&["--vae", "v"]));
    assert!(error.contains("v/diffusion_pytorch_model.safetensors: `"), "{error}");
    assert!(error.contains(&format!("as in {} more tensors", count - 1)), "{error}");
    assert_eq!(world.files(), ["m", "v"]);
}

/// Numbers that are fine each and too large together: the part, and the adapters that acted, are said.
#[test]
fn parts_that_overflow_are_named() {
    let world = World::new();
    copy_folder(Path::new(MODEL), &world.path("m"));
    let vae = world.path("m").join(VAE);
    change(&vae, "decoder.conv_in.weight", |v| v * 1e38, usize::MAX);
    change(&vae, "decoder.conv_out.weight", |v| v * 1e38, usize::MAX);
    change(&vae, "decoder.conv_norm_out.weight", |v| v * 1e30, usize::MAX);
    let error = world.fail(3, &drawing(&[]));
    assert!(error.contains("the VAE overflowed in f32"), "{error}");
    assert!(error.contains("no LoRA was active") && error.contains("m/vae/"), "{error}");
    let error = world.fail(5, &drawing(&["--dtype", "bf16"]));
    assert!(error.contains("the VAE") && error.contains("--dtype f32"), "{error}");
    // A LoRA of finite numbers that sends the UNet beyond f32.
    copy_folder(Path::new(MODEL), &world.path("m"));
    let mut lora = Tensors::new();
    for (name, (_, shape, _)) in read(&world.path("m").join(UNET)) {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        if !module.ends_with("attn1.to_v") && !module.ends_with("attn1.to_out.0") {
            continue;
        }
        let ones =
            |count: usize| vec![1e18f32; count].iter().flat_map(|v| v.to_le_bytes()).collect();
        let stem = format!("lora_unet_{}", module.replace('.', "_"));
        let (out, inner) = (shape[0], shape[1]);
        lora.insert(format!("{stem}.lora_up.weight"), (Dtype::F32, vec![out, 1], ones(out)));
        lora.insert(format!("{stem}.lora_down.weight"), (Dtype::F32, vec![1, inner], ones(inner)));
    }
    write(&world.path("huge.safetensors"), &lora);
    let error = world
        .fail(3, &drawing(&["--lora", "./huge.safetensors:2", "--lora", "./huge.safetensors:0.5"]));
    assert!(error.contains("the UNet overflowed in f32"), "{error}");
    assert!(
        error.contains("huge.safetensors:2") && error.contains("huge.safetensors:0.5"),
        "{error}"
    );
    // Where the model's own weight is none, no adapter is to blame for the sum.
    change(&world.path("m").join(UNET), "attn1.to_v.weight", |_| f32::NAN, 1);
    for memory in [&[][..], &["--low-memory"]] {
        let lora = ["--lora", "./huge.safetensors:0.01"];
        let error = world.fail(3, &drawing(&[&lora[..], memory].concat()));
        assert!(error.contains(&format!("m/{UNET}: `")) && error.contains("to_v"), "{error}");
    }
}

/// A cut merges.txt drew another picture and ended with 0.
#[test]
fn cut_vocabularies_are_refused() {
    let world = World::new();
    copy_folder(Path::new(MODEL), &world.path("m"));
    let merges = world.path("m/tokenizer/merges.txt");
    let text = fs::read_to_string(&merges).unwrap();
    for kept in [1, 2, 200, 486] {
        let lines: Vec<&str> = text.lines().take(kept).collect();
        fs::write(&merges, lines.join("\n")).unwrap();
        let error = world.fail(3, &drawing(&[]));
        assert!(error.contains("m/tokenizer/merges.txt: no merge makes"), "{error}");
    }
    fs::write(&merges, text.trim_end()).unwrap();
    world.run(&drawing(&[]));
    // Another model's vocabulary.
    let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/starter/tokenizer");
    copy_folder(&starter, &world.path("m/tokenizer"));
    let error = world.fail(3, &drawing(&["--force"]));
    assert!(error.contains("m/tokenizer: ") && error.contains("do not belong together"), "{error}");
}

/// A repository of the shared cache, as it lies there.
struct Cached<'a> {
    world: &'a World,
    folder: PathBuf,
}

impl<'a> Cached<'a> {
    fn new(world: &'a World, name: &str) -> Self {
        let hub = world.path(".home/huggingface/hub");
        let folder = hub.join(format!("models--{}", name.replace('/', "--")));
        Self { world, folder }
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    fn refer(&self, commit: &str) {
        fs::create_dir_all(self.folder.join("refs")).unwrap();
        fs::write(self.folder.join("refs/main"), commit).unwrap();
    }

    fn fail(&self, more: &[&str], code: i32) -> String {
        let usual = ["--size", "64x64", "-s", "1", "-o", "x.png", "a cat"];
        let mut command = self.world.command(&[&usual[..], more].concat());
        // Without a network, whatever was built.
        command.env("HF_HUB_OFFLINE", "1");
        super::world::failed(&command.output().unwrap(), code)
    }
}

/// Whatever was wrong with a cached repository, the words were that downloads are not supported.
#[test]
fn cached_models_say_what_they_lack() {
    let world = World::new();
    let cached = Cached::new(&world, "me/a");
    let snapshot = cached.snapshot(COMMIT);
    copy_folder(Path::new(MODEL), &snapshot);
    let model = ["-m", "hub:me/a"];
    // Downloaded by its commit: there is no ref.
    let usual = ["-m", "hub:me/a", "--size", "64x64", "-s", "1", "-o", "x.png", "a cat"];
    let output = world.command(&usual).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(&format!("commit {COMMIT}")), "{said}");
    fs::remove_file(world.path("x.png")).unwrap();
    assert!(world.run(&["model", "list"]).contains("hub:me/a"));
    let error = cached.fail(&["-m", "hub:me/a@v2"], 4);
    assert!(
        error.contains("refs/v2 is missing") && error.contains(&format!("hub:me/a@{COMMIT}")),
        "{error}"
    );
    // Two, and none is the one.
    copy_folder(Path::new(MODEL), &cached.snapshot(OTHER));
    let error = cached.fail(&model, 4);
    assert!(
        error.contains("refs/main is missing") && error.contains(&format!("hub:me/a@{OTHER}")),
        "{error}"
    );
    fs::remove_dir_all(cached.snapshot(OTHER)).unwrap();
    // A ref to what is not there.
    cached.refer(OTHER);
    let error = cached.fail(&model, 4);
    assert!(error.contains("refs/main names a snapshot that is not there"), "{error}");
    assert!(error.contains(OTHER) && error.contains(&format!("hub:me/a@{COMMIT}")), "{error}");
    // Missing files.
    cached.refer(COMMIT);
    for file in ["unet/config.json", UNET, "tokenizer/merges.txt", "model_index.json"] {
        fs::remove_file(snapshot.join(file)).unwrap();
        let error = cached.fail(&model, 4);
        assert!(error.contains(&format!("lacks `{file}`")) && error.contains(COMMIT), "{error}");
        fs::copy(Path::new(MODEL).join(file), snapshot.join(file)).unwrap();
    }
    // Another spelling.
    let error = cached.fail(&["-m", "hub:Me/A"], 4);
    assert!(error.contains("the cache has `hub:me/a`"), "{error}");
    let error = cached.fail(&["-m", "hub:me/a/unet/confg.json"], 4);
    assert!(error.contains("lacks `unet/confg.json`; did you mean `unet/config.json`"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_to_deleted_blobs_are_named() {
    let world = World::new();
    let cached = Cached::new(&world, "me/a");
    let snapshot = cached.snapshot(COMMIT);
    copy_folder(Path::new(MODEL), &snapshot);
    cached.refer(COMMIT);
    for file in [VAE, "vae/config.json", "scheduler/scheduler_config.json"] {
        fs::remove_file(snapshot.join(file)).unwrap();
        std::os::unix::fs::symlink("../../../blobs/feed", snapshot.join(file)).unwrap();
        let error = cached.fail(&["-m", "hub:me/a"], 4);
        assert!(error.contains(&format!("lacks `{file}` (a link to the blob feed")), "{error}");
        fs::remove_file(snapshot.join(file)).unwrap();
        fs::copy(Path::new(MODEL).join(file), snapshot.join(file)).unwrap();
    }
}

#[test]
fn the_loras_of_a_repository_can_be_chosen() {
    let world = World::new();
    let cached = Cached::new(&world, "me/lora");
    let snapshot = cached.snapshot(COMMIT);
    copy_folder(Path::new(MODEL), &world.path("m"));
    fs::create_dir_all(&snapshot).unwrap();
    cached.refer(COMMIT);
    let error = cached.fail(&["-m", "m", "--lora", "hub:me/lora"], 4);
    assert!(error.contains("neither a LoRA of a known name nor a .safetensors file"), "{error}");
    for name in ["a.safetensors", "b.safetensors"] {
        fs::write(snapshot.join(name), "").unwrap();
    }
    let error = cached.fail(&["-m", "m", "--lora", "hub:me/lora"], 4);
    let choice = "pass one of hub:me/lora/a.safetensors, hub:me/lora/b.safetensors";
    assert!(error.contains("no LoRA named `hub:me/lora`") && error.contains(choice), "{error}");
    let error = cached.fail(&["-m", "m", "--lora", "hub:me/lora/b.safetensors"], 3);
    assert!(error.contains("b.safetensors: the file is empty"), "the path works: {error}");
}

/// A folder that cannot be read was an empty one, and a model without its parts.
#[cfg(unix)]
#[test]
fn folders_that_cannot_be_read_are_not_empty() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;
    let world = World::new();
    // A loop cannot be read by anybody, not even by root.
    symlink("loras", world.path("loras")).unwrap();
    symlink("models", world.path("models")).unwrap();
    let output = world.command(&["lora", "list"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot access ./loras: ") && !said.contains("no LoRAs yet"), "{said}");
    copy_folder(Path::new(MODEL), &world.path("m"));
    let error = world.fail(4, &drawing(&["--lora", "ink"]));
    assert!(
        error.contains("no LoRA named `ink`") && error.contains("cannot access ./loras"),
        "{error}"
    );
    let error = world.fail(4, &["-m", "fox", "x"]);
    assert!(error.contains("cannot access ./models"), "{error}");
    let error = world.fail(3, &["-m", "./models", "x"]);
    assert!(error.contains("cannot access ./models"), "{error}");
    for part in ["unet", "text_encoder", "vae", "scheduler"] {
        let folder = world.path("m").join(part);
        fs::remove_dir_all(&folder).unwrap();
        symlink(part, &folder).unwrap();
        let error = world.fail(3, &drawing(&[]));
        assert!(error.contains(&format!("cannot access m/{part}/")), "{error}");
        fs::remove_file(&folder).unwrap();
        copy_folder(&Path::new(MODEL).join(part), &folder);
    }
    // Who is root reads what may not be read.
    let unet = world.path("m/unet");
    fs::set_permissions(&unet, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read_dir(&unet).is_ok() {
        println!("skipped: this user reads every folder");
    } else {
        let error = world.fail(3, &drawing(&[]));
        assert!(error.contains("cannot access m/unet/config.json"), "{error}");
    }
    fs::set_permissions(&unet, fs::Permissions::from_mode(0o755)).unwrap();
}
