//! Applying: how a stack of adapters becomes the weights of one model.

pub(in crate::lora) mod merge;
pub(in crate::lora) mod method;
pub(in crate::lora) mod overlay;
pub(in crate::lora) mod spectrum;
pub(in crate::lora) mod stack;
