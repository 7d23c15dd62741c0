//! What a model is made of, without reading its weights.
//!
//!     cargo run --release --example inspect_model -- FOLDER [MODEL]
//!
//! Prints family, prediction and parts of MODEL (default: the starter model).

#![allow(clippy::print_stdout)] // an example talks

use colora::Pipeline;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pipeline = match std::env::args().nth(2) {
        Some(path) => Pipeline::open(path)?,
        None => Pipeline::options().open_starter()?,
    };
    println!("{}: {:#?}", pipeline.model_name(), pipeline.summary());
    Ok(())
}
