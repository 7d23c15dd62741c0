//! A model's weights: canonical sites, each pointing into a file.

mod finite;

pub use finite::NotFinite;

use super::convert;
use super::scale::{self, Scaled};
use super::{CheckpointFile, View, arranged};
use crate::error::{Error, Result};
use crate::kernels::GROUP;
use crate::weights::block_type::Blocks;
use crate::weights::names::Part;
use crate::weights::quantised::is_quantisable;
use crate::weights::{
    Arrangement, BlockType, Component, Packed, Placement, Precision, Quantisation, Site, Weight,
    WeightSource, pack_numbers, shapes_agree, weight_shape,
};
use candle_core::{Device, Tensor};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How much a component holds, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of elements.
    pub parameters: u64,
    /// Bytes in the file.
    pub bytes: u64,
    /// Element types, in name order.
    pub dtypes: BTreeSet<String>,
}

/// The part of a file's tensor that is one weight.
#[derive(Debug, Clone)]
struct Piece {
    file: CheckpointFile,
    name: Box<str>,
    part: Part,
    shape: Vec<usize>,
    /// The factor of the stored numbers, where it is not 1.
    scale: Option<f32>,
}

impl Piece {
    /// Compares shapes before anything is read.
    fn check(&self, site: &Site, shape: &[usize]) -> Result<()> {
        if shapes_agree(&self.shape, shape) {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            site: site.to_string(),
            expected: shape.to_vec(),
            found: self.shape.clone(),
            file: self.file.path().display().to_string(),
        })
    }

    /// Multiplies numbers that were read.
    fn scale(&self, values: &mut [f32]) {
        if let Some(scale) = self.scale {
            for value in values {
                *value *= scale;
            }
        }
    }

    /// All numbers as they are meant, straight from the file.
    fn numbers(&self) -> Result<Vec<f32>> {
        let mut values = self.file.load_f32(&self.name, &self.view()?)?;
        self.scale(&mut values);
        Ok(values)
    }

    fn view(&self) -> Result<View> {
        let view = self.file.view(&self.name)?;
        match self.part {
            Part::Whole => Ok(view),
            Part::Rows { start, len } => view.rows(Some(start..start.saturating_add(len))),
            Part::Transposed => Ok(view.transposed()),
        }
    }
}

/// Whether numbers of this type are whole ones.
fn is_whole(dtype: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    [BOOL, U8, I8, U16, I16, U32, I32, U64, I64].contains(&dtype)
}

/// A [`WeightSource`] over the tensors of one or several files.
///
/// Nothing is read before it is asked for, and nothing is kept after it was given.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    name: String,
    placement: Placement,
    pieces: BTreeMap<Site, Piece>,
}

impl Checkpoint {
    /// An empty checkpoint; `name` is its file or folder, for messages.
    pub fn new(name: impl Into<String>, placement: Placement) -> Self {
        Self { name: name.into(), placement, pieces: BTreeMap::new() }
    }

    /// Returns the checkpoint with the weights of text encoders and UNet read as `dtype`.
    #[must_use]
    pub fn read_as(&self, dtype: candle_core::DType) -> Self {
        let placement = Placement { dtype, ..self.placement.clone() };
        Self { name: self.name.clone(), placement, pieces: self.pieces.clone() }
    }

