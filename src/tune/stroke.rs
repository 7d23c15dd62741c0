//! What is drawn, and how far that is.

use crate::lora::LoraRef;

/// LoRAs with their numbers.
pub type Stack = Vec<LoraRef>;

/// How far a picture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stroke {
    /// The picture, from 1, of those that are asked for.
    pub picture: usize,
    /// How many are asked for.
    pub of: usize,
    /// The sampling step that is done.
    pub step: usize,
    /// How many there are.
    pub steps: usize,
}
