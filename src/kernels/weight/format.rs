//! Sizes of a weight, and the order of its outputs in memory.

/// Which outputs lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arrangement {
    /// 64 neighbours.
    Plain,
    /// 32 of the first half beside the same 32 of the second: values and their gates.
    Gated,
    /// A 3×3 kernel as pixels of this parity (row, column) see it when the image was doubled before:
    /// 2×2, the taps that fall on the same pixel added up.
    Upsampled(usize, usize),
    /// A 3×3 kernel transformed for Winograd's convolution: 16 places for 9 taps.
    Winograd,
}

/// Sizes of a weight `[outputs, inputs, kernel, kernel]`; a matrix has a kernel of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightShape {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) kernel: usize,
}
