//! The geometry of a square convolution.

use crate::kernels::Border;

/// Kernel side, stride and padding of a square convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Kernel side.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Zero padding above and to the left.
    pub padding: usize,
    /// Zero padding below and to the right.
    pub far: usize,
}

impl Geometry {
    /// 3×3 that keeps the size.
    pub const SAME: Geometry = Geometry { kernel: 3, stride: 1, padding: 1, far: 1 };
    /// 1×1.
    pub const POINT: Geometry = Geometry { kernel: 1, stride: 1, padding: 0, far: 0 };
    /// 3×3 that halves the size.
    pub const HALVE: Geometry = Geometry { kernel: 3, stride: 2, padding: 1, far: 1 };

    /// A kernel that keeps the size.
    pub fn same(kernel: usize) -> Self {
        let padding = kernel.saturating_sub(1) / 2;
        Geometry { kernel, stride: 1, padding, far: padding }
    }

    pub(super) fn border(self) -> Border {
        Border { near: self.padding, far: self.far }
    }
}
