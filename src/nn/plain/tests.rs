//! Every operator on the device that `COLORA_TEST_DEVICE` names, beside the same in f32 on the CPU.

use super::*;
use crate::rng::{Noise, TorchCpu};
use candle_core::Device;

/// A device, or the reason why there is none.
fn device() -> Option<Device> {
    let Ok(name) = std::env::var("COLORA_TEST_DEVICE") else {
        println!("skipped: COLORA_TEST_DEVICE names no GPU");
        return None;
    };
    let index = name.split_once(':').map_or(0, |(_, index)| index.parse().unwrap());
    #[cfg(feature = "cuda")]
    if name.starts_with("cuda") {
        return Some(cuda::open(index).unwrap());
    }
    Some(Device::new_metal(index).unwrap())
}

/// Normal numbers around `mean`.
fn numbers(seed: u64, shape: &[usize], mean: f32) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = TorchCpu::new(seed).normal(count).iter().map(|x| x + mean).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Largest relative error, in the sense of norms, that a type may have.
fn bound(dtype: DType) -> f64 {
    match dtype {
        // Of the plain norms, whose sums are in f32.
        DType::F32 => 2e-5,
        DType::F16 => 1e-3,
        _ => 8e-3,
    }
}

/// Runs `operator` on `device` in every type, and on the CPU with the same numbers in f32.
fn check(
    device: &Device,
    what: &str,
    inputs: &[Tensor],
    operator: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let there: Vec<Tensor> =
            inputs.iter().map(|x| x.to_device(device).unwrap().to_dtype(dtype).unwrap()).collect();
        let here: Vec<Tensor> = inputs
            .iter()
            .map(|x| x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap())
            .collect();
        let expected = operator(&here).unwrap();
        for round in 0..2 {
            let got = operator(&there).unwrap();
            assert_eq!(got.dtype(), dtype, "{what}");
            let got = got.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
            assert_eq!(got.shape(), expected.shape(), "{what}");
            let norm = |x: &Tensor| {
                let sum = x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap();
                sum.to_scalar::<f64>().unwrap().sqrt()
            };
            let error = norm(&(&got - &expected).unwrap()) / norm(&expected);
            println!("{what} {dtype:?}: {error:.1e}");
            assert!(error <= bound(dtype), "{what} {dtype:?}, round {round}: {error:e}");
        }
    }
}

#[test]
fn norms() {
    let Some(device) = device() else { return };
    for (batch, pixels, channels, groups) in [
        (2, 64 * 64, 320, 32),
        (1, 7, 2560, 32),
        (2, 9, 12, 4),
        (1, 300, 128, 32),
        (3, 1, 1920, 32),
    ] {
        let x = numbers(1, &[batch, pixels, channels], 3.0);
        let (w, b) = (numbers(2, &[channels], 1.0), numbers(3, &[channels], 0.0));
        let what = format!("group norm {batch}x{pixels}x{channels}/{groups}");
        for silu in [false, true] {
            check(&device, &what, &[x.clone(), w.clone(), b.clone()], |t| {
                group_norm(&t[0], (&t[1], &t[2]), groups, 1e-5, silu)
            });
        }
        check(&device, &format!("layer norm {channels}"), &[x, w, b], |t| {
            layer_norm(&t[0], (&t[1], &t[2]), 1e-5)
        });
    }
}

#[test]
fn sums() {
    let Some(device) = device() else { return };
    for (batch, sides, channels) in [(2, (8, 6), 320), (1, (3, 5), 7), (2, (64, 64), 640)] {
        let shape = [batch, sides.0, sides.1, channels];
        let inputs = [
            numbers(1, &shape, 0.0),
            numbers(2, &[channels], 1.0),
            numbers(3, &[batch, channels], 2.0),
            numbers(4, &shape, 0.0),
        ];
        for parts in 0..8 {
            let what = format!("finish {shape:?} with {parts:03b}");
            check(&device, &what, &inputs, |t| {
                let part = |i: usize| (parts >> i & 1 == 1).then_some(&t[i + 1]);
                let added = Added { bias: part(0), shift: part(1), tensor: part(2) };
                finish(t[0].clone(), added, 0.5)
            });
        }
        let (x, bias) =
            (numbers(5, &[batch, 9, 2 * channels], 0.0), numbers(6, &[2 * channels], 0.1));
        check(&device, "gated", &[x, bias], |t| gated(&t[0], &t[1]));
        for grown in [(2 * sides.0, 2 * sides.1), (2 * sides.0 - 1, 2 * sides.1 - 1)] {
            check(&device, "grow", &inputs[..1], |t| upsample_to(&t[0], grown));
        }
    }
}

