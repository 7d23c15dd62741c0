//! Two LoRAs at once, alone and at several weights, over one resident model.
//!
//!     cargo run --release --example lora_stack -- FOLDER
//!
//! Writes one picture for each pair of weights into FOLDER and prints its path.

#![allow(clippy::print_stdout)] // an example talks

use colora::lora::LoraRef;
use colora::{Cancel, Pipeline, Request, pipeline::Silent};
use std::path::{Path, PathBuf};

/// A file of the repository's `loras` folder at one weight.
fn lora(name: &str, weight: f32) -> LoraRef {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("loras").join(name);
    let name = path.with_extension("safetensors").to_string_lossy().into_owned();
    LoraRef { unet: Some(weight), text: Some(weight), ..LoraRef::new(name) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "out".into()));
    std::fs::create_dir_all(&folder)?;
    let pipeline = Pipeline::options().open_starter()?;
    for (style, subject) in [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
        let request = Request {
            prompt: "santa, flat style".into(),
            seed: Some(1),
            steps: Some(12),
            // Only the weights that a stack changes are computed anew; the rest is shared.
            loras: vec![lora("flat", style), lora("santa", subject)],
            ..Request::default()
        };
        let plan = pipeline.plan(&request, 0)?;
        pipeline.generate(&plan, &Silent, &Cancel::new(), &mut |image| {
            let path = folder.join(format!("flat{style}-santa{subject}.png"));
            image.picture.save(&path, true)?;
            println!("{}  (composed in {:.0?})", path.display(), image.timings.compose);
            Ok(())
        })?;
    }
    Ok(())
}
