//! Where weights come from: the seam between files, adapters and networks.
//!
//! A network asks a [`WeightSource`] for each of its [`Site`]s and gets a [`Weight`], a value that
//! may be dense or carry low-rank branches. It never learns whether a file, a memory map or an
//! overlay of adapters answered. This module knows no layer.
//!
//! Floor 2.

mod block_type;
pub(crate) mod blocked;
mod branch;
mod contents;
mod file;
mod gguf;
mod memory;
pub mod names;
mod pickle;
pub(crate) mod quantised;
mod resident;

pub use crate::kernels::{Arrangement, Instructions, Packed, Precision, Quantisation};
pub use block_type::{BlockType, Blocks};
pub use blocked::BlockTensor;
pub use branch::{Branch, DenseBranch, FactorKind, Factors};
pub use contents::TensorInfo;
pub use file::{Checkpoint, CheckpointFile, Inventory, NotFinite, Placement};
pub use memory::MemorySource;
pub use resident::Resident;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::kernels::WeightShape;
use crate::room;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Canonical name of one weight: the component's folder in the diffusers layout, a dot, and the
/// parameter's diffusers name, e.g. `unet.down_blocks.0.attentions.0.proj_in.weight`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(Arc<str>);

impl Site {
    /// A site from its canonical name.
    pub fn new(name: impl AsRef<str>) -> Self {
        Site(Arc::from(name.as_ref()))
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The component (`unet`, `vae`, `text_encoder`, `text_encoder_2`).
    pub fn component(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A weight as a layer sees it.
#[derive(Debug, Clone)]
pub enum Weight {
    /// A plain tensor.
    Dense(Tensor),
    /// A base weight with branches that are added at run time (adapters by bypass).
    Factored {
        /// The weight without adapters.
        base: Box<Weight>,
        /// The branches, in stack order.
        branches: Arc<[DenseBranch]>,
    },
}

impl Weight {
    /// The dense tensor without any branches.
    pub fn base(&self) -> &Tensor {
        match self {
            Weight::Dense(tensor) => tensor,
            Weight::Factored { base, .. } => base.base(),
        }
    }

    /// The branches, outermost last; empty for a dense weight.
    pub fn branches(&self) -> &[DenseBranch] {
        match self {
            Weight::Dense(_) => &[],
            Weight::Factored { branches, .. } => branches,
        }
    }
}

/// How layers multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// As candle does, on whatever device the tensors are.
    #[default]
    Plain,
    /// On the CPU, with weights packed in this precision.
    Packed(Precision),
}

/// Gives weights by canonical name.
///
/// Implementations are immutable and shared; `get` may read a file, convert and move to a device.
pub trait WeightSource: Send + Sync + std::fmt::Debug {
    /// The weight at `site`, with the shape that the network needs.
    ///
    /// A stored shape that differs only by trailing unit dimensions (a 1×1 convolution beside a
    /// linear layer) is reshaped.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::ShapeMismatch`], or what reading the file gives.
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight>;

    /// As [`get`](Self::get), of a weight that is read only to be changed.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_pristine(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        self.get(site, shape)
    }

    /// The plain weight at `site` as f32 numbers, row-major: what adapters are added to.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_f32(&self, site: &Site, shape: &[usize]) -> Result<Vec<f32>> {
        let weight = self.get(site, shape)?;
        let plain = weight.base().to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        Ok(plain.flatten_all()?.to_vec1()?)
    }

