//! GELU between two products.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::activation::operand::Operand;
use crate::kernels::simd::precision::Precision;
use crate::kernels::simd::vector::gelu_row;

/// Which GELU, Hendrycks and Gimpel (2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gelu {
    /// x·Φ(x), by erf.
    Exact,
    /// OpenAI's x·σ(1.702·x).
    Quick,
}

/// GELU of tokens, as the operand of a product.
pub(crate) fn activated(x: &FeatureMap, kind: Gelu, precision: Precision) -> Result<Operand> {
    Operand::of_rows(x, x.channels, precision, |x, out| gelu_row(x, kind == Gelu::Quick, out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn equals_the_plain_ones() {
        let x = Tensor::randn(0f32, 3.0, (2, 5, 37), &Device::Cpu).unwrap();
        let exact = x.gelu_erf().unwrap();
        let quick = (&x * candle_nn::ops::sigmoid(&(&x * 1.702).unwrap()).unwrap()).unwrap();
        let map = FeatureMap::from_tokens(&x).unwrap();
        for (kind, expected) in [(Gelu::Exact, exact), (Gelu::Quick, quick)] {
            let ours = activated(&map, kind, Precision::F32).unwrap();
            let ours: &[f32] = bytemuck::cast_slice(ours.words());
            let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in ours.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{kind:?}: {a} for {b}");
            }
        }
    }
}
