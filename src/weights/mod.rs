//! Where weights come from: the seam between files, adapters and networks.
//!
//! A network asks a [`WeightSource`] for each of its [`Site`]s and gets a [`Weight`], a value that
//! may be dense or carry low-rank branches. The interface is the same for a file, a memory map and an
//! overlay of adapters. This module depends on no layer.
//!
//! Floor 2.

mod block_type;
pub(crate) mod blocked;
mod branch;
mod component;
mod contents;
mod file;
mod gguf;
mod memory;
pub mod names;
mod pickle;
mod placement;
pub(crate) mod quantised;
mod resident;

pub use crate::kernels::{Arrangement, Instructions, Packed, Precision, Quantisation};
pub use block_type::{BlockType, Blocks};
pub use blocked::BlockTensor;
pub use branch::{Branch, DenseBranch, FactorKind, Factors};
pub use component::Component;
pub use contents::TensorInfo;
pub use file::{Checkpoint, CheckpointFile, Inventory, NotFinite};
pub use memory::MemorySource;
pub use placement::{Placement, Products};
pub use resident::Resident;

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::kernels::WeightShape;
use crate::room;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// Canonical name of one weight: the component's folder in the diffusers layout, a dot, and the
/// parameter's diffusers name, e.g. `unet.down_blocks.0.attentions.0.proj_in.weight`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// First, so that sites are in name order.
    name: Arc<str>,
    component: Component,
}

impl Site {
    /// A site from its canonical name.
    pub fn new(name: impl AsRef<str>) -> Self {
        let name: Arc<str> = Arc::from(name.as_ref());
        let component = Component::of(&name);
        Site { name, component }
    }

    /// The site of the weight `path` of `component`, e.g. `conv_in.weight`.
    pub fn of(component: Component, path: impl std::fmt::Display) -> Self {
        Site { name: Arc::from(component.path(path)), component }
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The component that the weight belongs to.
    pub fn component(&self) -> Component {
        self.component
    }

    /// The name within the component.
    pub fn path(&self) -> &str {
        Component::split(&self.name).1
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
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

/// Gives weights by canonical name.
///
/// Implementations are immutable and shared; `get` may read a file, convert and move to a device.
///
/// A source answers five questions itself. All others have answers that follow from these, so that a source over
/// another one, which changes or remembers some weights, cannot forget to pass a question on: where
/// [`beneath`](Self::beneath) names a source, that one answers, elsewhere [`get`](Self::get) and
/// [`read_f32`](Self::read_f32) do. Implementations override an answer where they have a faster one.
pub trait WeightSource: Send + Sync + std::fmt::Debug {
    /// The weight at `site`, with the shape that the network needs.
    ///
    /// A stored shape that differs only by trailing unit dimensions (a 1×1 convolution beside a
    /// linear layer) is reshaped.
    ///
    /// # Errors
    /// [`Error::TensorMissing`], [`Error::ShapeMismatch`], or what reading the file gives.
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight>;

    /// Shape as stored, without reading the data; `None` when there is no such site.
    fn shape(&self, site: &Site) -> Option<Vec<usize>>;

    /// All sites, in name order.
    fn sites(&self) -> Vec<Site>;

    /// Where tensors of this source live and as what.
    fn placement(&self) -> &Placement;

    /// The source under this one that holds the plain numbers of `site`; `None` where they are this source's own.
    ///
    /// Branches beside a weight do not change its plain numbers.
    fn beneath(&self, site: &Site) -> Option<&dyn WeightSource>;

    /// Reads a weight that is read only to be changed, else as [`get`](Self::get) does.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_pristine(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        match self.beneath(site) {
            Some(source) => source.get_pristine(site, shape),
            None => self.get(site, shape),
        }
    }

    /// The plain weight at `site` as f32 numbers, row-major: what adapters are added to. None of them is rounded
    /// to the placement's type, unless the source holds no others.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_f32(&self, site: &Site, shape: &[usize]) -> Result<Vec<f32>> {
        match self.beneath(site) {
            Some(source) => source.get_f32(site, shape),
            None => numbers(self, site, shape),
        }
    }

