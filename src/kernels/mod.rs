//! The CPU's own operators: products of packed weights with channels-last activations, and
//! everything that can be done on the way in and out of a product; and in `cuda` those of NVIDIA GPUs.
//!
//! Work is cut into tiles of fixed size, and the order of every sum depends on sizes alone, so results do
//! not depend on the number of threads. Plain candle serves other devices, and is the tests' oracle.
//!
//! Floor 1.

#[macro_use]
mod simd;

mod activation;
mod attention;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod measure;
mod memory;
mod product;
#[cfg(not(feature = "cuda"))]
mod recording;
mod rounding;
mod token_merging;
mod weight;

pub(crate) use activation::feature_map::FeatureMap;
pub(crate) use activation::gelu::{Gelu, activated};
pub(crate) use activation::norm::{Affine, GroupNorm, layer_norm};
pub(crate) use activation::operand::{Border, Operand, Prologue};
pub(crate) use attention::{Heads, attention};
#[cfg(feature = "cuda")]
pub(crate) use cuda::{Mark, Recording, Session, working};
pub(crate) use measure::counters::done as work_done;
pub use measure::counters::{KernelKind, Work};
pub use measure::roofline::Ceilings;
pub(crate) use memory::area::zeros;
pub(crate) use memory::spare::{AtWork, Share, stage_done, usual_budget};
pub(crate) use product::algebra::add_product;
pub(crate) use product::low_rank::{LowRankProduct, largest};
pub(crate) use product::multiply::{
    Epilogue, Term, Windows, multiply, multiply_all, multiply_gated,
};
pub(crate) use product::upsample::Upsampled;
pub(crate) use product::winograd;
#[cfg(not(feature = "cuda"))]
pub(crate) use recording::{Mark, Recording, Session, working};
pub(crate) use rounding::Rounding;
pub use simd::precision::Precision;
pub use simd::processor::Instructions;
pub(crate) use simd::vector::widen;
pub(crate) use token_merging::TokenMerging;
pub use weight::format::Arrangement;
pub(crate) use weight::format::WeightShape;
pub use weight::packed::Packed;
pub(crate) use weight::packed::WeakPacked;
pub(crate) use weight::quantised::GROUP;
pub use weight::quantised::Quantisation;

use candle_core::{CpuStorage, Layout};

/// The elements of a contiguous f32 tensor.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::Msg("a contiguous tensor was expected".into()))?;
    storage
        .as_slice::<f32>()?
        .get(start..end)
        .ok_or_else(|| candle_core::Error::Msg("a layout reaches beyond its storage".into()))
}

#[cfg(test)]
pub(crate) mod tests;
