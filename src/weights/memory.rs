//! Weights that are already in memory: tests, and a base that many networks share.

use super::{Placement, Site, Weight, WeightSource, shapes_agree};
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// A [`WeightSource`] over tensors in memory; what it gives shares their storage.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    placement: Placement,
    tensors: BTreeMap<Site, Tensor>,
}

impl MemorySource {
    /// An empty source whose tensors have the device and type of `placement`.
    pub fn new(placement: Placement) -> Self {
        Self { placement, tensors: BTreeMap::new() }
    }

    /// Adds (or replaces) the weight `site`, moved and converted to the placement.
    ///
    /// # Errors
    /// [`Error::Tensor`] when moving or converting fails.
    pub fn insert(&mut self, site: Site, tensor: &Tensor) -> Result<()> {
        let dtype = self.placement.dtype_of(site.component());
        let tensor = tensor.to_device(&self.placement.device)?.to_dtype(dtype)?.contiguous()?;
        self.tensors.insert(site, tensor);
        Ok(())
    }

    /// Reads every weight of `source`, so that networks built later share one copy.
    ///
    /// # Errors
    /// What reading gives, and [`Error::Unsupported`] for a source with run-time adapters.
    pub fn resident(source: &dyn WeightSource) -> Result<Self> {
        // Numbers in memory are plain.
        let placement = Placement { quantise: None, ..source.placement().clone() };
        let mut memory = Self::new(placement);
        for site in source.sites() {
            let shape = source.shape(&site).unwrap_or_default();
            let Weight::Dense(tensor) = source.get(&site, &shape)? else {
                return Err(Error::unsupported(
                    format!("a resident copy of `{site}` with run-time adapters"),
                    "copy the source below the adapters",
                ));
            };
            memory.tensors.insert(site, tensor);
        }
        Ok(memory)
    }
}

impl WeightSource for MemorySource {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        let file = || "weights in memory".to_owned();
        let tensor = self
            .tensors
            .get(site)
            .ok_or_else(|| Error::TensorMissing { site: site.to_string(), file: file() })?;
        if tensor.dims() == shape {
            return Ok(Weight::Dense(tensor.clone()));
        }
        if !shapes_agree(tensor.dims(), shape) {
            return Err(Error::ShapeMismatch {
                site: site.to_string(),
                expected: shape.to_vec(),
                found: tensor.dims().to_vec(),
                file: file(),
            });
        }
        Ok(Weight::Dense(tensor.reshape(shape)?))
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.tensors.get(site).map(|tensor| tensor.dims().to_vec())
    }

    fn sites(&self) -> Vec<Site> {
        self.tensors.keys().cloned().collect()
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn gives_what_was_put_in() {
        let mut source = MemorySource::new(Placement { dtype: DType::F16, ..Placement::default() });
        let site = Site::new("unet.conv.weight");
        let tensor = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        source.insert(site.clone(), &tensor).unwrap();
        assert!(source.has(&site));
        let weight = source.get(&site, &[2, 3, 1, 1]).unwrap();
        assert_eq!((weight.base().dims(), weight.base().dtype()), (&[2, 3, 1, 1][..], DType::F16));
        assert!(matches!(source.get(&site, &[3, 2]), Err(Error::ShapeMismatch { .. })));
        let other = Site::new("unet.conv.bias");
        assert!(matches!(source.get(&other, &[2]), Err(Error::TensorMissing { .. })));
        let copy = MemorySource::resident(&source).unwrap();
        assert_eq!(copy.sites(), [site]);
    }
}
