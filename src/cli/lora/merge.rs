//! `colora lora merge`.

use super::open;
use crate::app::base::Base;
use crate::app::{SCHEMA, Setup};
use crate::cli::flags::lossy;
use crate::cli::setup;
use crate::cli::style::{Talk, result_json, result_path};
use crate::error::Error;
use crate::lora::write::{FileDtype, Law, MergeOptions, merge};
use crate::lora::{LoraRef, LoraStack, Method, StackEntry};
use anyhow::Result;
use clap::ValueHint;
use std::path::PathBuf;
use std::sync::Arc;

/// What `colora lora merge` accepts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  colora lora merge ink.safetensors:0.8 fox.safetensors:0.5 -o both.safetensors
  colora lora merge ink.safetensors fox.safetensors --method ties --rank 32 -o both.safetensors
  colora lora merge --stack card -o card.safetensors
  colora lora merge ink.safetensors:0.8 --checkpoint -m dreamshaper -o inked.safetensors")]
pub(super) struct Args {
    /// LoRAs with their weights, as --lora of generate takes them
    #[arg(value_name = "LORA[:WEIGHT]", value_parser = lossy(), required_unless_present = "stack", value_hint = ValueHint::AnyPath)]
    loras: Vec<String>,
    /// LoRAs that belong together, from a file in loras/stacks; its method is not used
    #[arg(long, value_name = "NAME", value_parser = lossy())]
    stack: Option<String>,
    /// The model that they were made for
    #[arg(short, long, value_name = "MODEL", value_parser = lossy(), value_hint = ValueHint::AnyPath)]
    pub(super) model: Option<String>,
    /// How: cat (exact, ranks add up), linear, svd, ties, dare, dare-ties [default: cat; with --rank or
    /// --clamp svd]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Rank of the result [default: the largest of the LoRAs']
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Cut elements off at this quantile of all, e.g. 0.99
    #[arg(long, value_name = "Q")]
    clamp: Option<f32>,
    /// Share of the elements that ties and dare keep [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    density: Option<f32>,
    /// Seed of dare's choice
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the whole model with the LoRAs in it
    #[arg(long)]
    pub(super) checkpoint: bool,
    /// Float type: f32, f16 or bf16 [default: f32, with --checkpoint the model's own]
    #[arg(long, value_name = "TYPE")]
    pub(super) dtype: Option<FileDtype>,
    /// The file to write
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(super) output: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub(super) force: bool,
    /// Print one JSON object instead of the path
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs `colora lora merge`.
pub(super) fn run(args: &Args, talk: Talk) -> Result<()> {
    let law = args.law()?;
    let setup = setup()?;
    let cancel = open::cancel()?;
    let base = open::base(&setup, args.model.as_deref(), talk, &cancel)?;
    let stack = args.stack(&setup, &base, Method::Sum, talk)?;
    for warning in stack.words().warnings() {
        talk.say(&format!("warning: {warning}"));
    }
    let precision = args.dtype.unwrap_or_default();
    let options = MergeOptions { law, precision, force: args.force, cancel };
    let kept = merge(&*base.source, &base.names, &stack, &args.output, &options)?;
    let cut = matches!(law, Law::Svd { .. });
    for part in kept.iter().filter(|_| cut) {
        talk.say(&open::kept(part));
    }
    let path = args.output.display().to_string();
    if args.json {
        let mut value = serde_json::json!({ "schema": SCHEMA, "event": "merged", "path": path });
        if cut {
            value["components"] = serde_json::to_value(&kept)?;
        }
        return result_json(&value.to_string());
    }
    result_path(&args.output)
}

impl Args {
    pub(super) fn law(&self) -> Result<Law, Error> {
        self.check_numbers()?;
        let reduced = self.rank.is_some() || self.clamp.is_some();
        let name = self.method.as_deref().unwrap_or(if reduced { "svd" } else { "cat" });
        self.check_use(name.split(':').next().unwrap_or(name))?;
        let mix = match name {
            "cat" => return Ok(Law::Cat),
            "linear" => return Ok(Law::Linear),
            "svd" => Method::Sum,
            _ => self.numbers(name).parse()?,
        };
        Ok(Law::Svd { rank: self.rank, clamp: self.clamp, mix })
    }