    /// Adds (or replaces) the weight `site`: `part` of the tensor `name` of `file`, times the scale that
    /// the file gives it. Such scales are no weights of their own: they are passed over.
    ///
    /// # Errors
    /// [`Error::TensorMissing`] without such a tensor, [`Error::Corrupt`] when it has no such part or is a weight
    /// of whole numbers,
    /// [`Error::Unsupported`] for numbers that one scale does not explain.
    pub fn insert(
        &mut self,
        site: Site,
        file: &CheckpointFile,
        name: &str,
        part: Part,
    ) -> Result<()> {
        let missing = || Error::TensorMissing {
            site: name.to_owned(),
            file: file.path().display().to_string(),
        };
        let scale = match scale::of(file, name)? {
            Scaled::Plain => None,
            Scaled::By(scale) => Some(scale),
            Scaled::Note => return Ok(()),
        };
        let info = file.info(name).ok_or_else(missing)?;
        // Lists of positions are whole numbers; weights are not.
        let weight = [".weight", ".bias"].iter().any(|end| site.as_str().ends_with(end));
        if weight && scale.is_none() && info.blocks.is_none() && is_whole(info.dtype) {
            let why = format!(
                "`{name}` holds whole numbers ({}), expected floats; it is damaged, or its numbers are quantised and their scale is missing",
                info.dtype
            );
            return Err(Error::corrupt(file.path(), why));
        }
        let mut shape = info.shape.clone();
        match (part, shape.first_mut()) {
            (Part::Whole, _) => {}
            (Part::Transposed, _) => shape.reverse(),
            (Part::Rows { start, len }, Some(rows))
                if start.checked_add(len).is_some_and(|end| end <= *rows) =>
            {
                *rows = len;
            }
            (Part::Rows { start, len }, _) => {
                let why = format!("`{name}` has shape {shape:?}, rows {start}+{len} are needed");
                return Err(Error::corrupt(file.path(), why));
            }
        }
        let piece = Piece { file: file.clone(), name: name.into(), part, shape, scale };
        self.pieces.insert(site, piece);
        Ok(())
    }

    /// This checkpoint with the weights of `component` taken from `other` instead.
    #[must_use]
    pub fn with_component(mut self, component: Component, other: &Checkpoint) -> Self {
        self.pieces.retain(|site, _| site.component() != component);
        let theirs = other.pieces.iter().filter(|(site, _)| site.component() == component);
        self.pieces.extend(theirs.map(|(site, piece)| (site.clone(), piece.clone())));
        self
    }

    /// The components that have weights, in name order.
    pub fn components(&self) -> BTreeSet<Component> {
        self.pieces.keys().map(Site::component).collect()
    }

    /// How much `component` holds.
    pub fn inventory(&self, component: Component) -> Inventory {
        let mut total = Inventory::default();
        for (_, piece) in self.pieces.iter().filter(|(site, _)| site.component() == component) {
            let Some(info) = piece.file.info(&piece.name) else { continue };
            let elements = piece.shape.iter().product::<usize>() as u64;
            total.tensors += 1;
            total.parameters += elements;
            total.bytes += info.bytes_of(elements as usize) as u64;
            total.dtypes.insert(info.type_name());
        }
        total
    }

    /// The file that holds `component`, or the folder of its shards; for messages.
    pub(crate) fn file_of(&self, component: Component) -> String {
        let own = self.pieces.iter().filter(|(site, _)| site.component() == component);
        let files: BTreeSet<&Path> = own.map(|(_, piece)| piece.file.path()).collect();
        let mut files = files.into_iter();
        match (files.next(), files.next()) {
            (Some(only), None) => only.display().to_string(),
            (Some(shard), Some(_)) => shard
                .parent()
                .map_or_else(|| self.name.clone(), |folder| folder.display().to_string()),
            (None, _) => self.name.clone(),
        }
    }

    /// How the whole tensor that is the weight `site` is stored in blocks.
    fn blocks(&self, site: &Site) -> Option<(&Piece, Blocks)> {
        let piece = self.pieces.get(site).filter(|piece| piece.part == Part::Whole)?;
        Some((piece, piece.file.info(&piece.name)?.blocks?))
    }

    fn piece(&self, site: &Site) -> Result<&Piece> {
        self.pieces.get(site).ok_or_else(|| Error::TensorMissing {
            site: site.to_string(),
            file: self.file_of(site.component()),
        })
    }

