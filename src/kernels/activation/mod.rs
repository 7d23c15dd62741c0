//! Activations: feature maps, and everything that is done to them before a product.

pub(in crate::kernels) mod feature_map;
pub(in crate::kernels) mod gelu;
pub(in crate::kernels) mod norm;
pub(in crate::kernels) mod operand;
