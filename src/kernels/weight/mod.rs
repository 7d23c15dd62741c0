//! Weights in the order in which products read them, in f32, bf16 or quantised blocks.

pub(in crate::kernels) mod format;
pub(in crate::kernels) mod packed;
pub(in crate::kernels) mod quantised;
pub(in crate::kernels) mod winograd;
