//! Every operator against plain candle.

use super::*;
use candle_core::{D, DType, Device, Tensor};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

/// As the products of this precision see the numbers.
fn seen(x: &Tensor, precision: Precision) -> Tensor {
    match precision {
        Precision::F32 => x.clone(),
        Precision::Bf16 => x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap(),
    }
}

fn error(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let worst = |t: &Tensor| {
        t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    worst(&(a - b).unwrap()) / worst(b).max(1e-12)
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn packed(weight: &Tensor, arrangement: Arrangement, precision: Precision) -> Packed {
    let dims = weight.dims();
    let kernel = dims.get(2).copied().unwrap_or(1);
    let shape = WeightShape { outputs: dims[0], inputs: dims[1], kernel };
    Packed::of(shape, arrangement, precision, &values(weight)).unwrap()
}

pub(crate) static SETTINGS: std::sync::Mutex<()> = std::sync::Mutex::new(());

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

#[test]
fn convolutions_equal_the_plain_ones() {
    for (b, i, o, k, h, w, stride, padding) in [
        (1, 3, 5, 3, 7, 9, 1, 1),
        (2, 40, 17, 3, 33, 21, 1, 1),
        (2, 16, 8, 3, 16, 15, 2, 1),
        (1, 4, 6, 3, 9, 9, 2, 0),
        (2, 70, 133, 1, 12, 50, 1, 0),
        (1, 5, 4, 5, 8, 8, 1, 2),
        (1, 1, 1, 3, 1, 1, 1, 1),
        (1, 1100, 70, 3, 5, 4, 1, 1),
    ] {
        let bias = random(&[o]);
        for precision in BOTH {
            let x = seen(&random(&[b, i, h, w]), precision);
            let weight = seen(&random(&[o, i, k, k]), precision);
            let map = FeatureMap::from_image(&x).unwrap();
            let border = Border { near: padding, far: padding };
            let how = Prologue { border, ..Prologue::default() };
            let operand = Operand::new(&[map], how, precision).unwrap();
            let weights = packed(&weight, Arrangement::Plain, precision);
            let windows = Windows::sliding(&operand, k, stride);
            let plain = x.conv2d(&weight, padding, stride, 1, 1).unwrap();
            let ours = multiply(&operand, &weights, windows, Epilogue::default()).unwrap();
            assert!(error(&ours.to_image().unwrap(), &plain) < 1e-5);

            let plain = plain.broadcast_add(&bias.reshape((1, o, 1, 1)).unwrap()).unwrap();
            let residual = random(plain.dims());
            let plain = ((plain + &residual).unwrap() * 0.5).unwrap();
            let (bias, residual) = (values(&bias), FeatureMap::from_image(&residual).unwrap());
            let finish = Epilogue { bias: Some(&bias), add: Some(&residual), scale: 0.5 };
            let ours = multiply(&operand, &weights, windows, finish).unwrap();
            assert!(error(&ours.to_image().unwrap(), &plain) < 1e-5);
        }
    }
}

#[test]
fn every_instruction_set_convolves() {
    // The sets are a setting of the process: tests that compare bits wait, others only get slower.
    let _alone = SETTINGS.lock().unwrap();
    let (x, weight) = (random(&[1, 20, 9, 7]), random(&[70, 20, 3, 3]));
    for set in Instructions::ALL {
        set.set();
        for precision in BOTH {
            let (x, weight) = (seen(&x, precision), seen(&weight, precision));
            let border = Border { near: 1, far: 1 };
            let how = Prologue { border, ..Prologue::default() };
            let weights = packed(&weight, Arrangement::Plain, precision);
            // Both ways that weights in bf16 are multiplied.
            for rows in [precision, weights.operands()] {
                let operand =
                    Operand::new(&[FeatureMap::from_image(&x).unwrap()], how, rows).unwrap();
                let windows = Windows::sliding(&operand, 3, 1);
                let ours = multiply(&operand, &weights, windows, Epilogue::default()).unwrap();
                let plain = x.conv2d(&weight, 1, 1, 1, 1).unwrap();
                assert!(error(&ours.to_image().unwrap(), &plain) < 1e-5);
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let _alone = SETTINGS.lock().unwrap();
    let (x, weight) = (random(&[2, 96, 20, 22]), random(&[130, 96, 3, 3]));
    let q = random(&[2, 300, 80]);
    let run = |precision| {
        let map = FeatureMap::from_image(&x).unwrap();
        let norm = GroupNorm { weight: &[1.0; 96], bias: &[0.5; 96], groups: 32, eps: 1e-5 };
        let affine = Affine::group_norm(std::slice::from_ref(&map), norm);
        let border = Border { near: 1, far: 1 };
        let how = Prologue { affine: Some(&affine), silu: true, border, ..Prologue::default() };
        let operand = Operand::new(std::slice::from_ref(&map), how, precision).unwrap();
        let plain = packed(&weight, Arrangement::Plain, precision);
        let windows = Windows::sliding(&operand, 3, 1);
        let fast = packed(&weight, Arrangement::Winograd, precision);
        let tokens = FeatureMap::from_tokens(&q).unwrap();
        [
            values(
                &multiply(&operand, &plain, windows, Epilogue::default())
                    .unwrap()
                    .to_image()
                    .unwrap(),
            ),
            values(
                &winograd::multiply(&[map], how, &fast, Epilogue::default())
                    .unwrap()
                    .to_image()
                    .unwrap(),
            ),
            values(
                &attention(&tokens, &tokens, &tokens, Heads { count: 2, causal: false }, precision)
                    .unwrap()
                    .to_tokens()
                    .unwrap(),
            ),
        ]
    };
    for precision in BOTH {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(precision))
        };
        let one = with(1);
        for threads in [2, 3, 7] {
            assert!(with(threads) == one, "{threads} threads");
        }
    }
}

#[test]
fn doubling_before_a_convolution_is_folded_in() {
    for precision in BOTH {
        let x = seen(&random(&[2, 10, 5, 6]), precision);
        // Whole numbers: sums of taps stay exact in bf16.
        let weight = (random(&[20, 10, 3, 3]) * 4.0).unwrap().round().unwrap();
        let grown = x.upsample_nearest2d(10, 12).unwrap();
        let plain = grown.conv2d(&weight, 1, 1, 1, 1).unwrap();
        let map = FeatureMap::from_image(&x).unwrap();
        let border = Border { near: 1, far: 1 };
        let operand = Operand::new(
            std::slice::from_ref(&map),
            Prologue { border, ..Prologue::default() },
            precision,
        )
        .unwrap();
        let doubled = Upsampled::new(|row, column| {
            let packed = packed(&weight, Arrangement::Upsampled(row, column), precision);
            Ok(packed)
        });
        let doubled = doubled.unwrap();
        let ours = doubled.multiply(&operand, Epilogue::default()).unwrap();
        assert!(error(&ours.to_image().unwrap(), &plain) < 1e-5);

        // One less than double: the ordinary kernel, taken back out of the four.
        let plain = x.upsample_nearest2d(9, 11).unwrap().conv2d(&weight, 1, 1, 1, 1).unwrap();
        let how = Prologue { border, grown: Some((9, 11)), ..Prologue::default() };
        let operand = Operand::new(&[map], how, precision).unwrap();
        let windows = Windows::sliding(&operand, 3, 1);
        let ours =
            multiply(&operand, doubled.ordinary().unwrap(), windows, Epilogue::default()).unwrap();
        assert!(error(&ours.to_image().unwrap(), &plain) < 1e-5);
    }
}

#[test]
fn fast_convolutions_equal_the_plain_ones() {
    for (b, i, o, h, w) in [
        (1, 3, 5, 7, 9),
        (2, 40, 70, 16, 12),
        (1, 33, 130, 1, 1),
        (2, 16, 16, 9, 4),
        (1, 1100, 20, 4, 6),
    ] {
        let (x, weight, bias) = (random(&[b, i, h, w]), random(&[o, i, 3, 3]), random(&[o]));
        let plain = x.conv2d(&weight, 1, 1, 1, 1).unwrap();
        let plain = plain.broadcast_add(&bias.reshape((1, o, 1, 1)).unwrap()).unwrap();
        let residual = random(plain.dims());
        let plain = ((plain + &residual).unwrap() * 0.5).unwrap();
        let map = FeatureMap::from_image(&x).unwrap();
        let (bias, residual) = (values(&bias), FeatureMap::from_image(&residual).unwrap());
        let finish = Epilogue { bias: Some(&bias), add: Some(&residual), scale: 0.5 };
        for precision in BOTH {
            let weights = packed(&weight, Arrangement::Winograd, precision);
            let ours = winograd::multiply(
                std::slice::from_ref(&map),
                Prologue::default(),
                &weights,
                finish,
            )
            .unwrap();
            let error = error(&ours.to_image().unwrap(), &plain);
            println!("{i} -> {o}, {precision:?}: {error:.1e}");
            // In bf16 both factors are rounded after their transforms.
            assert!(error < if precision == Precision::F32 { 1e-5 } else { 1.5e-2 }, "{error}");
        }
    }
}

#[test]
fn linear_layers_equal_the_plain_ones() {
    for (m, k, n) in [(1, 5, 3), (2, 320, 1280), (77, 64, 130), (1100, 33, 70)] {
        for precision in BOTH {
            let x = seen(&random(&[1, m, k]), precision);
            let weight = seen(&random(&[n, k]), precision);
            let plain = x.squeeze(0).unwrap().matmul(&weight.t().unwrap()).unwrap();
            let map = FeatureMap::from_tokens(&x).unwrap();
            let operand = Operand::new(&[map], Prologue::default(), precision).unwrap();
            let weights = packed(&weight, Arrangement::Plain, precision);
            let ours =
                multiply(&operand, &weights, Windows::all(&operand), Epilogue::default()).unwrap();
            assert!(error(&ours.to_tokens().unwrap().squeeze(0).unwrap(), &plain) < 1e-5);
        }
    }
}

#[test]
fn gated_products_equal_the_plain_ones() {
    for (m, k, half) in [(5, 16, 8), (50, 64, 100), (7, 6, 33)] {
        for precision in BOTH {
            let x = seen(&random(&[m, k]), precision);
            let weight = seen(&random(&[2 * half, k]), precision);
            let bias = random(&[2 * half]);
            let wide = x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
            let gate = wide.narrow(1, half, half).unwrap().contiguous().unwrap();
            let plain = (wide.narrow(1, 0, half).unwrap() * gate.gelu_erf().unwrap()).unwrap();
            let map = FeatureMap::from_tokens(&x).unwrap();
            let operand = Operand::new(&[map], Prologue::default(), precision).unwrap();
            let weights = packed(&weight, Arrangement::Gated, precision);
            let gated = multiply_gated(&[Term::all(&operand, &weights)], &values(&bias), precision)
                .unwrap();
            // Read through a product with the identity.
            let identity = packed(
                &Tensor::eye(half, DType::F32, &Device::Cpu).unwrap(),
                Arrangement::Plain,
                precision,
            );
            let ours =
                multiply(&gated, &identity, Windows::all(&gated), Epilogue::default()).unwrap();
            let ours = ours.to_tokens().unwrap().squeeze(0).unwrap();
            let limit = if precision == Precision::F32 { 1e-5 } else { 5e-3 };
            assert!(error(&ours, &plain) < limit);
        }
    }
}

#[test]
fn several_terms_are_added_before_anything_is_done_with_the_sums() {
    let _alone = SETTINGS.lock().unwrap();
    let (bias, residual) = (random(&[70]), random(&[1, 70, 9, 7]));
    for set in Instructions::ALL {
        set.set();
        for precision in BOTH {
            let factor = |shape: &[usize]| seen(&random(shape), precision);
            let (x, weight) = (factor(&[1, 20, 9, 7]), factor(&[70, 20, 3, 3]));
            let (hidden, up) = (factor(&[1, 6, 9, 7]), factor(&[70, 6, 1, 1]));
            let plain = (x.conv2d(&weight, 1, 1, 1, 1).unwrap()
                + hidden.conv2d(&up, 0, 1, 1, 1).unwrap())
            .unwrap();
            let plain = plain.broadcast_add(&bias.reshape((1, 70, 1, 1)).unwrap()).unwrap();
            let plain = ((plain + &residual).unwrap() * 0.5).unwrap();
            let weight = packed(&weight, Arrangement::Plain, precision);
            let up = packed(&up, Arrangement::Plain, precision);
            let border = Border { near: 1, far: 1 };
            let how = Prologue { border, ..Prologue::default() };
            let x = Operand::new(&[FeatureMap::from_image(&x).unwrap()], how, weight.operands())
                .unwrap();
            let hidden = FeatureMap::from_image(&hidden).unwrap();
            let hidden = Operand::new(&[hidden], Prologue::default(), up.operands()).unwrap();
            let windows = Windows::sliding(&x, 3, 1);
            let terms = [Term { x: &x, w: &weight, windows }, Term::all(&hidden, &up)];
            let (bias, residual) = (values(&bias), FeatureMap::from_image(&residual).unwrap());
            let finish = Epilogue { bias: Some(&bias), add: Some(&residual), scale: 0.5 };
            let ours = multiply_all(&terms, finish).unwrap().to_image().unwrap();
            assert!(error(&ours, &plain) < 1e-5, "{set:?} {precision:?}");
        }
    }
    Instructions::Avx512Bf16.set();
}

#[test]
fn attention_equals_the_plain_one() {
    for (b, n, t, heads, width, causal) in [
        (1, 3, 5, 1, 4, false),
        (2, 150, 2100, 2, 40, false),
        (1, 257, 77, 8, 16, false),
        (1, 40, 600, 1, 200, false),
        (1, 9, 9, 3, 5, false),
        (2, 77, 77, 3, 16, true),
        (1, 700, 700, 1, 8, true),
    ] {
        let q = random(&[b, n, heads * width]);
        let (k, v) = (random(&[b, t, heads * width]), random(&[b, t, heads * width]));
        let split = |x: &Tensor, tokens: usize| {
            let x = x.reshape((b, tokens, heads, width)).unwrap();
            x.transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let scores = split(&q, n).matmul(&split(&k, t).t().unwrap()).unwrap();
        let scores = (scores / (width as f64).sqrt()).unwrap();
        let hidden =
            |i: u32| if causal && i % t as u32 > i / t as u32 { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..(n * t) as u32).map(hidden).collect();
        let mask = Tensor::from_vec(mask, (n, t), &Device::Cpu).unwrap();
        let scores = scores.broadcast_add(&mask).unwrap();
        let weights = candle_nn::ops::softmax_last_dim(&scores).unwrap();
        let plain = weights.matmul(&split(&v, t)).unwrap().transpose(1, 2).unwrap();
        let plain = plain.reshape((b, n, heads * width)).unwrap();
        for precision in BOTH {
            let map = |x: &Tensor| FeatureMap::from_tokens(x).unwrap();
            let ours =
                attention(&map(&q), &map(&k), &map(&v), Heads { count: heads, causal }, precision)
                    .unwrap();
            let limit = if precision == Precision::F32 { 1e-5 } else { 2e-2 };
            let error = error(&ours.to_tokens().unwrap(), &plain);
            assert!(error < limit, "{b} {n} {t} {heads} {width}: {error}");
        }
    }
}

#[test]
fn norms_equal_the_plain_ones() {
    let (x, weight, bias) = (random(&[2, 12, 5, 7]), random(&[12]), random(&[12]));
    let shifted = ((&x * 3.0).unwrap() + 100.0).unwrap();
    let grouped = shifted.reshape((2, 4, ())).unwrap();
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1).unwrap()).unwrap();
    let variance = centred.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
    let scale = (variance + 1e-5).unwrap().sqrt().unwrap();
    let plain = centred.broadcast_div(&scale).unwrap().reshape((2, 12, 35)).unwrap();
    let plain = plain.broadcast_mul(&weight.reshape((1, 12, 1)).unwrap()).unwrap();
    let plain = plain.broadcast_add(&bias.reshape((1, 12, 1)).unwrap()).unwrap();
    let plain = plain.reshape((2, 12, 5, 7)).unwrap();
    let identity = Tensor::eye(12, DType::F32, &Device::Cpu).unwrap();
    let identity = packed(&identity, Arrangement::Plain, Precision::F32);
    // In two parts whose border lies inside a group.
    let part =
        |first, count| FeatureMap::from_image(&shifted.narrow(1, first, count).unwrap()).unwrap();
    let parts = [part(0, 7), part(7, 5)];
    let (weight, bias) = (values(&weight), values(&bias));
    let norm = GroupNorm { weight: &weight, bias: &bias, groups: 4, eps: 1e-5 };
    let affine = Affine::group_norm(&parts, norm);
    for silu in [false, true] {
        let how = Prologue { affine: Some(&affine), silu, ..Prologue::default() };
        let operand = Operand::new(&parts, how, Precision::F32).unwrap();
        let ours =
            multiply(&operand, &identity, Windows::all(&operand), Epilogue::default()).unwrap();
        let plain = if silu { plain.silu().unwrap() } else { plain.clone() };
        // The mean is 30 times the spread: f32 itself loses some digits.
        assert!(error(&ours.to_image().unwrap(), &plain) < 3e-5);
    }

    let tokens = random(&[3, 20, 12]);
    let (w, b) = (random(&[12]), random(&[12]));
    let plain = candle_nn::ops::layer_norm(&tokens, &w, &b, 1e-5).unwrap();
    let map = FeatureMap::from_tokens(&tokens).unwrap();
    let operand =
        Operand::layer_norm(&map, (&values(&w), &values(&b)), 1e-5, Precision::F32).unwrap();
    let ours = multiply(&operand, &identity, Windows::all(&operand), Epilogue::default()).unwrap();
    assert!(error(&ours.to_tokens().unwrap(), &plain) < 1e-5);
}

#[test]
fn maps_go_there_and_back() {
    let x = random(&[2, 5, 4, 3]);
    let map = FeatureMap::from_image(&x).unwrap();
    assert_eq!(error(&map.to_image().unwrap(), &x), 0.0);
    assert_eq!(error(&map.add(&map).unwrap().to_image().unwrap(), &(&x * 2.0).unwrap()), 0.0);
    let both = FeatureMap::joined(&[map.clone(), map.mapped(|v| -v).unwrap()]).unwrap();
    let plain = Tensor::cat(&[&x, &x.neg().unwrap()], 1).unwrap();
    assert_eq!(error(&both.to_image().unwrap(), &plain), 0.0);
    let tokens = random(&[2, 6, 5]);
    let map = FeatureMap::from_tokens(&tokens).unwrap();
    assert_eq!(error(&map.arranged(2, 3).to_tokens().unwrap(), &tokens), 0.0);
}