    fn load(&self, site: &Site, piece: &Piece, shape: &[usize]) -> Result<Tensor> {
        let dtype = self.placement.dtype_of(site.component());
        if piece.scale.is_some() {
            // In f32: small scales are beyond f16.
            let tensor = Tensor::from_vec(piece.numbers()?, shape, &Device::Cpu)?;
            self.forget(site);
            return arranged(tensor.to_dtype(dtype)?.to_device(&self.placement.device)?);
        }
        let view = piece.view()?;
        let tensor = piece.file.load(&piece.name, &view, dtype, &self.placement.device)?;
        Ok(if tensor.dims() == shape { tensor } else { tensor.reshape(shape)? })
    }
}

impl WeightSource for Checkpoint {
    fn get(&self, site: &Site, shape: &[usize]) -> Result<Weight> {
        let piece = self.piece(site)?;
        piece.check(site, shape)?;
        Ok(Weight::Dense(self.load(site, piece, shape)?))
    }

    fn get_f32(&self, site: &Site, shape: &[usize]) -> Result<Vec<f32>> {
        let piece = self.piece(site)?;
        piece.check(site, shape)?;
        // Straight from the file: a smaller float type of the placement would round first.
        piece.numbers()
    }

    fn read_f32(&self, site: &Site, first: usize, out: &mut [f32]) -> Result<()> {
        let piece = self.piece(site)?;
        piece.file.load_f32_into(&piece.name, &piece.view()?, first, out)?;
        piece.scale(out);
        Ok(())
    }

    fn shape(&self, site: &Site) -> Option<Vec<usize>> {
        self.pieces.get(site).map(|piece| piece.shape.clone())
    }

    fn sites(&self) -> Vec<Site> {
        self.pieces.keys().cloned().collect()
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn beneath(&self, _: &Site) -> Option<&dyn WeightSource> {
        None
    }

    fn pack(
        &self,
        site: &Site,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Packed> {
        let sizes = weight_shape(self, site, shape)?;
        let as_stored =
            self.quantised(site).zip(self.blocks(site)).filter(|(kind, (_, blocks))| {
                // Taps that are added up, or lie in another order, make other blocks.
                blocks.kind == BlockType::from(*kind)
                    && (blocks.taps_first || sizes.kernel == 1)
                    && !matches!(arrangement, Arrangement::Upsampled(..))
                    && sizes.inputs.is_multiple_of(GROUP)
            });
        let Some((kind, (piece, _))) = as_stored else {
            return pack_numbers(self, site, shape, arrangement, precision);
        };
        let view = piece.view()?;
        let read = |first: usize, out: &mut [u8]| {
            let start = view.offset + first * kind.block_bytes();
            let blocks = piece.file.bytes().get(start..start + out.len());
            out.copy_from_slice(blocks.ok_or_else(|| {
                Error::corrupt(piece.file.path(), "a tensor lies outside of the file")
            })?);
            piece.file.intact()
        };
        let packed = Packed::from_blocks(sizes, arrangement, precision, kind, read)?;
        self.forget(site);
        Ok(packed)
    }

    fn quantised(&self, site: &Site) -> Option<Quantisation> {
        let stored = || {
            let (piece, blocks) = self.blocks(site)?;
            is_quantisable(site, &piece.shape).then(|| blocks.kind.kept())
        };
        self.requantised(site).or_else(stored)
    }

    fn is_exact(&self, site: &Site) -> bool {
        let as_stored = self.pieces.get(site).filter(|piece| piece.scale.is_none());
        let stored = as_stored.and_then(|piece| piece.file.info(&piece.name));
        let placed = self.placement.dtype_of(site.component());
        stored.is_some_and(|info| info.blocks.is_none() && convert::is_exact(info.dtype, placed))
    }

    fn forget(&self, site: &Site) {
        if let Some(piece) = self.pieces.get(site)
            && let Ok(view) = piece.view()
        {
            piece.file.forget(&view);
        }
    }
}
