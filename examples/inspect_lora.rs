//! What a LoRA file changes in a model, without drawing anything.
//!
//!     cargo run --release --example inspect_lora -- FOLDER [LORA]
//!
//! Prints kind, rank and norm of the changed modules of LORA (default: `loras/flat`), the largest first.

#![allow(clippy::print_stdout)] // an example talks

use colora::Pipeline;
use colora::lora::{AdapterFile, Lora, ReadOptions};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("loras/flat.safetensors");
    let path = std::env::args().nth(2).map_or(own, PathBuf::from);
    let pipeline = Pipeline::options().open_starter()?;
    // A file names modules in one of many spellings; the model's dictionary knows them all.
    let dictionary = pipeline.dictionary()?;
    let lora = Lora::resolve(AdapterFile::open(path)?, &dictionary, ReadOptions::default())?;
    let mut modules = lora.describe(&*pipeline.weights())?;
    modules.sort_by(|a, b| b.norm.unwrap_or(0.0).total_cmp(&a.norm.unwrap_or(0.0)));
    println!("{}: {} modules", lora.name(), modules.len());
    for module in modules.iter().take(5) {
        let (rank, norm) = (module.rank.unwrap_or(0), module.norm.unwrap_or(0.0));
        println!("{norm:8.3}  {} of rank {rank}  {}", module.kind, module.module);
    }
    for warning in &lora.report().warnings {
        println!("warning: {warning}");
    }
    Ok(())
}
