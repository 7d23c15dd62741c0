//! Measurements: what each kind of kernel did, and what the processor could do at most.

pub(in crate::kernels) mod counters;
pub(in crate::kernels) mod roofline;