#[test]
fn convolutions() {
    let Some(device) = device() else { return };
    let half = Geometry::HALVE;
    for (batch, sides, from, to, geometry) in [
        (2, (16, 12), 320, 320, Geometry::SAME),
        (2, (9, 7), 64, 40, half),
        (1, (8, 8), 32, 32, Geometry { padding: 0, ..half }),
        (2, (16, 16), 4, 320, Geometry::SAME),
        (1, (8, 8), 320, 4, Geometry::SAME),
        (2, (8, 8), 320, 640, Geometry::POINT),
        (1, (5, 6), 7, 3, Geometry::SAME),
    ] {
        let x = numbers(1, &[batch, sides.0, sides.1, from], 0.0);
        let weight = numbers(2, &[to, from, geometry.kernel, geometry.kernel], 0.0);
        check(&device, &format!("convolution {from} to {to} {geometry:?}"), &[x, weight], |t| {
            convolve(&t[0], &kernel(&t[1])?, geometry)
        });
    }
}

#[test]
#[cfg(feature = "cudnn")]
fn rounded_convolutions() {
    let Some(device) = device() else { return };
    let x = numbers(1, &[2, 32, 24, 128], 0.0);
    let weight = numbers(2, &[64, 128, 3, 3], 0.0);
    let run = |device: &Device| -> Tensor {
        let there = |t: &Tensor| t.to_device(device).unwrap();
        let y = convolve(&there(&x), &kernel(&there(&weight)).unwrap(), Geometry::SAME).unwrap();
        y.to_device(&Device::Cpu).unwrap()
    };
    let error = |a: &Tensor, b: &Tensor| {
        let square = |t: &Tensor| t.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        (square(&(a - b).unwrap()) / square(b)).sqrt()
    };
    let expected = run(&Device::Cpu);
    let exact = error(&run(&device), &expected);
    let _rounded = Rounding::new(true);
    let rounded = error(&run(&device), &expected);
    println!("convolutions of f32: exact {exact:.1e}, rounded {rounded:.1e}");
    assert!(exact < 2e-6 && rounded < 2e-3);
}

#[test]
fn attentions() {
    let Some(device) = device() else { return };
    for (batch, queries, keys, heads, width) in [
        (2, 256, 256, 8, 40),
        (2, 100, 77, 8, 80),
        (1, 64, 77, 8, 160),
        (1, 130, 65, 10, 64),
        (2, 33, 1, 2, 8),
        (1, 200, 200, 1, 512),
        (1, 31, 63, 3, 24),
        (1, 70, 70, 2, 4),
    ] {
        let shape = |tokens| [batch, tokens, heads * width];
        let inputs = [
            numbers(1, &shape(queries), 0.0),
            numbers(2, &shape(keys), 0.3),
            numbers(3, &shape(keys), 0.5),
        ];
        let what = format!("attention {batch}x{queries}x{keys}, {heads} heads of {width}");
        check(&device, &what, &inputs, |t| attention(&t[0], &t[1], &t[2], heads, None));
    }
}

/// Single files are compared with blueprints whenever they are opened.
#[test]
fn kernels_of_a_blueprint_take_no_memory() {
    let zero = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
    for shape in [&[1280, 2560, 3, 3][..], &[1280, 1280]] {
        let kernel = kernel(&zero.broadcast_as(shape).unwrap()).unwrap();
        let mut strides = kernel.stride().iter().zip(kernel.dims());
        assert!(strides.all(|(stride, side)| *stride == 0 || *side == 1), "{kernel:?}");
    }
}