    /// Refuses numbers that no method takes.
    fn check_numbers(&self) -> Result<(), Error> {
        if self.rank == Some(0) {
            return Err(Error::bad_request("rank", 0, "expected at least 1"));
        }
        if let Some(clamp) = self.clamp.filter(|q| !(*q > 0.5 && *q <= 1.0)) {
            let why = "expected more than 0.5, at most 1, e.g. 0.99";
            return Err(Error::bad_request("clamp", clamp, why));
        }
        if let Some(density) = self.density.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            let why = "expected more than 0, at most 1, e.g. 0.5";
            return Err(Error::bad_request("density", density, why));
        }
        Ok(())
    }

    /// Refuses numbers that the method `name` would not look at.
    fn check_use(&self, name: &str) -> Result<(), Error> {
        let given = [
            ("rank", self.rank.map(|n| n.to_string())),
            ("clamp", self.clamp.map(|q| q.to_string())),
            ("density", self.density.map(|share| share.to_string())),
            ("seed", self.seed.map(|n| n.to_string())),
        ];
        for (field, value) in given {
            let users = match field {
                "seed" => &["dare", "dare-ties"][..],
                "density" => &["ties", "dare", "dare-ties"],
                _ => &["svd", "ties", "dare", "dare-ties"],
            };
            if let Some(value) = value.filter(|_| !users.contains(&name)) {
                let why = format!(
                    "the method {name} does not use it; leave it out, or choose --method {}",
                    users.join(" or ")
                );
                return Err(Error::bad_request(field, value, why));
            }
        }
        Ok(())
    }

    /// The method `name` with the numbers of the flags.
    fn numbers(&self, name: &str) -> String {
        let density = self.density.map(|x| format!("density={x}"));
        let seed = self.seed.map(|n| format!("seed={n}"));
        let numbers: Vec<String> = [density, seed].into_iter().flatten().collect();
        format!("{name}:{}", numbers.join(","))
    }

    /// How adapters reach the weights of a whole model.
    pub(super) fn mix(&self, law: Law) -> Result<Method, Error> {
        match law {
            Law::Cat => Ok(Method::Sum),
            Law::Svd { mix, rank: None, clamp: None } if mix != Method::Sum && !mix.is_apart() => {
                Ok(mix)
            }
            _ => {
                let name = self.method.as_deref().unwrap_or("svd");
                let why = "a whole model needs no rank; expected cat, sequential, ties, dare or dare-ties";
                Err(Error::bad_request("lora_method", name, why))
            }
        }
    }

    /// Opens the LoRAs.
    pub(super) fn stack(
        &self,
        setup: &Setup,
        base: &Base,
        method: Method,
        talk: Talk,
    ) -> Result<LoraStack, Error> {
        let mut wanted = match &self.stack {
            Some(name) => setup.store.stack(name)?.loras,
            None => Vec::new(),
        };
        for text in &self.loras {
            wanted.push(text.parse::<LoraRef>()?);
        }
        let entry = |wanted: &LoraRef| {
            let strength = wanted.strength(None);
            if let Some(steps) = strength.steps {
                let why = "what is merged works at all steps; leave the window out";
                return Err(Error::bad_request("steps", steps, why));
            }
            let lora = Arc::new(open::adapter(&setup.store, &wanted.name, base, talk)?);
            Ok(StackEntry { lora, strength })
        };
        let entries = wanted.iter().map(entry).collect::<Result<_, Error>>()?;
        Ok(LoraStack { entries, method, ..LoraStack::default() })
    }
}
