//! Floor 3. The convolution: the other place that looks inside a weight.

use crate::error::Result;
use crate::kernels::{self, PackedKernel};
use crate::weights::{Branch, Scope};
use candle_core::Tensor;
use std::sync::Arc;

/// Kernel side, stride and padding of a square convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Kernel side.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
}

impl Geometry {
    /// 3×3 that keeps the size.
    pub const SAME: Geometry = Geometry { kernel: 3, stride: 1, padding: 1 };
    /// 1×1.
    pub const POINT: Geometry = Geometry { kernel: 1, stride: 1, padding: 0 };
    /// 3×3 that halves the size.
    pub const HALVE: Geometry = Geometry { kernel: 3, stride: 2, padding: 1 };

    /// A kernel that keeps the size.
    pub fn same(kernel: usize) -> Self {
        Geometry { kernel, stride: 1, padding: kernel.saturating_sub(1) / 2 }
    }
}

/// A 2-D convolution, plus the low-rank branches of its weight if it has any.
#[derive(Debug, Clone)]
pub struct Conv2d {
    kernel: Kernel,
    branches: Arc<[Branch]>,
    bias: Option<Tensor>,
    geometry: Geometry,
}

/// The weight as this layer multiplies by it.
#[derive(Debug, Clone)]
enum Kernel {
    Dense(Tensor),
    /// Rounded to bf16 and laid out for the processor.
    Packed(PackedKernel),
}

impl Conv2d {
    /// `weight [outputs, inputs, k, k]` and `bias [outputs]`.
    pub fn new(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let bias = Some(scope.tensor("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(scope, inputs, outputs, geometry)? })
    }

    /// `weight [outputs, inputs, k, k]`; a bias is used if the source has one.
    pub fn without_bias(
        scope: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        geometry: Geometry,
    ) -> Result<Self> {
        let shape = [outputs, inputs, geometry.kernel, geometry.kernel];
        let weight = scope.weight("weight", &shape)?;
        let kernel = if scope.half_products() && kernels::usable(weight.base()) {
            let values = weight.base().flatten_all()?.to_vec1::<f32>()?;
            Kernel::Packed(PackedKernel::new(&values, outputs, inputs, geometry.kernel))
        } else {
            Kernel::Dense(weight.base().clone())
        };
        let branches = weight.branches().into();
        Ok(Self { kernel, branches, bias: scope.optional("bias", &[outputs])?, geometry })
    }

    /// `x`: `[B, inputs, H, W]`. Returns `[B, outputs, H', W']`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Geometry { padding, stride, .. } = self.geometry;
        let mut y = match &self.kernel {
            Kernel::Dense(weight) => convolve(x, weight, self.bias.as_ref(), self.geometry)?,
            Kernel::Packed(packed) => packed.forward(x, self.bias.as_ref(), padding, stride)?,
        };
        for branch in &*self.branches {
            y = (y + self.branch_output(x, branch)?)?;
        }
        Ok(y)
    }

    /// The spatial factor takes the geometry of the layer, the others are 1×1.
    fn branch_output(&self, x: &Tensor, branch: &Branch) -> Result<Tensor> {
        let hidden = match &branch.mid {
            Some(mid) => {
                let hidden = convolve(x, &square(&branch.down)?, None, Geometry::POINT)?;
                convolve(&hidden, mid, None, self.geometry)?
            }
            None => convolve(x, &square(&branch.down)?, None, self.geometry)?, // [B, R, H', W']
        };
        let y = convolve(&hidden, &square(&branch.up)?, None, Geometry::POINT)?;
        Ok((y * f64::from(branch.scale))?)
    }
}

/// A factor stored as a matrix is a 1×1 kernel.
fn square(factor: &Tensor) -> Result<Tensor> {
    Ok(if factor.rank() == 2 { factor.unsqueeze(2)?.unsqueeze(3)? } else { factor.clone() })
}

fn convolve(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    geometry: Geometry,
) -> Result<Tensor> {
    let Geometry { padding, stride, .. } = geometry;
    if kernels::usable(x) {
        return Ok(kernels::conv2d(x, weight, bias, padding, stride)?);
    }
    let y = x.conv2d(weight, padding, stride, 1, 1)?;
    match bias {
        Some(bias) => Ok(y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?),
        None => Ok(y),
    }
}
