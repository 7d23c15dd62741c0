//! Weights laid out once for the products that use them.
//!
//! A panel holds up to 64 outputs side by side, and below each other the words that are multiplied one
//! after the other: tap by tap, channel by channel. Nothing else of a weight is kept. A quantised panel
//! holds them in blocks of 32 and unpacks a stretch of words when it is multiplied.
//!
//! Processors with few registers multiply sixteen outputs at a time: for them the vectors of a panel lie one
//! after the other, so that what is multiplied together fills whole pages and the first-level cache.

use crate::error::{Error, Result};
use crate::kernels::memory::arena::Buffer;
use crate::kernels::memory::pages::Pages;
use crate::kernels::simd::microkernel::{COLUMNS, LANES};
use crate::kernels::simd::precision::{Precision, pair};
use crate::kernels::simd::processor::Instructions;
use crate::kernels::simd::transpose::{self, Lanes, Writing};
use crate::kernels::weight::format::{Arrangement, WeightShape};
use crate::kernels::weight::quantised::{Blocks, GROUP, Layout, Quantisation};
use crate::kernels::weight::winograd;
use crate::room;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::sync::{Arc, Weak};

/// Numbers of a vector that are placed together: a third of a first-level cache.
const STRETCH: usize = 256;
/// Numbers of the rows that are read together.
const CACHED: usize = 128 << 10;

/// A weight as products read it. Cloning shares.
#[derive(Debug, Clone)]
pub struct Packed {
    words: Arc<Pages>,
    pub(in crate::kernels) shape: WeightShape,
    /// Side of the kernel as packed.
    pub(in crate::kernels) side: usize,
    pub(in crate::kernels) precision: Precision,
    pub(in crate::kernels) arrangement: Arrangement,
    quantised: Option<Quantisation>,
    /// Whether the vectors of a panel lie one after the other.
    narrow: bool,
}

/// A packed weight that lives as long as somebody uses it.
#[derive(Debug, Clone)]
pub(crate) struct WeakPacked {
    words: Weak<Pages>,
    rest: Packed,
}

impl WeakPacked {
    /// The weight, if it still lives.
    pub(crate) fn get(&self) -> Option<Packed> {
        Some(Packed { words: self.words.upgrade()?, ..self.rest.clone() })
    }

    /// Whether the weight still lives.
    pub(crate) fn is_used(&self) -> bool {
        self.words.strong_count() > 0
    }
}

