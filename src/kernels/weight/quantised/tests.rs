use super::*;
use crate::kernels::{Arrangement, Packed, WeightShape};
use crate::kernels::{Border, Epilogue, FeatureMap, Operand, Prologue, Upsampled, Windows};
use crate::kernels::{Term, multiply, multiply_gated, winograd};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

fn random(count: usize, scale: f64) -> Vec<f32> {
    let tensor = Tensor::randn(0f32, scale as f32, count, &Device::Cpu).unwrap();
    tensor.to_vec1().unwrap()
}

fn read_blocks(kind: Quantisation, stored: &[u8]) -> Vec<f32> {
    let blocks = kind.split(stored);
    let groups = blocks.numbers.chunks_exact(GROUP).zip(&blocks.scales);
    groups.flat_map(|(n, s)| n.iter().map(|n| f32::from(*n) * scale_of(*s))).collect()
}

#[test]
fn blocks_are_ggmls() {
    let mut values = random(64 * GROUP, 0.1);
    values[..GROUP].fill(0.0);
    values[GROUP..2 * GROUP].fill(-3.0);
    values[2 * GROUP..3 * GROUP].iter_mut().for_each(|v| *v *= 1e-6);
    let tensor = Tensor::from_slice(&values, (4, 16 * GROUP), &Device::Cpu).unwrap();
    for (kind, theirs) in
        [(Quantisation::Q8_0, GgmlDType::Q8_0), (Quantisation::Q4_0, GgmlDType::Q4_0)]
    {
        let theirs = QTensor::quantize(&tensor, theirs).unwrap();
        let ours = kind.encode(&values);
        assert!(ours == *theirs.data().unwrap(), "{kind}");
        let plain = theirs.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        let unpacked = read_blocks(kind, &ours);
        assert!(unpacked == plain.to_vec1::<f32>().unwrap(), "{kind}");
        // Making them again changes nothing.
        assert!(read_blocks(kind, &kind.encode(&unpacked)) == unpacked, "{kind}");
    }
}

#[test]
fn scales_are_halves() {
    for bits in 0..=u16::MAX {
        let (ours, theirs) = (scale_of(bits), f16::from_bits(bits).to_f32());
        assert!(ours == theirs || (!theirs.is_finite() && ours.is_nan()), "{bits:x}");
    }
}

#[test]
fn what_is_not_finite_shows() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        for kind in Quantisation::ALL {
            let mut values = random(GROUP, 1.0);
            values[7] = bad;
            let back = read_blocks(kind, &kind.encode(&values));
            assert!(back.iter().all(|v| v.is_nan()), "{kind} {bad}");
        }
    }
}

#[test]
fn names_parse() {
    for kind in Quantisation::ALL {
        assert_eq!(kind.name().parse::<Quantisation>().unwrap(), kind);
    }
    let error = "q5_0".parse::<Quantisation>().unwrap_err().to_string();
    assert!(error.contains("expected q8_0 or q4_0"), "{error}");
}

/// A weight that is kept in blocks, and the same one whose numbers were made plain before.
fn both(
    shape: WeightShape,
    arrangement: Arrangement,
    precision: Precision,
    kind: Quantisation,
) -> (Packed, Packed) {
    let WeightShape { outputs, inputs, kernel } = shape;
    let area = kernel * kernel;
    let values = random(outputs * inputs * area, 0.05);
    let read = |values: &[f32], first: usize, out: &mut [f32]| {
        out.copy_from_slice(&values[first..first + out.len()]);
        Ok(())
    };
    let quantised = Packed::new(shape, arrangement, precision, Some(kind), |first, out| {
        read(&values, first, out)
    });
    let mut plain = values.clone();
    for (output, filter) in values.chunks_exact(inputs * area).enumerate() {
        for tap in 0..area {
            let channels: Vec<f32> = filter.iter().skip(tap).step_by(area).copied().collect();
            let channels = read_blocks(kind, &kind.encode(&channels));
            for (channel, value) in channels.into_iter().enumerate() {
                plain[(output * inputs + channel) * area + tap] = value;
            }
        }
    }
    (quantised.unwrap(), Packed::of(shape, arrangement, precision, &plain).unwrap())
}

fn worst(a: &FeatureMap, b: &FeatureMap) -> f32 {
    let largest = b.values().iter().fold(0f32, |m, v| m.max(v.abs()));
    let error = a.values().iter().zip(b.values()).map(|(a, b)| (a - b).abs());
    error.fold(0f32, f32::max) / largest
}

fn operand(shape: (usize, usize, usize, usize), border: usize, precision: Precision) -> Operand {
    let (b, c, h, w) = shape;
    let image = Tensor::randn(0f32, 1.0, (b, c, h, w), &Device::Cpu).unwrap();
    let border = Border { near: border, far: border };
    let how = Prologue { border, ..Prologue::default() };
    Operand::new(&[FeatureMap::from_image(&image).unwrap()], how, precision).unwrap()
}

