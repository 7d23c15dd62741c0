//! A 3×3 convolution of an image that was doubled first, without the doubled image.
//!
//! Where neighbours are copies of one pixel, their taps can be added up beforehand: each of the four
//! parities of output pixels sees a 2×2 kernel on the small image, 16 products a pixel for 36.

use crate::error::Result;
use crate::kernels::activation::feature_map::FeatureMap;
use crate::kernels::activation::operand::Operand;
use crate::kernels::product::multiply::{Epilogue, Term, Windows, multiply_into};
use crate::kernels::simd::precision::Precision;
use crate::kernels::weight::format::Arrangement;
use crate::kernels::weight::packed::Packed;
use crate::room;
use std::sync::{Arc, OnceLock};

/// The kernels of the four parities. Cloning shares.
#[derive(Debug, Clone)]
pub(crate) struct Upsampled {
    /// By row, then column.
    parities: Arc<[Packed; 4]>,
    ordinary: Arc<OnceLock<Packed>>,
}

impl Upsampled {
    /// `pack(row, column)` packs the kernel in [`Arrangement::Upsampled`].
    ///
    /// # Errors
    /// What `pack` gives.
    pub(crate) fn new(pack: impl Fn(usize, usize) -> Result<Packed>) -> Result<Self> {
        let parities = [pack(0, 0)?, pack(0, 1)?, pack(1, 0)?, pack(1, 1)?];
        Ok(Self { parities: Arc::new(parities), ordinary: Arc::default() })
    }

    /// The precision of the operands that these kernels are multiplied with.
    pub(crate) fn operands(&self) -> Precision {
        self.parities[0].operands()
    }

    /// `x`: the small image with a border of 1. Returns `[B, 2·H, 2·W, outputs]`.
    pub(crate) fn multiply(&self, x: &Operand, finish: Epilogue<'_>) -> Result<FeatureMap> {
        let (height, width) = (x.height - 2, x.width - 2);
        let shape = (x.batch, 2 * height, 2 * width, self.parities[0].outputs());
        FeatureMap::try_filled(shape, |out| {
            for (i, kernel) in self.parities.iter().enumerate() {
                let parity = (i / 2, i % 2);
                let windows =
                    Windows { height, width, stride: 1, origin: parity, scatter: Some(parity) };
                multiply_into(&[Term { x, w: kernel, windows }], finish, out)?;
            }
            Ok(())
        })
    }

    /// The kernel that was doubled, for images that grow to one pixel less; the sums are undone.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory).
    pub(crate) fn ordinary(&self) -> Result<&Packed> {
        if let Some(packed) = self.ordinary.get() {
            return Ok(packed);
        }
        let packed = self.undone()?;
        // Two threads may both have made it; one is kept.
        Ok(self.ordinary.get_or_init(|| packed))
    }

    fn undone(&self) -> Result<Packed> {
        let first = &self.parities[0];
        let shape = first.shape;
        let filter = shape.inputs * 9;
        let mut values = room::zeros(shape.outputs * filter, "weights")?;
        for (at, value) in values.iter_mut().enumerate() {
            let (output, channel, tap) = (at / filter, at % filter / 9, at % 9);
            for (row, sign_y) in undone(tap / 3) {
                for (column, sign_x) in undone(tap % 3) {
                    let parity = &self.parities[2 * row.0 + column.0];
                    let tap = 2 * row.1 + column.1;
                    *value += sign_y * sign_x * parity.value(output, tap, channel);
                }
            }
        }
        Packed::of(shape, Arrangement::Plain, first.precision, &values)
    }
}

/// The taps (parity, half) whose signed sum is tap `tap` of a row of three.
fn undone(tap: usize) -> impl Iterator<Item = ((usize, usize), f32)> {
    let all: &[((usize, usize), f32)] = match tap {
        0 => &[((0, 0), 1.0)],
        1 => &[((0, 1), 1.0), ((1, 1), -1.0)],
        _ => &[((1, 1), 1.0)],
    };
    all.iter().copied()
}
