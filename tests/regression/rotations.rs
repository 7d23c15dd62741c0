//! Orthogonal adapters in one file, without any configuration.

use crate::adapters::{Base, Tensors, close, expected, numbers, refused, says, trust};

/// A linear layer, 8 by 8, a 1×1 and a 3×3 convolution of the tiny base.
const TO_Q: &str = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
const PROJ_IN: &str = "unet.down_blocks.0.attentions.0.proj_in";
const CONV: &str = "unet.down_blocks.0.resnets.0.conv1";

type Square = Vec<Vec<f64>>;

fn times(a: &Square, b: &Square) -> Square {
    let n = a.len();
    let entry = |i: usize, j: usize| (0..n).map(|k| a[i][k] * b[k][j]).sum();
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

/// I + 2Q + 2QQ + 2QQQ + QQQQ of the skew matrix whose upper triangle is `packed`, row by row.
fn rotation(packed: &[f64], n: usize) -> Square {
    let mut q = vec![vec![0.0; n]; n];
    let mut next = packed.iter();
    for i in 0..n {
        for j in i + 1..n {
            q[i][j] = *next.next().unwrap();
            q[j][i] = -q[i][j];
        }
    }
    let (q2, q3) = (times(&q, &q), times(&times(&q, &q), &q));
    let q4 = times(&q2, &q2);
    let entry = |i: usize, j: usize| {
        f64::from(u8::from(i == j)) + 2.0 * (q[i][j] + q2[i][j] + q3[i][j]) + q4[i][j]
    };
    (0..n).map(|i| (0..n).map(|j| entry(i, j)).collect()).collect()
}

/// W' of a weight with so many inputs: each block of inputs times Rᵀ, or times R for `kernel`.
fn turned(weight: &[f32], inputs: usize, blocks: &[Square], kernel: bool) -> Vec<f32> {
    let n = blocks[0].len();
    let mut out = Vec::new();
    for row in weight.chunks(inputs) {
        for (b, part) in row.chunks(n).enumerate() {
            let r = &blocks[b % blocks.len()];
            let entry = |j: usize, i: usize| if kernel { r[i][j] } else { r[j][i] };
            let sum = |j: usize| (0..n).map(|i| f64::from(part[i]) * entry(j, i)).sum::<f64>();
            out.extend((0..n).map(|j| sum(j) as f32));
        }
    }
    out
}

/// The vectors of `count` blocks of n(n−1)/2 numbers, a rotation each, with every number divided.
fn rotations(vectors: &[f32], n: usize, divisor: f64) -> Vec<Square> {
    let length = n * (n - 1) / 2;
    let divided = |v: &[f32]| v.iter().map(|v| f64::from(*v) / divisor).collect::<Vec<_>>();
    vectors.chunks(length).map(|v| rotation(&divided(v), n)).collect()
}

/// Reads a file with this rotation, and compares what it does with what the law says.
fn compare(module: &str, (count, n): (usize, usize), file: impl Fn(Tensors) -> Tensors, law: Law) {
    let base = Base::open("sd15");
    let (site, length) = (format!("{module}.weight"), n * (n - 1) / 2);
    let vectors: Vec<f32> = numbers(count * length, 3).iter().map(|v| v * 0.4).collect();
    let key = format!("{module}.oft_R.weight");
    let tensors = file(Tensors::default().floats(&key, &[count, length], &vectors));
    let lora = base.read_tensors(&tensors).unwrap();
    assert!(lora.report().unmatched.is_empty(), "{:?}", lora.report().unmatched);
    let (shape, weight) = (base.shape(&site), base.weight(&site));
    let inputs: usize = shape[1..].iter().product();
    let divisor = if law.scaled { (length as f64).sqrt() } else { 1.0 };
    let blocks = rotations(&vectors, n, divisor);
    let mut expected = turned(&weight, inputs, &blocks, shape.len() == 4);
    for (i, row) in expected.chunks_mut(inputs).enumerate() {
        let Some(magnitudes) = &law.magnitudes else { continue };
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let norm = law.norms.as_ref().map_or_else(
            || norm(&weight[i * inputs..(i + 1) * inputs]),
            |norms| f64::from(norms[i]),
        );
        let factor = f64::from(magnitudes[i]) / norm;
        row.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
    }
    let expected: Vec<f32> = expected.iter().zip(&weight).map(|(e, w)| e - w).collect();
    close(module, &base.change(&lora, &site), &expected, 1e-5);
}

#[derive(Default)]
struct Law {
    scaled: bool,
    magnitudes: Option<Vec<f32>>,
    norms: Option<Vec<f32>>,
}

/// Orthogonal adapters in one file were told to bring a configuration that their trainer never writes.
#[test]
fn rotations_in_one_file_act() {
    let (base, expected) = (Base::open("sd15"), expected("oft-single-file"));
    for name in ["kohya", "diffusers", "comfy"] {
        let lora = base.read_file(&trust(&format!("oft-single-file/{name}.safetensors"))).unwrap();
        let changes = base.changes(&lora);
        assert_eq!(changes.len(), expected.len(), "{name}");
        for (site, change) in &expected {
            close(name, &changes[site], change, 1e-5);
        }
    }
}

#[test]
fn blocks_may_be_shared_and_convolutions_turned() {
    let plain = |tensors: Tensors| tensors;
    compare(TO_Q, (2, 4), plain, Law::default());
    compare(TO_Q, (1, 4), plain, Law::default());
    compare(TO_Q, (1, 8), plain, Law::default());
    compare(PROJ_IN, (4, 2), plain, Law::default());
    compare(CONV, (12, 6), plain, Law::default());
    compare(CONV, (1, 9), plain, Law::default());
}

#[test]
fn marked_vectors_are_divided() {
    for (dtype, data) in [("I64", &[1, 0, 0, 0, 0, 0, 0, 0][..]), ("F32", &[0, 0, 128, 63])] {
        let mark = |module: &'static str| {
            move |t: Tensors| t.raw(&format!("{module}.oft_R.scaled_oft"), dtype, &[], data)
        };
        compare(TO_Q, (2, 4), mark(TO_Q), Law { scaled: true, ..Law::default() });
        compare(CONV, (12, 6), mark(CONV), Law { scaled: true, ..Law::default() });
    }
    let alone = |t: Tensors| t.raw(&format!("{TO_Q}.scaled_oft"), "U8", &[1], &[1]);
    compare(TO_Q, (2, 4), alone, Law { scaled: true, ..Law::default() });
    // Trainers that write this mark as a truth value divide by another number: which one was meant is said.
    let vector = Tensors::default().floats(&format!("{TO_Q}.oft_R.weight"), &[2, 6], &[0.1; 12]);
    let truth = vector.raw(&format!("{TO_Q}.oft_R.scaled_oft"), "BOOL", &[], &[1]);
    let report = Base::open("sd15").read_tensors(&truth).unwrap().report().clone();
    says(&report.warnings.join("\n"), &["scaled_oft", "2·sqrt(n-1)", "sqrt(n(n-1)/2)"]);
}

