//! Models as strangers write them: other layouts, other types of numbers, parts that do not belong together,
//! and configs that ask for the impossible. They are drawn as they were meant, or refused with a reason.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "strangers/folders.rs"]
mod folders;
#[path = "strangers/pictures.rs"]
mod pictures;
#[path = "strangers/single.rs"]
mod single;
#[path = "strangers/small.rs"]
mod small;
mod support;
#[path = "strangers/wrapped.rs"]
mod wrapped;
