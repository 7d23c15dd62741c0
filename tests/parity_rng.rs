//! Noise against `torch.randn` on a CPU.
#![allow(clippy::unwrap_used)] // also outside the test functions

mod support;

use candle_core::{DType, Tensor};
use colora::rng::{Noise, TorchCpu};
use std::collections::BTreeMap;

/// PyTorch's polynomials for the logarithm, sine and cosine are good to about this much.
const TOLERANCE: f32 = 1e-6;
/// Below it PyTorch, and we, compute in f64: nothing may differ.
const EXACT_BELOW: usize = 16;

fn values(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype(), DType::F32);
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference; zero is demanded of short draws.
fn difference(name: &str, ours: &[f32], torch: &[f32]) -> f32 {
    assert_eq!(ours.len(), torch.len(), "{name}");
    let worst = ours.iter().zip(torch).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let allowed = if torch.len() < EXACT_BELOW { 0.0 } else { TOLERANCE };
    assert!(worst <= allowed, "{name}: differs by {worst:e}");
    worst
}

#[test]
fn one_draw_equals_torch() {
    let (mut worst, mut count) = (0.0_f32, 0);
    for (name, tensor) in support::tensors("randn.safetensors") {
        let parts: Vec<&str> = name.split('.').collect();
        let ["randn", seed, _] = parts[..] else { continue };
        let torch = values(&tensor);
        let ours = TorchCpu::new(seed.parse().unwrap()).normal(torch.len());
        worst = worst.max(difference(&name, &ours, &torch));
        count += 1;
    }
    assert!(count > 50, "only {count} goldens");
    println!("{count} draws, largest difference {worst:e}");
}

#[test]
fn draws_in_a_row_equal_torch() {
    let mut chains: BTreeMap<u64, BTreeMap<usize, (String, Vec<f32>)>> = BTreeMap::new();
    for (name, tensor) in support::tensors("randn.safetensors") {
        let parts: Vec<&str> = name.split('.').collect();
        let ["chain", seed, index, _] = parts[..] else { continue };
        let (seed, index) = (seed.parse().unwrap(), index.parse().unwrap());
        chains.entry(seed).or_default().insert(index, (name.clone(), values(&tensor)));
    }
    assert!(chains.len() > 5, "only {} chains", chains.len());
    for (seed, chain) in chains {
        let mut noise = TorchCpu::new(seed);
        for (name, torch) in chain.values() {
            difference(name, &noise.normal(torch.len()), torch);
        }
    }
}