impl Packed {
    /// Packs the weight that `read` gives: `read(first, out)` fills `out` with its numbers from number
    /// `first` on, row-major. It is called from several threads.
    ///
    /// `quantised`: in which blocks to keep it; inputs that do not fill blocks stay plain.
    ///
    /// # Errors
    /// What `read` gives, and [`Error::Memory`].
    pub(crate) fn new(
        shape: WeightShape,
        arrangement: Arrangement,
        precision: Precision,
        quantised: Option<Quantisation>,
        read: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Self> {
        let quantised = quantised.filter(|_| shape.inputs.is_multiple_of(GROUP));
        let mut packed = Self::empty(shape, arrangement, precision, quantised);
        let filter = shape.inputs * shape.kernel * shape.kernel;
        packed.fill(|packed, panel, words| {
            let lanes = packed.vectors(panel) * LANES;
            // Read as many rows as fit in the second-level cache, rounded to whole vectors.
            let width = packed.panel_width();
            let at_once = if width * filter <= CACHED { width } else { LANES };
            let mut rows = Buffer::new(at_once * filter)?;
            let pieces = packed.sources(panel).into_iter().flat_map(|(first, count, lane)| {
                let starts = (0..count).step_by(at_once);
                starts.map(move |done| (first + done, at_once.min(count - done), lane + done))
            });
            for (first, count, lane) in pieces {
                let rows = &mut rows.floats_mut()[..count * filter];
                read(first * filter, rows)?;
                match quantised {
                    None => {
                        for (i, filters) in rows.chunks(LANES * filter.max(1)).enumerate() {
                            let (at, stride) = packed.vector(panel, lane / LANES + i);
                            place(packed, filters, &mut words[at..], stride);
                        }
                    }
                    Some(kind) => {
                        for (i, row) in rows.chunks_exact(filter.max(1)).enumerate() {
                            let blocks = kind.quantise(&packed.ordered(row));
                            packed.place_blocks(kind, &blocks, words, (lane + i, lanes));
                        }
                    }
                }
            }
            Ok(())
        })?;
        Ok(packed)
    }

    /// Packs blocks as they are: `read(first, out)` fills `out` with the weight's blocks from block
    /// `first` on, in ggml's form, output by output, tap by tap. A doubled kernel cannot be had this way.
    ///
    /// # Errors
    /// What `read` gives, and [`Error::Memory`].
    pub(crate) fn from_blocks(
        shape: WeightShape,
        arrangement: Arrangement,
        precision: Precision,
        kind: Quantisation,
        read: impl Fn(usize, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<Self> {
        let whole = shape.inputs.is_multiple_of(GROUP)
            && !matches!(arrangement, Arrangement::Upsampled(..));
        assert!(whole, "blocks that can be packed as they are");
        let mut packed = Self::empty(shape, arrangement, precision, Some(kind));
        let filter = shape.inputs / GROUP * shape.kernel * shape.kernel;
        packed.fill(|packed, panel, words| {
            let lanes = packed.vectors(panel) * LANES;
            for (first, count, lane) in packed.sources(panel) {
                let mut rows = room::zeros(count * filter * kind.block_bytes(), "weights")?;
                read(first * filter, &mut rows)?;
                for (i, row) in rows.chunks_exact((filter * kind.block_bytes()).max(1)).enumerate()
                {
                    packed.place_blocks(kind, &kind.split(row), words, (lane + i, lanes));
                }
            }
            Ok(())
        })?;
        Ok(packed)
    }

    fn empty(
        shape: WeightShape,
        arrangement: Arrangement,
        precision: Precision,
        quantised: Option<Quantisation>,
    ) -> Self {
        let side = match arrangement {
            Arrangement::Upsampled(..) => 2,
            // Blocks hold the taps themselves; places are made of them when they are multiplied.
            Arrangement::Winograd if quantised.is_none() => 4,
            Arrangement::Winograd | Arrangement::Plain | Arrangement::Gated => shape.kernel,
        };
        // Blocks are unpacked before they are multiplied.
        let narrow = Instructions::used().is_narrow() && quantised.is_none();
        Self { words: Arc::default(), shape, side, precision, arrangement, quantised, narrow }
    }

    /// Makes the words, panel by panel.
    fn fill(
        &mut self,
        panel: impl Fn(&Self, usize, &mut [u32]) -> Result<()> + Sync,
    ) -> Result<()> {
        let column = self.column_bytes();
        let total: usize = (0..self.panels()).map(|p| self.vectors(p) * LANES * column / 4).sum();
        let mut pages = Pages::of_weight(total)?;
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut pages);
        let this = &*self;
        words.par_chunks_mut((COLUMNS * column / 4).max(1)).enumerate().try_for_each(
            |(index, words)| {
                // Lanes without an output hold zeros, and blocks are put together from nibbles. Of whole
                // panels of words every one is written.
                let whole =
                    this.sources(index).iter().all(|(_, count, _)| *count == this.panel_width());
                if !whole || this.quantised.is_some() {
                    words.fill(0);
                }
                panel(this, index, words)
            },
        )?;
        debug_assert!(self.shape.outputs == 0 || total > 0);
        self.words = Arc::new(pages);
        Ok(())
    }

    /// Packs numbers that are in memory.
    pub(crate) fn of(
        shape: WeightShape,
        arrangement: Arrangement,
        precision: Precision,
        values: &[f32],
    ) -> Result<Self> {
        Self::quantised_of(shape, arrangement, precision, None, values)
    }

    /// The same, kept in blocks where the inputs fill them.
    pub(in crate::kernels) fn quantised_of(
        shape: WeightShape,
        arrangement: Arrangement,
        precision: Precision,
        quantised: Option<Quantisation>,
        values: &[f32],
    ) -> Result<Self> {
        let read = |first: usize, out: &mut [f32]| {
            out.copy_from_slice(&values[first..first + out.len()]);
            Ok(())
        };
        Self::new(shape, arrangement, precision, quantised, read)
    }

    /// Packs a tensor on the CPU of `shape`: `[outputs, inputs]` or `[outputs, inputs, k, k]`.
    ///
    /// # Errors
    /// When the tensor cannot be read as f32, or is no matrix; [`Error::Memory`].
    pub fn from_tensor(
        tensor: &Tensor,
        shape: &[usize],
        arrangement: Arrangement,
        precision: Precision,
    ) -> Result<Self> {
        let Some([outputs, inputs]) = shape.first_chunk().copied() else {
            return Err(Error::Internal(format!("a weight of shape {shape:?} is no matrix")));
        };
        let kernel = shape.get(2).copied().unwrap_or(1);
        let tensor = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
        if tensor.elem_count() != outputs * inputs * kernel * kernel {
            let found = tensor.shape();
            return Err(Error::Internal(format!(
                "a weight of shape {found:?}, {shape:?} is needed"
            )));
        }
        let shape = WeightShape { outputs, inputs, kernel };
        crate::kernels::activation::feature_map::read(&tensor, |values| {
            Self::of(shape, arrangement, precision, values)
        })?
    }

    /// One number of the weight as packed.
    pub(in crate::kernels) fn value(&self, output: usize, tap: usize, channel: usize) -> f32 {
        let (panel, lane) = (output / COLUMNS, output % COLUMNS);
        if let Some(kind) = self.quantised {
            let layout = self.layout(kind, panel);
            let at = (tap * self.shape.inputs + channel) / GROUP * layout.group_bytes();
            let group = &self.panel_bytes(panel)[at..at + layout.group_bytes()];
            return layout.value(group, lane, channel % GROUP);
        }
        let per_word = if self.precision == Precision::F32 { 1 } else { 2 };
        let row = tap * self.tap() + channel / per_word;
        let word = self.block(panel, lane / LANES, row)[lane % LANES];
        match (self.precision, channel % per_word) {
            (Precision::F32, _) => f32::from_bits(word),
            (Precision::Bf16, 0) => f32::from_bits(word << 16),
            (Precision::Bf16, _) => f32::from_bits(word & 0xffff_0000),
        }
    }

    /// A note of this weight that does not keep it.
    pub(crate) fn kept(&self) -> WeakPacked {
        WeakPacked {
            words: Arc::downgrade(&self.words),
            rest: Self { words: Arc::default(), ..self.clone() },
        }
    }

    /// Bytes that the packed weight takes.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u32>()
    }

    /// Outputs of the product; of gated ones those after the gate.
    pub(crate) fn outputs(&self) -> usize {
        match self.arrangement {
            Arrangement::Gated => self.shape.outputs / 2,
            _ => self.shape.outputs,
        }
    }

    /// Side of the kernel.
    pub(crate) fn kernel(&self) -> usize {
        self.side
    }

    /// The precision of the operands that this weight is multiplied with.
    pub(crate) fn operands(&self) -> Precision {
        self.precision.of_operands(self.shape.inputs)
    }

    /// Words of one tap.
    pub(in crate::kernels) fn tap(&self) -> usize {
        self.precision.words(self.shape.inputs)
    }

    /// Words that are summed for one output.
    pub(in crate::kernels) fn depth(&self) -> usize {
        self.side * self.side * self.tap()
    }

    /// Outputs of a full panel.
    pub(in crate::kernels) fn panel_width(&self) -> usize {
        match self.arrangement {
            Arrangement::Gated => COLUMNS / 2,
            _ => COLUMNS,
        }
    }

    pub(in crate::kernels) fn panels(&self) -> usize {
        self.outputs().div_ceil(self.panel_width())
    }

    /// Vectors beside each other in `panel`.
    pub(in crate::kernels) fn vectors(&self, panel: usize) -> usize {
        match self.arrangement {
            Arrangement::Gated => COLUMNS / LANES,
            _ => (self.shape.outputs - panel * COLUMNS).min(COLUMNS).div_ceil(LANES),
        }
    }

    /// In which blocks the weight is kept.
    pub fn quantised(&self) -> Option<Quantisation> {
        self.quantised
    }

    /// Bytes of one lane through all the depth.
    fn column_bytes(&self) -> usize {
        match self.quantised {
            None => self.depth() * size_of::<u32>(),
            Some(kind) => self.side * self.side * self.shape.inputs / GROUP * kind.block_bytes(),
        }
    }

    /// The bytes of `panel` and of those behind it.
    fn panel_bytes(&self, panel: usize) -> &[u8] {
        &bytemuck::cast_slice::<f32, u8>(&self.words)[panel * COLUMNS * self.column_bytes()..]
    }

    fn layout(&self, kind: Quantisation, panel: usize) -> Layout {
        Layout { kind, precision: self.precision, lanes: self.vectors(panel) * LANES }
    }

    /// Where the words of a vector of a plain `panel` begin, and how far they are apart.
    fn vector(&self, panel: usize, vector: usize) -> (usize, usize) {
        if self.narrow {
            (vector * LANES * self.depth(), LANES)
        } else {
            (vector * LANES, self.vectors(panel) * LANES)
        }
    }

    /// In how many parts the vectors of `panel` are multiplied.
    pub(in crate::kernels) fn parts(&self, panel: usize) -> usize {
        if self.narrow { self.vectors(panel) } else { 1 }
    }

    /// Words of `panel` of a plain weight from word `from` of `vector` on: `[words, 16 · vectors of a part]`.
    pub(in crate::kernels) fn block(&self, panel: usize, vector: usize, from: usize) -> &[u32] {
        let (at, stride) = self.vector(panel, vector);
        let words: &[u32] = bytemuck::cast_slice(&self.words);
        &words[panel * COLUMNS * self.depth() + at + from * stride..]
    }

    /// `count` words from `from` on of `panel` of a quantised weight, unpacked into `room`: `[words, 16 ·
    /// vectors]`. Both numbers are multiples of what 32 inputs fill. `None` for a plain weight.
    pub(in crate::kernels) fn unpacked<'a>(
        &self,
        panel: usize,
        (from, count): (usize, usize),
        room: &'a mut Vec<u32>,
    ) -> Option<&'a [u32]> {
        let layout = self.layout(self.quantised?, panel);
        let words = self.precision.words(GROUP);
        assert!(from.is_multiple_of(words) && count.is_multiple_of(words), "whole blocks");
        room.resize(count * layout.lanes, 0);
        let bytes = layout.group_bytes();
        let groups = &self.panel_bytes(panel)[from / words * bytes..][..count / words * bytes];
        layout.unpack(groups, room);
        Some(room)
    }

    /// `panel` of a quantised weight as Winograd's products want it: `[16, words of a tap, 16 · vectors]`.
    pub(in crate::kernels) fn unpack_places(
        &self,
        kind: Quantisation,
        panel: usize,
        taps: &mut Vec<f32>,
        out: &mut [u32],
    ) {
        // Words that are unpacked together: their taps stay in the second-level cache.
        const SHORT: usize = 64;
        let layout = self.layout(kind, panel);
        let (words, bytes) = (self.precision.words(GROUP), layout.group_bytes());
        let bytes_of = |count: usize| count / words * bytes;
        let panel = self.panel_bytes(panel);
        for from in (0..self.tap()).step_by(SHORT) {
            let count = SHORT.min(self.tap() - from);
            let numbers = count / words * GROUP * layout.lanes;
            taps.resize(9 * numbers, 0.0);
            for (tap, numbers) in taps.chunks_exact_mut(numbers.max(1)).enumerate() {
                let at = bytes_of(tap * self.tap() + from);
                layout.unpack_floats(&panel[at..][..bytes_of(count)], numbers);
            }
            let out = &mut out[from * layout.lanes..];
            winograd::places(taps, self.precision, out, self.tap() * layout.lanes);
        }
    }

    /// Outputs of `panel`: the first in the weight, how many, and the lane of the first.
    fn sources(&self, panel: usize) -> Vec<(usize, usize, usize)> {
        let width = self.panel_width();
        let first = panel * width;
        let count = width.min(self.outputs() - first);
        match self.arrangement {
            Arrangement::Gated => {
                vec![(first, count, 0), (self.outputs() + first, count, width)]
            }
            _ => vec![(first, count, 0)],
        }
    }

    /// The numbers of one output in the order in which they are packed.
    fn ordered(&self, filter: &[f32]) -> Vec<f32> {
        let area = self.shape.kernel * self.shape.kernel;
        let mut ordered = Vec::with_capacity(self.side * self.side * self.shape.inputs);
        for tap in 0..self.side * self.side {
            let taps = self.taps(tap);
            ordered.extend(
                filter
                    .chunks_exact(area)
                    .map(|filter| -> f32 { taps.iter().flatten().map(|tap| filter[*tap]).sum() }),
            );
        }
        ordered
    }

    /// Writes the blocks of one output into its lane.
    fn place_blocks(
        &self,
        kind: Quantisation,
        blocks: &Blocks,
        words: &mut [u32],
        (lane, lanes): (usize, usize),
    ) {
        let layout = Layout { kind, precision: self.precision, lanes };
        let groups = bytemuck::cast_slice_mut(words).chunks_exact_mut(layout.group_bytes());
        let blocks = blocks.scales.iter().zip(blocks.numbers.chunks_exact(GROUP));
        for (group, (scale, numbers)) in groups.zip(blocks) {
            layout.put(group, lane, *scale, numbers);
        }
    }

    /// Writes the filters of up to 16 outputs into their lanes. Lanes without an output get zeros.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn place(&self, filters: &[f32], out: &mut [u32], lanes: usize) {
        let WeightShape { inputs, kernel, .. } = self.shape;
        let (area, places) = (kernel * kernel, self.side * self.side);
        let per_word = if self.precision == Precision::F32 { 1 } else { 2 };
        let writing = Writing::to(out);
        // Whole words of channels whose numbers stay in the first-level cache.
        let stretch = (STRETCH / places.max(area)).next_multiple_of(2).max(2);
        let mut turned = vec![[0f32; LANES]; stretch * area];
        let mut made = Vec::new();
        for from in (0..inputs).step_by(stretch) {
            let count = stretch.min(inputs - from);
            let turned = &mut turned[..count * area];
            transpose::turn(filters, inputs * area, from * area, turned);
            let numbers = self.spread(turned, &mut made);
            for place in 0..places {
                let row = place * self.tap() + from / per_word;
                let words = out[row * lanes..].chunks_mut(lanes).take(count.div_ceil(per_word));
                for (i, words) in words.enumerate() {
                    let low = &numbers[i * per_word * places + place];
                    let packed = match self.precision {
                        Precision::F32 => low.map(f32::to_bits),
                        Precision::Bf16 => {
                            let high = numbers.get((2 * i + 1) * places + place);
                            let high = high.unwrap_or(&[0.0; LANES]);
                            std::array::from_fn(|lane| pair(low[lane], high[lane]))
                        }
                    };
                    transpose::put(packed, words, writing);
                }
            }
        }
    }

    /// The numbers of some channels as this arrangement holds them: `[channels, places]` of `[channels, taps]`.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn spread<'a>(&self, taps: &'a [Lanes], made: &'a mut Vec<Lanes>) -> &'a [Lanes] {
        match self.arrangement {
            Arrangement::Plain | Arrangement::Gated => return taps,
            Arrangement::Upsampled(..) => {
                made.clear();
                made.resize(taps.len() / 9 * 4, [0.0; LANES]);
                for tap in 0..4 {
                    for source in self.taps(tap).into_iter().flatten() {
                        let channels = made.chunks_exact_mut(4).zip(taps.chunks_exact(9));
                        for (made, taps) in channels {
                            let sums = made[tap].iter_mut().zip(taps[source]);
                            sums.for_each(|(sum, number)| *sum += number);
                        }
                    }
                }
            }
            Arrangement::Winograd => {
                made.resize(taps.len() / 9 * 16, [0.0; LANES]);
                for (taps, made) in taps.as_chunks().0.iter().zip(made.as_chunks_mut().0) {
                    *made = winograd::kernel_places(taps);
                }
            }
        }
        made
    }

    /// The taps of the weight that are added into tap `tap` of the packed one.
    fn taps(&self, tap: usize) -> [Option<usize>; 4] {
        let Arrangement::Upsampled(row, column) = self.arrangement else {
            return [Some(tap), None, None, None];
        };
        // Of even pixels the first tap falls on the neighbour before, the others on the pixel itself;
        // of odd ones the last falls on the neighbour behind.
        let falls = |parity: usize, half: usize| match (parity, half) {
            (0, 0) => 0..1,
            (0, _) => 1..3,
            (_, 0) => 0..2,
            _ => 2..3,
        };
        let mut all = [None; 4];
        let pairs =
            falls(row, tap / 2).flat_map(|y| falls(column, tap % 2).map(move |x| 3 * y + x));
        for (slot, tap) in all.iter_mut().zip(pairs) {
            *slot = Some(tap);
        }
        all
    }
}

