//! Floor 1. Fused operators for f32 tensors on the CPU, each with a plain candle counterpart that
//! serves other devices and types and is the tests' oracle.
//!
//! Work is cut into tiles of fixed size, so results do not depend on the number of threads.

mod attention;
mod conv;
mod gemm;
mod half_products;
mod linear;
mod memory;
mod norm;
mod product;
mod vector;

pub(crate) use attention::attention;
pub(crate) use conv::conv2d;
pub(crate) use half_products::{PackedKernel, PackedMatrix, fast as half_products_are_fast};
pub(crate) use linear::linear;
#[cfg(feature = "cli")]
pub(crate) use memory::keep_freed;
pub(crate) use memory::zeros;
pub(crate) use norm::group_norm;
pub(crate) use product::add_product;
pub(crate) use vector::geglu;

use candle_core::{CpuStorage, DType, Layout, Tensor};

/// Whether these operators serve `tensor`.
pub(crate) fn usable(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

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

/// A pointer that tiles write through; every task touches elements of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

impl Shared {
    /// The pointer `count` elements further.
    ///
    /// # Safety
    /// As `pointer::add`: the result must lie inside the buffer.
    #[allow(unsafe_code)]
    unsafe fn add(self, count: usize) -> Self {
        // SAFETY: the caller's promise.
        Shared(unsafe { self.0.add(count) })
    }
}

#[allow(unsafe_code)]
// SAFETY: tasks write disjoint elements (stated where each is used) of a buffer that outlives them.
unsafe impl Send for Shared {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Shared {}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device};

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn error(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let worst = |t: &Tensor| {
            t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        worst(&(a - b).unwrap()) / worst(b).max(1e-12)
    }

    #[test]
    fn convolutions_equal_the_plain_ones() {
        for (b, i, o, k, h, w, stride, padding) in [
            (1, 3, 5, 3, 7, 9, 1, 1),
            (2, 40, 17, 3, 33, 21, 1, 1),
            (2, 16, 8, 3, 16, 15, 2, 1),
            (1, 4, 6, 3, 9, 9, 2, 0),
            (2, 70, 33, 1, 12, 50, 1, 0),
            (1, 5, 4, 5, 8, 8, 1, 2),
            (1, 1, 1, 3, 1, 1, 1, 1),
        ] {
            let (x, weight) = (random(&[b, i, h, w]), random(&[o, i, k, k]));
            let bias = random(&[o]);
            let plain = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let ours = conv2d(&x, &weight, None, padding, stride).unwrap();
            assert!(error(&ours, &plain) < 1e-5);
            let plain = plain.broadcast_add(&bias.reshape((1, o, 1, 1)).unwrap()).unwrap();
            let ours = conv2d(&x, &weight, Some(&bias), padding, stride).unwrap();
            assert!(error(&ours, &plain) < 1e-5);
        }
    }

    #[test]
    fn linear_equals_the_plain_one() {
        for (m, k, n) in [(1, 5, 3), (2, 320, 1280), (77, 64, 130), (1100, 33, 70)] {
            let (x, weight, bias) = (random(&[m, k]), random(&[n, k]), random(&[n]));
            let plain = x.matmul(&weight.t().unwrap()).unwrap();
            assert!(error(&linear(&x, &weight, None).unwrap(), &plain) < 1e-5);
            let plain = plain.broadcast_add(&bias).unwrap();
            assert!(error(&linear(&x, &weight, Some(&bias)).unwrap(), &plain) < 1e-5);
        }
    }

    #[test]
    fn attention_equals_the_plain_one() {
        for (b, n, t, heads, width) in [(1, 3, 5, 1, 4), (2, 150, 2100, 2, 40), (1, 257, 77, 8, 16)]
        {
            let q = random(&[b, n, heads * width]);
            let (k, v) = (random(&[b, t, heads * width]), random(&[b, t, heads * width]));
            let split = |x: &Tensor, tokens: usize| {
                x.reshape((b, tokens, heads, width))
                    .unwrap()
                    .transpose(1, 2)
                    .unwrap()
                    .contiguous()
                    .unwrap()
            };
            let scores = split(&q, n).matmul(&split(&k, t).t().unwrap()).unwrap();
            let scores = (scores / (width as f64).sqrt()).unwrap();
            let weights = candle_nn::ops::softmax_last_dim(&scores).unwrap();
            let plain = weights.matmul(&split(&v, t)).unwrap().transpose(1, 2).unwrap();
            let plain = plain.reshape((b, n, heads * width)).unwrap();
            assert!(error(&attention(&q, &k, &v, heads).unwrap(), &plain) < 1e-5);
        }
    }

    #[test]
    fn norms_and_activations_equal_the_plain_ones() {
        let (x, weight, bias) = (random(&[2, 12, 5, 7]), random(&[12]), random(&[12]));
        let shifted = ((&x * 3.0).unwrap() + 10.0).unwrap();
        let grouped = shifted.reshape((2, 4, ())).unwrap();
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
        let scale = (variance + 1e-5).unwrap().sqrt().unwrap();
        let plain = centred.broadcast_div(&scale).unwrap().reshape((2, 12, 35)).unwrap();
        let plain = plain.broadcast_mul(&weight.reshape((1, 12, 1)).unwrap()).unwrap();
        let plain = plain.broadcast_add(&bias.reshape((1, 12, 1)).unwrap()).unwrap();
        let plain = plain.reshape((2, 12, 5, 7)).unwrap();
        let ours = group_norm(&shifted, &weight, &bias, 4, 1e-5, false).unwrap();
        assert!(error(&ours, &plain) < 1e-5);
        let ours = group_norm(&shifted, &weight, &bias, 4, 1e-5, true).unwrap();
        assert!(error(&ours, &plain.silu().unwrap()) < 1e-5);

        let wide = (random(&[3, 50, 64]) * 4.0).unwrap();
        let value = wide.narrow(2, 0, 32).unwrap();
        let gate = wide.narrow(2, 32, 32).unwrap().contiguous().unwrap().gelu_erf().unwrap();
        assert!(error(&geglu(&wide).unwrap(), &(value * gate).unwrap()) < 1e-6);
    }

    #[test]
    fn extreme_values_stay_finite() {
        let mut y = [0f32; 6];
        vector::scale_shift(&[-1e30, -100.0, -0.0, 0.0, 100.0, 1e30], &mut y, 1.0, 0.0, true);
        assert!(y.iter().all(|v| v.is_finite()), "{y:?}");
        assert_eq!(&y[4..], &[100.0, 1e30]);
        let x = Tensor::new(&[[1.0f32, 1.0, 1.0, -1e4, 1e4, f32::NAN]], &Device::Cpu).unwrap();
        let y = geglu(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(&y[0][..2], &[0.0, 1e4]);
        assert!(y[0][2].is_nan(), "a NaN must not be hidden");
    }
}
