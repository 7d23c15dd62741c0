//! What comes out of a pipeline.

use crate::picture::Picture;
use std::time::Duration;

/// One finished image.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Generated {
    /// The image.
    pub picture: Picture,
    /// Which image of the plan, from 0.
    pub index: usize,
    /// Its own seed.
    pub seed: u64,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of one image went. Images that are evaluated at once share the time of their steps equally; the
/// first of them counts what was loaded for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Reading and building networks.
    pub load: Duration,
    /// Putting LoRAs into the weights.
    pub compose: Duration,
    /// Encoding the texts.
    pub encode: Duration,
    /// Sampling.
    pub sample: Duration,
    /// Decoding.
    pub decode: Duration,
}