#[test]
fn magnitudes_scale_what_was_turned() {
    let magnitudes: Vec<f32> = numbers(8, 5).iter().map(|v| v + 1.0).collect();
    let norms: Vec<f32> = numbers(8, 6).iter().map(|v| v + 2.0).collect();
    for module in [TO_Q, CONV] {
        let shape: &[usize] = if module == CONV { &[8, 1, 1, 1] } else { &[8, 1] };
        let dora = |t: Tensors| t.floats(&format!("{module}.dora_scale"), shape, &magnitudes);
        let law = Law { magnitudes: Some(magnitudes.clone()), ..Law::default() };
        let blocks = if module == CONV { (12, 6) } else { (2, 4) };
        compare(module, blocks, dora, law);
        let stored = |t: Tensors| dora(t).floats(&format!("{module}.initial_norm"), shape, &norms);
        let (magnitudes, norms) = (Some(magnitudes.clone()), Some(norms.clone()));
        compare(module, blocks, stored, Law { scaled: false, magnitudes, norms });
    }
}

#[test]
fn what_cannot_be_told_is_refused_without_asking_for_a_file_that_nobody_has() {
    let base = Base::open("sd15");
    let vectors = |shape: &[usize]| {
        let values = numbers(shape.iter().product(), 1);
        Tensors::default().floats(&format!("{TO_Q}.oft_R.weight"), shape, &values)
    };
    for (tensors, code, words) in [
        (vectors(&[2, 7]), 3, ["oft_R", "n(n-1)/2"]),
        (vectors(&[3, 6]), 3, ["oft_R", "[8, 8]"]),
        (vectors(&[1, 3]), 3, ["oft_R", "[8, 8]"]),
        (vectors(&[2, 4, 4]), 3, ["[2, 4, 4]", "[blocks, n(n-1)/2]"]),
        (
            vectors(&[2, 6]).floats(&format!("{TO_Q}.dora_scale"), &[1, 8], &numbers(8, 1)),
            5,
            ["dora_scale", "oft_R"],
        ),
        (
            vectors(&[2, 6]).raw(&format!("{TO_Q}.oft_R.cans_oft"), "BOOL", &[], &[1]),
            5,
            ["oft_R.cans_oft", "how it turns"],
        ),
        (
            vectors(&[2, 6]).floats(&format!("{TO_Q}.dora_multiplier"), &[8], &numbers(8, 1)),
            5,
            ["dora_multiplier", "how it turns"],
        ),
    ] {
        let error = refused(base.read_tensors(&tensors));
        assert_eq!(error.fault().exit_code(), code, "{error}");
        says(&error.to_string(), &words);
        says(&error.to_string(), &["made.safetensors"]);
        assert!(!error.to_string().contains("adapter_config"), "{error}");
    }
}
