//! One image as an iterator of steps: previews and cancelling are yours.
//!
//!     cargo run --release --example progress -- FOLDER
//!
//! Prints the noise left after each step, keeps a look at the half-way point and
//! writes FOLDER/progress.png.

#![allow(clippy::print_stdout)] // an example talks

use colora::{Pipeline, Request};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".into()));
    let pipeline = Pipeline::options().open_starter()?;
    let request = Request { prompt: "a rocket".into(), seed: Some(7), ..Request::default() };
    let plan = pipeline.plan(&request, 0)?;

    let mut steps = pipeline.steps(&plan, 0)?;
    while let Some(view) = steps.next() {
        let view = view?;
        println!("step {}/{}  noise left {:.3}", view.step, view.steps, view.sigma);
        if view.step == view.steps / 2 {
            let path = folder.join("progress-half.png");
            steps.preview(&view)?.save(&path, true)?;
            println!("{}", path.display());
        }
    }
    let image = steps.finish()?;
    let path = folder.join("progress.png");
    image.picture.save(&path, true)?;
    println!(
        "{} (sampling {:.1?}, decoding {:.1?})",
        path.display(),
        image.timings.sample,
        image.timings.decode
    );
    Ok(())
}
