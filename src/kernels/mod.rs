//! Floor 1. The CPU's own operators: products of packed weights with channels-last activations, and
//! everything that can be done on the way in and out of a product; and in `cuda` those of NVIDIA GPUs.
//!
//! Work is cut into tiles of fixed size, and the order of every sum depends on sizes alone, so results do
//! not depend on the number of threads. Plain candle serves other devices, and is the tests' oracle.

#[macro_use]
mod vector;

mod algebra;
mod arena;
mod attention;
mod ceiling;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod doubled;
mod gelu;
mod gemm;
mod lanes;
mod low_rank;
mod map;
#[cfg(target_arch = "x86_64")]
mod medium;
mod memory;
mod merge;
mod micro;
mod norm;
mod operand;
mod packed;
mod pages;
mod processor;
mod product;
mod quantised;
mod rounding;
mod shared;
mod slabs;
mod spare;
#[cfg(target_arch = "x86_64")]
mod wide;
pub(crate) mod winograd;
mod work;

pub(crate) use algebra::add_product;
pub(crate) use attention::{Heads, attention};
pub use ceiling::Ceilings;
pub(crate) use doubled::Doubled;
pub(crate) use gelu::{Gelu, activated};
pub(crate) use low_rank::{LowRank, largest};
pub(crate) use map::Map;
pub(crate) use memory::zeros;
pub(crate) use merge::Merging;
pub(crate) use norm::{Affine, GroupNorm, layer_norm};
pub(crate) use operand::{Border, Operand, Preparation};
pub use packed::{Arrangement, Packed, Precision};
pub(crate) use packed::{Kept, WeightShape};
pub use processor::Instructions;
pub(crate) use product::{Finish, Term, Windows, multiply, multiply_all, multiply_gated};
pub(crate) use quantised::GROUP;
pub use quantised::Quantisation;
pub(crate) use rounding::Rounding;
use shared::Shared;
pub(crate) use spare::{AtWork, Share, usual_budget};
pub(crate) use vector::widen;
pub(crate) use work::done as work_done;
pub use work::{KernelKind, Work};

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
mod tests;
