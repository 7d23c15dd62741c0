//! Memory of the CPU engine: large areas, buffers that are used again, and the pages of packed weights.

pub(in crate::kernels) mod area;
pub(in crate::kernels) mod arena;
pub(in crate::kernels) mod pages;
pub(in crate::kernels) mod shared;
pub(in crate::kernels) mod slabs;
pub(in crate::kernels) mod spare;
