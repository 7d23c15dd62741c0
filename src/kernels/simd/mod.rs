//! Instruction sets: which one is used, loops over rows written once for all of them, and the microkernels of products.

#[macro_use]
pub(in crate::kernels) mod vector;
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) mod avx512;
pub(in crate::kernels) mod microkernel;
pub(in crate::kernels) mod precision;
pub(in crate::kernels) mod processor;
pub(in crate::kernels) mod transpose;
