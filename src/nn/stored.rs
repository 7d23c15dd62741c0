//! The weight of a plain layer, and the low-rank branches beside it.

use super::plain;
use crate::error::Result;
use crate::weights::{BlockTensor, Branch, DenseBranch, Scope};
use candle_core::{DType, Tensor};

/// A weight, in the order in which its layer multiplies.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Dense(Tensor),
    /// Unpacked anew whenever it is used: it takes less memory, and a pass over it.
    Blocks {
        blocks: BlockTensor,
        dtype: DType,
        /// Of a matrix that is multiplied as a kernel, or the other way round.
        shape: Vec<usize>,
    },
}

impl Stored {
    /// The parameter `weight` of `scope` as a matrix `[outputs, inputs]`.
    pub(super) fn matrix(scope: &Scope<'_>, shape: &[usize]) -> Result<(Self, Vec<DenseBranch>)> {
        Self::new(scope, shape, shape.to_vec(), |weight| Ok(weight.clone()))
    }

    /// A weight of `shape` `[outputs, inputs, k, k]` or `[outputs, inputs]`, as a kernel `[outputs, k, k, inputs]`.
    pub(super) fn kernel(scope: &Scope<'_>, shape: &[usize]) -> Result<(Self, Vec<DenseBranch>)> {
        let taps = [2, 3].map(|i| shape.get(i).copied().unwrap_or(1));
        Self::new(scope, shape, vec![shape[0], taps[0], taps[1], shape[1]], plain::kernel)
    }

    fn new(
        scope: &Scope<'_>,
        shape: &[usize],
        arranged: Vec<usize>,
        arrange: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<(Self, Vec<DenseBranch>)> {
        // Metal would unpack blocks on the CPU.
        let blocks =
            if scope.device().is_metal() { None } else { scope.in_blocks("weight", shape)? };
        if let Some(blocks) = blocks {
            let dtype = scope.dtype();
            let dense = |branch: &Branch| branch.dense(dtype, scope.device());
            let branches = scope.branches("weight").iter().map(dense).collect::<Result<_>>()?;
            return Ok((Self::Blocks { blocks, dtype, shape: arranged }, branches));
        }
        let weight = scope.weight("weight", shape)?;
        Ok((Self::Dense(arrange(weight.base())?), weight.branches().to_vec()))
    }

    /// The numbers.
    pub(super) fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Blocks { blocks, dtype, shape } => {
                Ok(blocks.unpacked(*dtype)?.reshape(shape.as_slice())?)
            }
        }
    }
}