multiversion! {
    fn place(packed: &Packed, filters: &[f32], out: &mut [u32], lanes: usize) {
        packed.place(filters, out, lanes);
        transpose::settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_every_number_once() {
        for (outputs, inputs, kernel) in [(1, 1, 1), (70, 5, 3), (128, 8, 1), (200, 3, 2)] {
            let shape = WeightShape { outputs, inputs, kernel };
            let values: Vec<f32> =
                (0..outputs * inputs * kernel * kernel).map(|i| i as f32 + 1.0).collect();
            let packed = Packed::of(shape, Arrangement::Plain, Precision::F32, &values).unwrap();
            let mut found: Vec<f32> = packed.words.iter().copied().filter(|v| *v != 0.0).collect();
            found.sort_by(f32::total_cmp);
            assert_eq!(found, values);
            assert_eq!(packed.bytes() % (4 * LANES), 0);
        }
    }

    #[test]
    fn common_weights_are_packed_as_all_others() {
        for (outputs, inputs, kernel) in [(40, 64, 1), (64, 32, 3), (20, 6, 3), (33, 96, 1)] {
            let shape = WeightShape { outputs, inputs, kernel };
            let area = kernel * kernel;
            let values: Vec<f32> =
                (0..outputs * inputs * area).map(|i| ((i * 37) % 401) as f32 - 200.0).collect();
            let packed = Packed::of(shape, Arrangement::Plain, Precision::Bf16, &values).unwrap();
            for output in 0..outputs {
                for channel in 0..inputs {
                    for tap in 0..area {
                        let stored = values[(output * inputs + channel) * area + tap];
                        assert_eq!(packed.value(output, tap, channel), stored);
                    }
                }
            }
        }
    }

    #[test]
    fn doubled_kernels_keep_the_sum_of_their_taps() {
        let shape = WeightShape { outputs: 1, inputs: 1, kernel: 3 };
        let values: Vec<f32> = (1..=9).map(|i| i as f32).collect();
        for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let kind = Arrangement::Upsampled(row, column);
            let packed = Packed::of(shape, kind, Precision::F32, &values).unwrap();
            let sum: f32 = packed.words.iter().sum();
            assert_eq!(sum, 45.0);
        }
        let packed =
            Packed::of(shape, Arrangement::Upsampled(0, 1), Precision::F32, &values).unwrap();
        let tap = |i: usize| packed.words[i * LANES];
        assert_eq!([tap(0), tap(1), tap(2), tap(3)], [3.0, 3.0, 24.0, 15.0]);
    }
}
