//! Products of activations with packed weights: matrices, convolutions, and the small products of adapters.

pub(in crate::kernels) mod algebra;
pub(in crate::kernels) mod gemm;
pub(in crate::kernels) mod low_rank;
pub(in crate::kernels) mod multiply;
pub(in crate::kernels) mod upsample;
pub(crate) mod winograd;
