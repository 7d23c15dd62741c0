//! Floor 3. A layer's weight on the CPU: packed, with its bias and its low-rank branches.

use super::Geometry;
use crate::error::Result;
use crate::kernels::{
    Arrangement, Doubled, Finish, Map, Operand, Packed, Precision, Preparation, Windows, multiply,
    winograd,
};
use crate::weights::{Branch, FactorKind, Scope};
use candle_core::Tensor;
use std::sync::Arc;

/// Everything that a linear or convolution layer multiplies by. Cloning shares.
#[derive(Debug, Clone)]
pub(super) struct PackedLayer {
    kernel: Kernel,
    branches: Vec<PackedBranch>,
    pub(super) bias: Option<Arc<[f32]>>,
    /// Of operands.
    pub(super) precision: Precision,
    geometry: Geometry,
}

/// A convolution's weight; a matrix is one of 1×1.
#[derive(Debug, Clone)]
enum Kernel {
    Once(Packed),
    /// For images that are doubled first.
    Doubled(Doubled),
    /// 3×3 by fewer products.
    Fast(Packed),
}

impl Kernel {
    /// The precision of the operands that it is multiplied with.
    fn operands(&self) -> Precision {
        match self {
            Self::Once(packed) | Self::Fast(packed) => packed.operands(),
            Self::Doubled(doubled) => doubled.operands(),
        }
    }
}

/// `y += scale · up(down(x))` or `y += scale · up(mid(down(x)))`.
#[derive(Debug, Clone)]
struct PackedBranch {
    /// 1×1 when there is a `mid`, else as the layer's.
    down: Kernel,
    mid: Option<Kernel>,
    up: Packed,
    scale: f32,
}

impl PackedLayer {
    /// Packs the parameter `weight` of `scope`, whose shape is `shape`, and takes `bias` if there is one.
    pub(super) fn new(
        scope: &Scope<'_>,
        shape: &[usize],
        geometry: Geometry,
        doubled: bool,
        precision: Precision,
    ) -> Result<Self> {
        let pack = |arrangement| scope.pack("weight", shape, arrangement, precision);
        let kernel = if doubled {
            Kernel::Doubled(Doubled::new(|y, x| pack(Arrangement::Doubled(y, x)))?)
        } else if is_fast(shape, geometry) {
            Kernel::Fast(pack(Arrangement::Winograd)?)
        } else {
            Kernel::Once(pack(Arrangement::Plain)?)
        };
        let branches = scope.branches("weight");
        let branches = branches.iter().map(|branch| PackedBranch::new(scope, branch, doubled, precision));
        let bias = match scope.optional("bias", &shape[..1])? {
            Some(bias) => Some(floats(&bias)?),
            None => None,
        };
        let branches = branches.collect::<Result<_>>()?;
        let precision = kernel.operands();
        Ok(Self { kernel, branches, bias, precision, geometry })
    }

    /// A linear layer whose outputs are values and gates: `[2·D, inputs]`.
    ///
    /// Gates with branches stay apart, because branches are added before the gate closes.
    pub(super) fn gated(scope: &Scope<'_>, shape: &[usize], precision: Precision) -> Result<Self> {
        if !scope.branches("weight").is_empty() {
            return Self::new(scope, shape, Geometry::POINT, false, precision);
        }
        let kernel = Kernel::Once(scope.pack("weight", shape, Arrangement::Gated, precision)?);
        let bias = Some(floats(&scope.tensor("bias", &shape[..1])?)?);
        let precision = kernel.operands();
        Ok(Self { kernel, branches: Vec::new(), bias, precision, geometry: Geometry::POINT })
    }

    /// The weight of a layer without doubling.
    pub(super) fn once(&self) -> Option<&Packed> {
        match &self.kernel {
            Kernel::Once(packed) => Some(packed),
            Kernel::Doubled(_) | Kernel::Fast(_) => None,
        }
    }

    /// The layer over `parts` beside each other.
    pub(super) fn run(&self, parts: &[Map], how: Preparation<'_>, finish: Finish<'_>) -> Map {
        let twice = (2 * parts[0].height, 2 * parts[0].width);
        let doubling = how.grown == Some(twice) && matches!(self.kernel, Kernel::Doubled(_));
        let grown = if doubling { None } else { how.grown };
        let how = Preparation { grown, border: self.geometry.border(), ..how };
        let Kernel::Fast(packed) = &self.kernel else {
            let operand = Operand::new(parts, how, self.precision);
            return self.over(&operand, doubling, finish);
        };
        let y = winograd::multiply(parts, how, packed, self.first(finish));
        if self.branches.is_empty() {
            return y;
        }
        self.branched(y, &Operand::new(parts, how, self.precision), false, finish)
    }

    /// The layer over an operand that is ready, padding included.
    pub(super) fn multiply(&self, x: &Operand, finish: Finish<'_>) -> Map {
        self.over(x, false, finish)
    }

