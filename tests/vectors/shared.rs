//! What the tests of recorded numbers share.

use candle_core::{DType, Device, Tensor};
use colora::sampling::{Denoiser, Estimates};
use serde_json::Value;
use std::cell::RefCell;
use std::path::PathBuf;

/// A file of records.
pub struct Records {
    pub name: &'static str,
    pub values: Value,
}

/// The records that are always there, and all of them where they are.
pub fn records() -> Vec<Records> {
    let read = |name, path: PathBuf| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(Records { name, values: serde_json::from_str(&text).unwrap() })
    };
    let mut all = vec![read("picked", crate::support::golden("vectors.json")).unwrap()];
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/sampler_vectors.json");
    let path = std::env::var_os("COLORA_VECTORS").unwrap_or_else(|| beside.into());
    match read("whole", path.clone().into()) {
        Some(whole) => all.push(whole),
        None => println!(
            "skipped: the whole file of records is not at {} (COLORA_VECTORS)",
            path.display()
        ),
    }
    all
}

pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

pub fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every number of nested lists, in order.
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap_or(f64::NAN)],
    }
}

/// The largest difference, relative to what is above 1; NaN where one is not a number and the other is.
pub fn gap(ours: &[f64], theirs: &[f64]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::INFINITY;
    }
    let far = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
    ours.iter().zip(theirs).map(far).fold(0.0, |most, far| if far <= most { most } else { far })
}

/// The seeds of a record.
pub fn seeds(record: &Value) -> Vec<u64> {
    list(record, "seeds").iter().map(|seed| seed.as_u64().unwrap()).collect()
}

pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

pub fn tensor(values: &[f64], shape: &[usize]) -> Tensor {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
}

/// The estimate for data at ±1 with a spread of 0.25, moved by `shift`.
pub fn toy(x: &Tensor, sigma: f64, shift: f64) -> colora::Result<Tensor> {
    let v = 0.0625 + sigma * sigma;
    let y = (x - shift)?;
    let pull = ((&y / v)?.tanh()? * (sigma * sigma))?;
    Ok(((((y * 0.0625)? + pull)? / v)? + shift)?)
}

/// The toy as a denoiser, which notes what it is asked; guided it has two texts and a scale of 3.
#[derive(Default)]
pub struct Toy {
    pub guided: bool,
    pub asked: RefCell<Vec<(f64, Vec<f64>)>>,
}

impl Denoiser for Toy {
    fn denoise(&self, x: &Tensor, sigma: f64) -> colora::Result<Tensor> {
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> colora::Result<Estimates> {
        self.asked.borrow_mut().push((sigma, values(x)));
        let unguided = toy(x, sigma, 0.0)?;
        if !self.guided {
            return Ok(Estimates { guided: unguided.clone(), unguided });
        }
        let guided = (&unguided + ((toy(x, sigma, 0.3)? - &unguided)? * 3.0)?)?;
        Ok(Estimates { guided, unguided })
    }
}