#[test]
fn products_of_blocks_equal_those_of_their_numbers() {
    let _alone = crate::kernels::tests::SETTINGS.lock().unwrap();
    for set in Instructions::ALL {
        set.set();
        for precision in [Precision::F32, Precision::Bf16] {
            for kind in Quantisation::ALL {
                for (inputs, outputs, kernel) in
                    [(32, 1, 1), (64, 70, 3), (1120, 130, 1), (1312, 33, 3), (96, 64, 1)]
                {
                    let shape = WeightShape { outputs, inputs, kernel };
                    let (ours, plain) = both(shape, Arrangement::Plain, precision, kind);
                    assert_eq!(ours.quantised(), Some(kind));
                    let x = operand((2, inputs, 5, 7), kernel / 2, precision);
                    let windows = Windows::sliding(&x, kernel, 1);
                    let ours = multiply(&x, &ours, windows, Epilogue::default()).unwrap();
                    let plain = multiply(&x, &plain, windows, Epilogue::default()).unwrap();
                    assert!(worst(&ours, &plain) < 1e-5, "{set:?} {precision:?} {kind}");
                }
            }
        }
    }
    Instructions::Avx512Bf16.set();
}

#[test]
fn fast_convolutions_of_blocks_equal_those_of_their_numbers() {
    for precision in [Precision::F32, Precision::Bf16] {
        for kind in Quantisation::ALL {
            for (inputs, outputs) in [(32, 5), (160, 70), (96, 128)] {
                let shape = WeightShape { outputs, inputs, kernel: 3 };
                let (ours, plain) = both(shape, Arrangement::Winograd, precision, kind);
                let blocks = outputs.next_multiple_of(16) * 9 * inputs / 32 * kind.block_bytes();
                assert_eq!((ours.quantised(), ours.bytes()), (Some(kind), blocks));
                let image = Tensor::randn(0f32, 1.0, (2, inputs, 7, 9), &Device::Cpu).unwrap();
                let parts = [FeatureMap::from_image(&image).unwrap()];
                let multiply = |w: &Packed| {
                    winograd::multiply(&parts, Prologue::default(), w, Epilogue::default()).unwrap()
                };
                let error = worst(&multiply(&ours), &multiply(&plain));
                assert!(error < 1e-5, "{precision:?} {kind}: {error}");
            }
        }
    }
}

#[test]
fn gated_blocks_equal_their_numbers() {
    for precision in [Precision::F32, Precision::Bf16] {
        for kind in Quantisation::ALL {
            let shape = WeightShape { outputs: 2 * 70, inputs: 64, kernel: 1 };
            let (ours, plain) = both(shape, Arrangement::Gated, precision, kind);
            let x = operand((1, 64, 1, 9), 0, precision);
            let bias = random(140, 1.0);
            let ours = multiply_gated(&[Term::all(&x, &ours)], &bias, Precision::F32).unwrap();
            let plain = multiply_gated(&[Term::all(&x, &plain)], &bias, Precision::F32).unwrap();
            let floats = |x: &Operand| bytemuck::cast_slice::<u32, f32>(x.words()).to_vec();
            let pairs = floats(&ours).into_iter().zip(floats(&plain));
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{precision:?} {kind}: {worst}");
        }
    }
}

#[test]
fn doubled_kernels_are_quantised_after_their_taps_were_added() {
    let shape = WeightShape { outputs: 40, inputs: 64, kernel: 3 };
    let values = random(40 * 64 * 9, 0.05);
    let pack = |quantised| {
        Upsampled::new(|y, x| {
            let arrangement = Arrangement::Upsampled(y, x);
            let precision = Precision::F32;
            Packed::quantised_of(shape, arrangement, precision, quantised, &values)
        })
        .unwrap()
    };
    let x = operand((1, 64, 6, 5), 1, Precision::F32);
    let plain = pack(None).multiply(&x, Epilogue::default()).unwrap();
    for (kind, limit) in [(Quantisation::Q8_0, 0.01), (Quantisation::Q4_0, 0.15)] {
        let doubled = pack(Some(kind));
        let error = worst(&doubled.multiply(&x, Epilogue::default()).unwrap(), &plain);
        assert!(error > 0.0 && error < limit, "{kind}: {error}");
        let ordinary = doubled.ordinary().unwrap();
        assert_eq!((ordinary.shape, ordinary.quantised()), (shape, None));
    }
}

#[test]
fn blocks_are_packed_as_they_are() {
    // Scales that no quantiser would choose, so that making blocks again would show.
    for kind in Quantisation::ALL {
        let shape = WeightShape { outputs: 70, inputs: 96, kernel: 3 };
        let mut stored = kind.encode(&random(70 * 96 * 9, 0.05));
        for block in stored.chunks_exact_mut(kind.block_bytes()) {
            block[2..].iter_mut().for_each(|byte| *byte = *byte & 0x33 | 0x44);
        }
        let plain = read_blocks(kind, &stored);
        let packed = Packed::from_blocks(
            shape,
            Arrangement::Plain,
            Precision::F32,
            kind,
            |first, out: &mut [u8]| {
                let first = first * kind.block_bytes();
                out.copy_from_slice(&stored[first..first + out.len()]);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(packed.bytes(), 80 * 9 * 3 * kind.block_bytes());
        for (output, tap, channel) in [(0, 0, 0), (69, 8, 95), (64, 3, 31), (12, 5, 64)] {
            let at = (output * 9 + tap) * 96 + channel;
            assert_eq!(packed.value(output, tap, channel), plain[at]);
        }
    }
}

#[test]
fn inputs_that_fill_no_blocks_stay_plain() {
    let shape = WeightShape { outputs: 8, inputs: 48, kernel: 1 };
    let packed = Packed::new(
        shape,
        Arrangement::Plain,
        Precision::Bf16,
        Some(Quantisation::Q8_0),
        |_, out: &mut [f32]| {
            out.fill(1.0);
            Ok(())
        },
    );
    assert_eq!(packed.unwrap().quantised(), None);
}
