//! A model, its LoRAs in a folder of their own, and what is asked of them.

use super::faults::Random;
use super::support::{draw, golden};
use colora::lora::{Apply, LoraRef, Method};
use colora::pipeline::Options;
use colora::{Picture, Pipeline, Request, Sampler};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Requests of a world.
const REQUESTS: usize = 28;

pub struct World {
    model: Option<PathBuf>,
    folder: TempDir,
    /// The LoRA that is replaced, in both forms.
    forms: [Vec<u8>; 2],
    form: usize,
    pub requests: Vec<Request>,
    /// Pictures of fresh pipelines, by request and form.
    pictures: HashMap<(usize, usize), Picture>,
}

/// The file that is replaced.
const REPLACED: &str = "replaced.safetensors";

impl World {
    /// The tests' smallest SD 1.5, with adapters of many kinds.
    pub fn tiny() -> Self {
        let names = [
            "kohya",
            "lyco-locon",
            "lyco-loha",
            "lyco-lokr",
            "lyco-dora-out",
            "lyco-oft",
            "peft",
            "lyco-ia3-input",
            "bundle",
            "lyco-full",
            "diff",
        ];
        let zoo = golden("../zoo/good");
        let files = names.map(|name| zoo.join(format!("sd15-{name}.safetensors")));
        Self::new(Some(golden("sd15")), &files, 64)
    }

    /// The model inside of the program, with the LoRAs beside it.
    pub fn starter() -> Self {
        let loras = golden("../../loras");
        let files =
            ["gold", "flat", "santa", "wizard"].map(|n| loras.join(format!("{n}.safetensors")));
        Self::new(None, &files, 64)
    }

    fn new(model: Option<PathBuf>, files: &[PathBuf], side: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut names = vec![folder.path().join(REPLACED)];
        for file in &files[1..] {
            names.push(folder.path().join(file.file_name().unwrap()));
            std::fs::copy(file, names.last().unwrap()).unwrap();
        }
        let first = std::fs::read(&files[0]).unwrap();
        let forms = [first.clone(), turned(first)];
        std::fs::write(&names[0], &forms[0]).unwrap();
        let mut random = Random(0xca7);
        let requests = (0..REQUESTS).map(|i| request(i, &names, side, &mut random)).collect();
        Self { model, folder, forms, form: 0, requests, pictures: HashMap::new() }
    }

    pub fn open(&self, options: Options) -> Pipeline {
        match &self.model {
            Some(model) => options.open(model).unwrap(),
            None => options.open_starter().unwrap(),
        }
    }

    /// A request that uses the file that is replaced, and nothing else.
    pub fn replaced(&self) -> usize {
        let alone = |request: &Request| request.loras.len() == 1 && uses_replaced(request);
        self.requests.iter().position(alone).unwrap()
    }

    /// Puts the other form of a LoRA in the place of the one that is there; both are as long.
    pub fn replace(&mut self, by_rename: bool) {
        self.form = 1 - self.form;
        let (path, bytes) = (self.folder.path().join(REPLACED), &self.forms[self.form]);
        if by_rename {
            let new = self.folder.path().join("new");
            std::fs::write(&new, bytes).unwrap();
            std::fs::rename(new, path).unwrap();
        } else {
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// What a fresh pipeline draws.
    pub fn picture(&mut self, wanted: usize, options: Options) -> Picture {
        let request = &self.requests[wanted];
        let form = if uses_replaced(request) { self.form } else { 0 };
        if let Some(picture) = self.pictures.get(&(wanted, form)) {
            return picture.clone();
        }
        let picture = draw(&self.open(options), request);
        if let Some(other) = self.pictures.get(&(wanted, 1 - form)) {
            assert!(other.bytes() != picture.bytes(), "the replaced LoRA does nothing");
        }
        self.pictures.insert((wanted, form), picture.clone());
        picture
    }
}

/// Request `index` of a world.
fn request(index: usize, loras: &[PathBuf], side: usize, random: &mut Random) -> Request {
    let count = if index == 0 { 0 } else { 1 + index % 3 };
    let one = |i: usize, random: &mut Random| {
        let place = if i == 0 && index % 4 == 3 { 0 } else { random.below(loras.len()) };
        let mut lora = LoraRef::new(loras[place].to_str().unwrap());
        lora.unet = Some([0.3, 0.7, 1.0, -0.5][random.below(4)]);
        lora.text = lora.unet;
        lora
    };
    let loras = (0..count).map(|i| one(i, random)).collect();
    let methods = [Method::Sum, Method::Sum, Method::Sequential, Method::Composite];
    Request {
        prompt: ["a cat", "a red apple", "cat in a hat"][random.below(3)].into(),
        negative_prompt: ["", "blurry"][random.below(2)].into(),
        width: Some(side),
        height: Some([side, side / 2][random.below(2)]),
        steps: Some(1),
        guidance_scale: Some([1.0, 5.0][random.below(2)]),
        sampler: Some(Sampler::Euler),
        seed: Some(index as u64),
        tile: Some(random.below(4) == 0),
        loras,
        lora_method: methods[random.below(methods.len())],
        apply: [Apply::Auto, Apply::Merge, Apply::Bypass][random.below(3)],
        ..Request::default()
    }
}

/// The same file with the numbers of every second factor turned: another LoRA, as long to the byte.
fn turned(mut bytes: Vec<u8>) -> Vec<u8> {
    let start = bytes.as_ptr() as usize;
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut places = Vec::new();
    for (name, tensor) in file.tensors().into_iter().filter(|(name, _)| name.contains("up")) {
        let data = tensor.data();
        let size = data.len() / tensor.shape().iter().product::<usize>();
        let first = data.as_ptr() as usize - start;
        assert!(size == 2 || size == 4, "{name}");
        places.extend((0..data.len() / size).map(|i| first + i * size + size - 1));
    }
    assert!(!places.is_empty());
    for place in places {
        bytes[place] ^= 0x80;
    }
    bytes
}

/// Whether a request uses the file that is replaced.
fn uses_replaced(request: &Request) -> bool {
    request.loras.iter().any(|lora| Path::new(&lora.name).ends_with(REPLACED))
}
