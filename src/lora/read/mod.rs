//! Reading: from the files of every community format to an adapter that is resolved against a base.
//!
//! [`file`] opens one and finds its format by its [`keys`]; [`resolve`] matches its keys with the names of a
//! base, its [`dictionary`].

pub(in crate::lora) mod describe;
pub(in crate::lora) mod dictionary;
pub(in crate::lora) mod distilled;
pub(in crate::lora) mod embedding;
mod embedding_picture;
pub(in crate::lora) mod file;
pub(in crate::lora) mod foreign;
pub(in crate::lora) mod header;
pub(in crate::lora) mod inversion;
pub(in crate::lora) mod keys;
pub(in crate::lora) mod module;
pub(in crate::lora) mod ordered;
pub(in crate::lora) mod resolve;
pub(in crate::lora) mod settings;
pub(in crate::lora) mod tuning;
pub(in crate::lora) mod whole;
pub(in crate::lora) mod wrappers;