    /// Fills `out` with the numbers of the plain weight at `site` from number `first` on.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn read_f32(&self, site: &Site, first: usize, out: &mut [f32]) -> Result<()> {
        let shape = self.shape(site).unwrap_or_default();
        let weight = self.get(site, &shape)?;
        let flat = weight.base().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
        let part = flat.narrow(0, first, out.len())?;
        let (storage, layout) = part.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(Error::Internal(format!("`{site}` did not come to the CPU")));
        };
        let values = storage.as_slice::<f32>()?;
        let start = layout.start_offset();
        out.copy_from_slice(&values[start..start + out.len()]);
        Ok(())
    }

    /// Shape as stored, without reading the data; `None` when there is no such site.
    fn shape(&self, site: &Site) -> Option<Vec<usize>>;

    /// All sites, in name order.
    fn sites(&self) -> Vec<Site>;

    /// Where tensors of this source live.
    fn device(&self) -> &Device;

    /// Float type in which tensors of `component` are given.
    fn dtype(&self, component: &str) -> DType;

    /// How layers of `component` multiply.
    fn products(&self, component: &str) -> Products {
        let _ = component;
        Products::Plain
    }

    /// The plain weight at `site` as CPU layers read it, without its branches.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn pack(
        &self,
        site: &Site,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Packed> {
        pack_numbers(self, site, shape, arrangement, precision)
    }

    /// A packed weight that stands for the one at `site`, made by `make` unless somebody still uses one of
    /// the same `variant`: a text that says everything that made it.
    ///
    /// # Errors
    /// What `make` gives.
    fn shared(
        &self,
        site: &Site,
        variant: &str,
        arrangement: Arrangement,
        precision: Precision,
        make: &dyn Fn() -> Result<Packed>,
    ) -> Result<Packed> {
        let _ = (site, variant, arrangement, precision);
        make()
    }

    /// The plain weight at `site` as layers of other devices keep it, if that is in blocks, without its branches.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn in_blocks(&self, site: &Site, shape: &[usize]) -> Result<Option<BlockTensor>> {
        block_numbers(self, site, shape)
    }

    /// In which blocks layers keep the weight at `site`; `None` for plain numbers.
    fn quantised(&self, site: &Site) -> Option<Quantisation> {
        let _ = site;
        None
    }

    /// The same for a weight that takes the place of the one at `site`: only what somebody asked for, as
    /// the blocks of a file are not made for other numbers.
    fn requantised(&self, site: &Site) -> Option<Quantisation> {
        let _ = site;
        None
    }

    /// The low-rank branches beside the weight at `site`.
    fn branches(&self, site: &Site) -> Vec<Branch> {
        let _ = site;
        Vec::new()
    }

    /// Whether [`get`](Self::get) gives the very numbers that are stored, none of them rounded.
    fn is_exact(&self, site: &Site) -> bool {
        let _ = site;
        false
    }

    /// A hint: the stored numbers of `site` will not be needed soon.
    fn forget(&self, site: &Site) {
        let _ = site;
    }

    /// Whether `site` exists.
    fn has(&self, site: &Site) -> bool {
        self.shape(site).is_some()
    }
}

/// The weight at `site` packed from its numbers.
pub(crate) fn pack_numbers<S: WeightSource + ?Sized>(
    source: &S,
    site: &Site,
    shape: &[usize],
    arrangement: Arrangement,
    precision: Precision,
) -> Result<Packed> {
    let sizes = weight_shape(source, site, shape)?;
    let read = |first: usize, out: &mut [f32]| source.read_f32(site, first, out);
    let packed = Packed::new(sizes, arrangement, precision, source.quantised(site), read)?;
    source.forget(site);
    Ok(packed)
}

/// The weight at `site` in blocks of its numbers, if it is kept so.
pub(crate) fn block_numbers<S: WeightSource + ?Sized>(
    source: &S,
    site: &Site,
    shape: &[usize],
) -> Result<Option<BlockTensor>> {
    let Some(kind) = source.quantised(site) else { return Ok(None) };
    weight_shape(source, site, shape)?;
    let mut values = room::zeros(shape.iter().product(), "weights")?;
    source.read_f32(site, 0, &mut values)?;
    source.forget(site);
    BlockTensor::new(kind, shape, &values, source.device()).map(Some)
}

/// The sizes of `shape`, which the weight at `site` must have.
fn weight_shape<S: WeightSource + ?Sized>(
    source: &S,
    site: &Site,
    shape: &[usize],
) -> Result<WeightShape> {
    if !source.shape(site).is_some_and(|stored| shapes_agree(&stored, shape)) {
        // `get` returns the precise shape error.
        source.get(site, shape)?;
    }
    let [outputs, inputs] = *shape.first_chunk().ok_or_else(|| {
        Error::Internal(format!("`{site}` with the shape {shape:?} is no matrix"))
    })?;
    let kernel = shape.get(2).copied().unwrap_or(1);
    Ok(WeightShape { outputs, inputs, kernel })
}

