//! Text to picture with the library.
//!
//!     cargo run --release --example txt2img -- FOLDER ["a prompt"]
//!
//! Writes FOLDER/txt2img-0.png and -1.png and prints their paths.

#![allow(clippy::print_stdout)] // an example talks

use colora::{Pipeline, Request};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let prompt = arguments.next().unwrap_or_else(|| "a red apple".into());

    // `Pipeline::open("model.safetensors")` opens your own checkpoint.
    let pipeline = Pipeline::options().open_starter()?;
    let request = Request { prompt, count: 2, seed: Some(1), ..Request::default() };
    for image in pipeline.draw(&request)? {
        let path = folder.join(format!("txt2img-{}.png", image.index));
        image.picture.save(&path, true)?;
        println!("{}", path.display());
    }
    Ok(())
}