    /// Fills `out` with the numbers of the plain weight at `site` from number `first` on.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn read_f32(&self, site: &Site, first: usize, out: &mut [f32]) -> Result<()> {
        if let Some(source) = self.beneath(site) {
            return source.read_f32(site, first, out);
        }
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
        match self.beneath(site) {
            Some(source) => source.pack(site, shape, arrangement, precision),
            None => pack_numbers(self, site, shape, arrangement, precision),
        }
    }

    /// A packed weight that stands for the one at `site`, made by `make` unless one of the same `variant` is
    /// still in use: a text that identifies everything that made it.
    ///
    /// # Errors
    /// Errors of `make`.
    fn shared(
        &self,
        site: &Site,
        variant: &str,
        arrangement: Arrangement,
        precision: Precision,
        make: &dyn Fn() -> Result<Packed>,
    ) -> Result<Packed> {
        match self.beneath(site) {
            Some(source) => source.shared(site, variant, arrangement, precision, make),
            None => make(),
        }
    }

    /// The plain weight at `site` as layers of other devices keep it, if that is in blocks, without its branches.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn in_blocks(&self, site: &Site, shape: &[usize]) -> Result<Option<BlockTensor>> {
        match self.beneath(site) {
            Some(source) => source.in_blocks(site, shape),
            None => block_numbers(self, site, shape),
        }
    }

    /// In which blocks layers keep the weight at `site`; `None` for plain numbers.
    fn quantised(&self, site: &Site) -> Option<Quantisation> {
        match self.beneath(site) {
            Some(source) => source.quantised(site),
            None => self.requantised(site),
        }
    }

    /// The block type for a weight that replaces the one at `site`: only the type that was asked for, because
    /// the blocks of a file are not made for other numbers.
    fn requantised(&self, site: &Site) -> Option<Quantisation> {
        let kind = self.placement().quantise?;
        quantised::is_quantisable(site, &self.shape(site)?).then_some(kind)
    }

    /// The low-rank branches beside the weight at `site`.
    fn branches(&self, site: &Site) -> Vec<Branch> {
        self.beneath(site).map(|source| source.branches(site)).unwrap_or_default()
    }

    /// Whether [`get`](Self::get) gives the very numbers that are stored, none of them rounded.
    fn is_exact(&self, site: &Site) -> bool {
        self.beneath(site).is_some_and(|source| source.is_exact(site))
    }

    /// A hint: the stored numbers of `site` will not be needed soon.
    fn forget(&self, site: &Site) {
        if let Some(source) = self.beneath(site) {
            source.forget(site);
        }
    }

    /// Where tensors of this source live.
    fn device(&self) -> &Device {
        &self.placement().device
    }

    /// Float type in which tensors of `component` are given.
    fn dtype(&self, component: Component) -> DType {
        self.placement().dtype_of(component)
    }

    /// How layers of `component` multiply.
    fn products(&self, component: Component) -> Products {
        self.placement().products_of(component)
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

/// The numbers of the weight at `site`, as [`WeightSource::read_f32`] gives them.
pub(crate) fn numbers<S: WeightSource + ?Sized>(
    source: &S,
    site: &Site,
    shape: &[usize],
) -> Result<Vec<f32>> {
    check_shape(source, site, shape)?;
    let mut values = room::zeros(shape.iter().product(), "weights")?;
    source.read_f32(site, 0, &mut values)?;
    Ok(values)
}

/// Refuses a weight that is missing or has another shape, before its numbers are read.
pub(crate) fn check_shape<S: WeightSource + ?Sized>(
    source: &S,
    site: &Site,
    shape: &[usize],
) -> Result<()> {
    if !source.shape(site).is_some_and(|stored| shapes_agree(&stored, shape)) {
        // `get` returns the precise shape error.
        source.get(site, shape)?;
    }
    Ok(())
}

/// The sizes of `shape`, which the weight at `site` must have.
fn weight_shape<S: WeightSource + ?Sized>(
    source: &S,
    site: &Site,
    shape: &[usize],
) -> Result<WeightShape> {
    check_shape(source, site, shape)?;
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
    component: Component,
    prefix: String,
    /// What stops the building of a network between two weights.
    cancel: Option<&'a Cancel>,
}

impl<'a> Scope<'a> {
    /// A scope of `source` at `root`: a component, or a path that begins with one.
    pub fn new(source: &'a dyn WeightSource, root: impl AsRef<str>) -> Self {
        let prefix = root.as_ref().to_owned();
        Scope { source, component: Component::of(&prefix), prefix, cancel: None }
    }

    /// Returns the scope, which gives [`Error::Cancelled`] instead of weights once `cancel` is set.
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
                Hint::set("apply", "merge"),
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
        self.source.products(self.component)
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
        self.source.dtype(self.component)
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

#[cfg(test)]
mod tests;