/// A cursor into a [`WeightSource`]: a prefix that grows on the way down a network.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    source: &'a dyn WeightSource,
    prefix: String,
    /// What stops the building of a network between two weights.
    cancel: Option<&'a Cancel>,
}

impl<'a> Scope<'a> {
    /// A scope at component `component` of `source`.
    pub fn new(source: &'a dyn WeightSource, component: &str) -> Self {
        Scope { source, prefix: component.to_owned(), cancel: None }
    }

    /// The same scope, which gives [`Error::Cancelled`] instead of weights once `cancel` is set.
    #[must_use]
    pub fn until(self, cancel: &'a Cancel) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// The source, unless the work is to stop.
    fn open(&self) -> Result<&'a dyn WeightSource> {
        self.cancel.map_or(Ok(()), Cancel::check)?;
        Ok(self.source)
    }

    /// The scope one name further down; the name may hold dots.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Scope { prefix: format!("{}.{name}", self.prefix), ..*self }
    }

    /// The canonical name of this scope.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The site of the parameter `name` in this scope.
    pub fn site(&self, name: &str) -> Site {
        Site::new(format!("{}.{name}", self.prefix))
    }

    /// The parameter `name`, which may carry branches.
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        self.open()?.get(&self.site(name), shape)
    }

    /// The parameter `name` as a plain tensor: norms, biases, embeddings.
    ///
    /// # Errors
    /// As [`WeightSource::get`], and [`Error::Unsupported`] when it carries branches.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        match self.weight(name, shape)? {
            Weight::Dense(tensor) => Ok(tensor),
            Weight::Factored { .. } => Err(Error::unsupported(
                format!("a low-rank branch on `{}`", self.site(name)),
                "merge the adapter (--apply merge)",
            )),
        }
    }

    /// The parameter `name` when it exists.
    pub fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        if self.has(name) { self.tensor(name, shape).map(Some) } else { Ok(None) }
    }

    /// Whether the parameter `name` exists in this scope.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&self.site(name))
    }

    /// Shape of the parameter `name` as stored.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&self.site(name))
    }

    /// Where tensors of this scope live.
    pub fn device(&self) -> &'a Device {
        self.source.device()
    }

    /// How layers of this scope multiply.
    pub fn products(&self) -> Products {
        self.source.products(self.prefix.split('.').next().unwrap_or_default())
    }

    /// The parameter `name` as other layers keep it, if that is in blocks.
    pub fn in_blocks(&self, name: &str, shape: &[usize]) -> Result<Option<BlockTensor>> {
        self.open()?.in_blocks(&self.site(name), shape)
    }

    /// The parameter `name` as CPU layers read it.
    pub fn pack(
        &self,
        name: &str,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Packed> {
        self.open()?.pack(&self.site(name), shape, arrangement, precision)
    }

    /// A packed weight of [`WeightSource::shared`] that belongs to the parameter `name`.
    pub fn shared(
        &self,
        name: &str,
        variant: &str,
        arrangement: Arrangement,
        precision: Precision,
        make: &dyn Fn() -> Result<Packed>,
    ) -> Result<Packed> {
        self.open()?.shared(&self.site(name), variant, arrangement, precision, make)
    }

    /// The low-rank branches beside the parameter `name`.
    pub fn branches(&self, name: &str) -> Vec<Branch> {
        self.source.branches(&self.site(name))
    }

    /// Float type of the tensors of this scope.
    pub fn dtype(&self) -> DType {
        self.source.dtype(self.prefix.split('.').next().unwrap_or_default())
    }
}

/// Checks a stored shape against the one a network needs.
///
/// Equal shapes pass; shapes that differ only by trailing unit dimensions pass too (the caller
/// reshapes).
pub(crate) fn shapes_agree(stored: &[usize], needed: &[usize]) -> bool {
    let trim = |s: &[usize]| {
        let keep = s.iter().rposition(|&d| d != 1).map_or(0, |i| i + 1);
        s[..keep].to_vec()
    };
    stored == needed || trim(stored) == trim(needed)
}
