//! Models in blocks: colora's own files, GGUF, and weights that are quantised when they are read.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "quantised/hostile.rs"]
mod hostile;
#[path = "quantised/pictures.rs"]
mod pictures;
#[path = "quantised/source.rs"]
mod source;
mod support;