    fn over(&self, x: &Operand, doubling: bool, finish: Finish<'_>) -> Map {
        let y = self.product(&self.kernel, x, doubling, self.first(finish));
        self.branched(y, x, doubling, finish)
    }

    /// What is added to the layer's own product: its bias, if there is no other; branches are added
    /// before the whole is scaled.
    fn first<'a>(&'a self, finish: Finish<'a>) -> Finish<'a> {
        let scale = if self.branches.is_empty() { finish.scale } else { 1.0 };
        Finish { bias: finish.bias.or(self.bias.as_deref()), scale, ..finish }
    }

    /// `y` and the branches over `x`.
    fn branched(&self, mut y: Map, x: &Operand, doubling: bool, finish: Finish<'_>) -> Map {
        for (i, branch) in self.branches.iter().enumerate() {
            // The thinnest place for the scale: factors then serve every strength.
            let hidden = self.hidden(branch, x, doubling).mapped(|h| h * branch.scale);
            let operand =
                Operand::new(&[hidden], Preparation::default(), branch.up.operands());
            let scale = if i + 1 == self.branches.len() { finish.scale } else { 1.0 };
            let finish = Finish { bias: None, add: Some(&y), scale };
            y = multiply(&operand, &branch.up, Windows::all(&operand), finish);
        }
        y
    }

    /// What a branch's `up` multiplies.
    fn hidden(&self, branch: &PackedBranch, x: &Operand, doubling: bool) -> Map {
        let (Some(mid), Kernel::Once(down)) = (&branch.mid, &branch.down) else {
            return self.product(&branch.down, x, doubling, Finish::default());
        };
        // 1×1 comes first and commutes with doubling; both see the border of the layer.
        let border = self.geometry.border();
        let hidden = multiply(x, down, Windows::inside(x, border), Finish::default());
        let how = Preparation { border, ..Preparation::default() };
        let operand = Operand::new(&[hidden], how, mid.operands());
        self.product(mid, &operand, doubling, Finish::default())
    }

    fn product(&self, kernel: &Kernel, x: &Operand, doubling: bool, finish: Finish<'_>) -> Map {
        let stride = self.geometry.stride;
        match kernel {
            Kernel::Once(packed) | Kernel::Fast(packed) => {
                multiply(x, packed, Windows::sliding(x, packed.kernel(), stride), finish)
            }
            Kernel::Doubled(doubled) if doubling => doubled.multiply(x, finish),
            Kernel::Doubled(doubled) => {
                multiply(x, doubled.ordinary(), Windows::sliding(x, 3, stride), finish)
            }
        }
    }
}

impl PackedBranch {
    /// Packs the factors beside the parameter `weight` of `scope`, unless another network has them packed.
    fn new(
        scope: &Scope<'_>,
        branch: &Branch,
        doubled: bool,
        precision: Precision,
    ) -> Result<Self> {
        let factors = &*branch.factors;
        let pack = |kind: FactorKind, arrangement| {
            let variant = format!("{} {kind:?}", factors.identity());
            let shape = factors.shape(kind).unwrap_or_default();
            let make = || -> Result<Packed> {
                Ok(Packed::from_tensor(&factors.read(kind)?, shape, arrangement, precision)?)
            };
            scope.shared("weight", &variant, arrangement, precision, &make)
        };
        let spatial = |kind: FactorKind| -> Result<Kernel> {
            let kernel = factors.shape(kind).and_then(|shape| shape.get(2));
            Ok(if doubled && kernel == Some(&3) {
                Kernel::Doubled(Doubled::new(|y, x| pack(kind, Arrangement::Doubled(y, x)))?)
            } else {
                Kernel::Once(pack(kind, Arrangement::Plain)?)
            })
        };
        let (down, mid) = match factors.shape(FactorKind::Mid) {
            Some(_) => {
                let down = Kernel::Once(pack(FactorKind::Down, Arrangement::Plain)?);
                (down, Some(spatial(FactorKind::Mid)?))
            }
            None => (spatial(FactorKind::Down)?, None),
        };
        let up = pack(FactorKind::Up, Arrangement::Plain)?;
        Ok(Self { down, mid, up, scale: branch.scale })
    }
}

/// Whether fewer products pay: for 3×3 kernels that keep the size, not too few channels to fill the
/// vectors, and not so many that the larger weight costs more than it saves.
fn is_fast(shape: &[usize], geometry: Geometry) -> bool {
    let (outputs, inputs) = (shape[0], shape[1]);
    geometry == Geometry::SAME && inputs >= 32 && outputs >= 32 && inputs * outputs <= FAST
}

/// Largest product of inputs and outputs for which 3×3 kernels are kept in 16 places.
const FAST: usize = 1920 * 640;

/// The numbers of a small tensor.
pub(super) fn floats(x: &Tensor) -> Result<Arc<[f32]>> {
    let x = x.to_dtype(candle_core::DType::F32)?.flatten_all()?;
    Ok(x.to_vec1::<f32>()?.into())
}
