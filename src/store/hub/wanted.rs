//! Which files of a repository make a model.

use super::super::cache::{CONFIG, STANDARD, WEIGHTS, form, is_index, is_weights};
use crate::weights::Component;

/// The files to download: a diffusers model without duplicates, or the only checkpoint.
pub(in super::super) fn model(all: &[String]) -> Result<Vec<String>, String> {
    if !all.iter().any(|f| f == "model_index.json") {
        return single(all);
    }
    let mut wanted: Vec<String> = all.iter().filter(|f| is_small_part(f)).cloned().collect();
    for component in Component::ALL {
        wanted.extend(weights(all, component.name()));
    }
    Ok(wanted)
}

/// The files of an adapter: under a standard name, or the only file of weights.
pub(in super::super) fn adapter(all: &[String]) -> Result<Vec<String>, String> {
    let has = |name: &str| all.iter().any(|f| f == name);
    if let Some(name) = STANDARD.iter().find(|name| has(name)) {
        let config = Some(CONFIG).filter(|config| name.starts_with("adapter_") && has(config));
        return Ok([*name].into_iter().chain(config).map(str::to_owned).collect());
    }
    if has("model_index.json") {
        return Err("the repository holds a model, not a LoRA; use it as the model".to_owned());
    }
    single(all)
}

fn is_small_part(file: &str) -> bool {
    match file.split_once('/') {
        None => file == "model_index.json",
        Some((folder, rest)) if rest.contains('/') => folder.is_empty(),
        Some(("scheduler" | "tokenizer" | "tokenizer_2", rest)) => {
            [".json", ".txt"].iter().any(|e| rest.ends_with(e))
        }
        Some((folder, rest)) => Component::named(folder).is_some() && rest == "config.json",
    }
}

/// The weights of `component` in the first form that exists, all parts and their index.
fn weights(all: &[String], component: &str) -> Vec<String> {
    let inside = |f: &&String| {
        let rest = f.strip_prefix(component).and_then(|f| f.strip_prefix('/'));
        rest.is_some_and(|rest| !rest.contains('/') && is_weights(rest))
    };
    let candidates: Vec<&String> = all.iter().filter(inside).collect();
    WEIGHTS
        .iter()
        .map(|ending| {
            candidates.iter().filter(|f| form(f) == *ending).map(|f| (*f).clone()).collect()
        })
        .find(|found: &Vec<String>| found.iter().any(|f| !is_index(f)))
        .unwrap_or_default()
}

fn single(all: &[String]) -> Result<Vec<String>, String> {
    let top = |f: &&String| !f.contains('/') && f.ends_with(".safetensors");
    let found: Vec<String> = all.iter().filter(top).cloned().collect();
    match found.len() {
        1 => Ok(found),
        0 => {
            Err("the repository holds neither a diffusers model nor a .safetensors file".to_owned())
        }
        _ => {
            let names = found.join(", ");
            Err(format!("the repository holds several checkpoints; append one of /{{{names}}}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(all: &[&str]) -> Result<Vec<String>, String> {
        model(&all.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_diffusers_model_without_duplicates() {
        let mut wanted = pick(&[
            ".gitattributes",
            "README.md",
            "model_index.json",
            "v1-5-pruned.safetensors",
            "feature_extractor/preprocessor_config.json",
            "safety_checker/model.safetensors",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.fp16.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder/pytorch_model.bin",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.fp16.bin",
        ])
        .unwrap();
        wanted.sort_unstable();
        assert_eq!(
            wanted,
            [
                "model_index.json",
                "scheduler/scheduler_config.json",
                "text_encoder/config.json",
                "text_encoder/model.safetensors",
                "tokenizer/merges.txt",
                "tokenizer/vocab.json",
                "unet/config.json",
                "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
                "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
                "unet/diffusion_pytorch_model.safetensors.index.json",
                "vae/config.json",
                "vae/diffusion_pytorch_model.bin",
            ]
        );
    }

    #[test]
    fn half_precision_when_there_is_nothing_else() {
        let wanted = pick(&[
            "model_index.json",
            "unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.bin",
        ]);
        assert_eq!(
            wanted.unwrap()[1..],
            [
                "unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
                "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
            ]
        );
    }

    #[test]
    fn other_repositories() {
        assert_eq!(
            pick(&["README.md", "a.safetensors", "x/b.safetensors"]).unwrap(),
            ["a.safetensors"]
        );
        assert!(
            pick(&["a.safetensors", "b.safetensors"]).unwrap_err().contains("{a.safetensors, b")
        );
        assert!(pick(&["README.md"]).is_err());
    }

    #[test]
    fn adapters_have_known_names() {
        let pick = |all: &[&str]| adapter(&all.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
        let diffusers = ["a.safetensors", "b.safetensors", "pytorch_lora_weights.safetensors"];
        assert_eq!(pick(&diffusers).unwrap(), [diffusers[2]]);
        let peft = ["adapter_config.json", "adapter_model.safetensors", "README.md"];
        assert_eq!(pick(&peft).unwrap(), [peft[1], peft[0]]);
        let pickled = ["pytorch_lora_weights.bin", "README.md"];
        assert_eq!(pick(&pickled).unwrap(), [pickled[0]]);
        assert_eq!(pick(&["ink.safetensors", "x.png"]).unwrap(), ["ink.safetensors"]);
        assert!(pick(&["a.safetensors", "b.safetensors"]).unwrap_err().contains("{a.safetens"));
        assert!(pick(&["model_index.json"]).unwrap_err().contains("as the model"));
    }
}
