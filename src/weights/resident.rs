//! A source that remembers what it gave, so that several networks share one copy.

use super::blocked::{BlockNote, BlockTensor};
use super::{
    Arrangement, Component, Packed, Placement, Precision, Site, Weight, WeightSource, shapes_agree,
};
use crate::error::Result;
use crate::kernels::WeakPacked;
use candle_core::Tensor;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Site, variant (empty for the weight itself) and form of a packed weight.
type Key = (Site, Box<str>, Arrangement, Precision);

/// A [`WeightSource`] over another one; every tensor is read once and then shared.
#[derive(Debug)]
pub struct Resident {
    inner: Arc<dyn WeightSource>,
    /// Whether weights that are only changed stay too.
    keeps: bool,
    given: Mutex<HashMap<Site, Tensor>>,
    /// Packed weights belong to the networks; here is only where they are, by site and variant.
    packed: Mutex<HashMap<Key, WeakPacked>>,
    /// References to weights in blocks, by site.
    blocks: Mutex<HashMap<Site, BlockNote>>,
}

impl Resident {
    /// Remembers what `inner` gives.
    pub fn new(inner: Arc<dyn WeightSource>) -> Self {
        let (given, packed, blocks) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { inner, keeps: false, given, packed, blocks }
    }

    /// Returns the source; if `keeps`, it also remembers weights that are only read to be changed.
    #[must_use]
    pub fn keeping_pristine(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    /// Bytes of the tensors that are remembered.
    pub fn bytes(&self) -> usize {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }

    /// Forgets every tensor, as [`release`](Self::release) those of a component.
    pub fn release_all(&self) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Forgets the tensors of `component`; what networks use lives on with them.
    pub fn release(&self, component: Component) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|site, _| site.component() != component);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, WeakPacked>> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, site: &Site) -> Option<Tensor> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).get(site).cloned()
    }
}

impl WeightSource for Resident {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        if let Some(tensor) = self.known(site) {
            if tensor.dims() == shape {
                return Ok(Weight::Dense(tensor));
            }
            if shapes_agree(tensor.dims(), shape) {
                return Ok(Weight::Dense(tensor.reshape(shape)?));
            }
        }
        // Read without the lock: several threads may read different weights at once.
        let weight = self.inner.get(site, shape)?;
        if let Weight::Dense(tensor) = &weight {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have read it meanwhile: one copy is enough.
            let known = given.get(site).filter(|known| known.dims() == tensor.dims());
            if let Some(known) = known {
                return Ok(Weight::Dense(known.clone()));
            }
            given.insert(site.clone(), tensor.clone());
        }
        Ok(weight)
    }

    fn get_pristine(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        if self.keeps || self.known(site).is_some() {
            return self.get(site, shape);
        }
        self.inner.get(site, shape)
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.inner.shape(site)
    }

    fn sites(&self) -> Vec<Site> {
        self.inner.sites()
    }

    fn placement(&self) -> &Placement {
        self.inner.placement()
    }

    // Of f32 numbers nothing is kept: what adapters replace need not stay here, the system keeps the file's pages.
    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        Some(&*self.inner)
    }

    fn pack(
        &self,
        site: &Site,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Packed> {
        let make = || self.inner.pack(site, shape, arrangement, precision);
        self.shared(site, "", arrangement, precision, &make)
    }

    fn shared(
        &self,
        site: &Site,
        variant: &str,
        arrangement: Arrangement,
        precision: Precision,
        make: &dyn Fn() -> Result<Packed>,
    ) -> Result<Packed> {
        let key = (site.clone(), variant.into(), arrangement, precision);
        if let Some(packed) = self.lock().get(&key).and_then(WeakPacked::get) {
            return Ok(packed);
        }
        // Without the lock, and without waiting for others: the threads that pack share their work.
        let packed = make()?;
        let mut known = self.lock();
        // Another thread may have packed it meanwhile: one copy is enough.
        if let Some(packed) = known.get(&key).and_then(WeakPacked::get) {
            return Ok(packed);
        }
        // Every stack of adapters leaves notes of weights that are gone.
        if known.len() == known.capacity() {
            known.retain(|_, kept| kept.is_used());
        }
        known.insert(key, packed.kept());
        Ok(packed)
    }

    fn in_blocks(&self, site: &Site, shape: &[usize]) -> Result<Option<BlockTensor>> {
        let lock = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(site).and_then(BlockNote::get) {
            return Ok(Some(known));
        }
        let blocks = self.inner.in_blocks(site, shape)?;
        if let Some(blocks) = &blocks {
            let mut known = lock();
            if let Some(known) = known.get(site).and_then(BlockNote::get) {
                return Ok(Some(known));
            }
            known.insert(site.clone(), blocks.note());
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::MemorySource;
    use candle_core::Device;

    #[test]
    fn gives_the_same_storage_twice() {
        let mut memory = MemorySource::new(Placement::default());
        let site = Site::new("unet.a.weight");
        let values = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
        memory.insert(site.clone(), &values).unwrap();
        let resident = Resident::new(Arc::new(memory));
        assert_eq!(resident.get_pristine(&site, &[2, 3]).unwrap().base().dims(), [2, 3]);
        assert_eq!(resident.get_f32(&site, &[2, 3]).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(resident.bytes(), 0);
        let first = resident.get(&site, &[2, 3]).unwrap();
        let second = resident.get(&site, &[2, 3, 1, 1]).unwrap();
        assert_eq!((resident.bytes(), second.base().dims()), (24, &[2, 3, 1, 1][..]));
        assert_eq!(first.base().dims(), [2, 3]);
        assert!(resident.get(&site, &[3, 2]).is_err());
        assert_eq!(resident.get_f32(&site, &[2, 3]).unwrap()[5], 5.0);
        resident.release(Component::Vae);
        assert_eq!(resident.bytes(), 24);
        resident.release(Component::UNet);
        assert_eq!(resident.bytes(), 0);
    }
}
