//! A layer's weight on the CPU: packed, with its bias and its low-rank branches.

use super::geometry::Geometry;
use crate::error::{Error, Result};
use crate::kernels::{
    Arrangement, Epilogue, FeatureMap, Operand, Packed, Precision, Prologue, Term, Upsampled,
    Windows, multiply, multiply_all, multiply_gated, winograd,
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
    /// Precision of the activations that this layer multiplies.
    pub(super) precision: Precision,
    geometry: Geometry,
}

/// A convolution's weight; a matrix is one of 1×1.
#[derive(Debug, Clone)]
enum Kernel {
    Once(Packed),
    /// The kernel multiplies images that are upsampled by 2 first.
    Upsampled(Upsampled),
    /// The kernel is 3×3 and multiplied by Winograd's method.
    Fast(Packed),
}

impl Kernel {
    /// The precision of the operands that it is multiplied with.
    fn operands(&self) -> Precision {
        match self {
            Self::Once(packed) | Self::Fast(packed) => packed.operands(),
            Self::Upsampled(doubled) => doubled.operands(),
        }
    }
}

/// `y += up(scales · down(x))` or `y += up(scales · mid(down(x)))`.
#[derive(Debug, Clone)]
struct PackedBranch {
    /// The kernel is 1×1 when there is a `mid`; else it has the layer's size.
    down: Kernel,
    mid: Option<Kernel>,
    /// One scale for each of the R channels between the factors.
    scales: Box<[f32]>,
    up: Packed,
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
            Kernel::Upsampled(Upsampled::new(|y, x| pack(Arrangement::Upsampled(y, x)))?)
        } else if is_fast(shape, geometry) {
            Kernel::Fast(pack(Arrangement::Winograd)?)
        } else {
            Kernel::Once(pack(Arrangement::Plain)?)
        };
        let branches = PackedBranch::all(scope, shape, Arrangement::Plain, doubled, precision)?;
        let bias = match scope.optional("bias", &shape[..1])? {
            Some(bias) => Some(floats(&bias)?),
            None => None,
        };
        let precision = kernel.operands();
        Ok(Self { kernel, branches, bias, precision, geometry })
    }

    /// A linear layer whose outputs are values and gates: `[2·D, inputs]`.
    pub(super) fn gated(scope: &Scope<'_>, shape: &[usize], precision: Precision) -> Result<Self> {
        let kernel = Kernel::Once(scope.pack("weight", shape, Arrangement::Gated, precision)?);
        let branches = PackedBranch::all(scope, shape, Arrangement::Gated, false, precision)?;
        let bias = Some(floats(&scope.tensor("bias", &shape[..1])?)?);
        let precision = kernel.operands();
        Ok(Self { kernel, branches, bias, precision, geometry: Geometry::POINT })
    }

    /// The layer over `parts` beside each other.
    ///
    /// # Errors
    /// [`Error::Memory`], as of all that multiplies.
    pub(super) fn run(
        &self,
        parts: &[FeatureMap],
        how: Prologue<'_>,
        finish: Epilogue<'_>,
    ) -> Result<FeatureMap> {
        let twice = (2 * parts[0].height, 2 * parts[0].width);
        let doubling = how.grown == Some(twice) && matches!(self.kernel, Kernel::Upsampled(_));
        let grown = if doubling { None } else { how.grown };
        let how = Prologue { grown, border: self.geometry.border(), ..how };
        let Kernel::Fast(packed) = &self.kernel else {
            let operand = Operand::new(parts, how, self.precision)?;
            return self.over(&operand, doubling, finish);
        };
        let y = winograd::multiply(parts, how, packed, self.first(finish))?;
        if self.branches.is_empty() {
            return Ok(y);
        }
        self.branched(y, &Operand::new(parts, how, self.precision)?, false, finish)
    }

    /// The layer over an operand that is ready, padding included.
    pub(super) fn multiply(&self, x: &Operand, finish: Epilogue<'_>) -> Result<FeatureMap> {
        self.over(x, false, finish)
    }

    /// value · GELU(gate) of a layer made by [`gated`](Self::gated), in the precision of the next one's operands.
    pub(super) fn multiply_gated(&self, x: &Operand, precision: Precision) -> Result<Operand> {
        let (Kernel::Once(packed), Some(bias)) = (&self.kernel, &self.bias) else {
            return Err(Error::Internal("a gated layer has one kernel and a bias".into()));
        };
        let hidden = self.all_hidden(x, false)?;
        let terms = self.terms(Some(Term::all(x, packed)), &hidden);
        multiply_gated(&terms, bias, precision)
    }

    fn over(&self, x: &Operand, doubling: bool, finish: Epilogue<'_>) -> Result<FeatureMap> {
        let Kernel::Once(packed) = &self.kernel else {
            let y = self.product(&self.kernel, x, doubling, self.first(finish))?;
            return self.branched(y, x, doubling, finish);
        };
        let finish = Epilogue { bias: finish.bias.or(self.bias.as_deref()), ..finish };
        let windows = Windows::sliding(x, packed.kernel(), self.geometry.stride);
        let hidden = self.all_hidden(x, doubling)?;
        multiply_all(&self.terms(Some(Term { x, w: packed, windows }), &hidden), finish)
    }

    /// What is added to the layer's own product, if branches follow: they are added before the whole is
    /// scaled.
    fn first<'a>(&'a self, finish: Epilogue<'a>) -> Epilogue<'a> {
        let scale = if self.branches.is_empty() { finish.scale } else { 1.0 };
        Epilogue { bias: finish.bias.or(self.bias.as_deref()), scale, ..finish }
    }

    /// `y` and the branches over `x`.
    fn branched(
        &self,
        y: FeatureMap,
        x: &Operand,
        doubling: bool,
        finish: Epilogue<'_>,
    ) -> Result<FeatureMap> {
        if self.branches.is_empty() {
            return Ok(y);
        }
        let hidden = self.all_hidden(x, doubling)?;
        let finish = Epilogue { bias: None, add: Some(&y), ..finish };
        multiply_all(&self.terms(None, &hidden), finish)
    }

    /// The layer's own term and those of its branches.
    fn terms<'a>(&'a self, own: Option<Term<'a>>, hidden: &'a [Operand]) -> Vec<Term<'a>> {
        let branches = self.branches.iter().zip(hidden).map(|(b, x)| Term::all(x, &b.up));
        own.into_iter().chain(branches).collect()
    }

    /// The input of the `up` of every branch.
    fn all_hidden(&self, x: &Operand, doubling: bool) -> Result<Vec<Operand>> {
        let operand = |branch: &PackedBranch| {
            let hidden = self.hidden(branch, x, doubling)?;
            // The scale goes onto the rank-r intermediate: packed factors are then independent of the strength.
            let hidden = hidden.scaled(&branch.scales)?;
            Operand::new(&[hidden], Prologue::default(), branch.up.operands())
        };
        self.branches.iter().map(operand).collect()
    }

    /// The input of a branch's `up`.
    fn hidden(&self, branch: &PackedBranch, x: &Operand, doubling: bool) -> Result<FeatureMap> {
        let (Some(mid), Kernel::Once(down)) = (&branch.mid, &branch.down) else {
            return self.product(&branch.down, x, doubling, Epilogue::default());
        };
        // 1×1 comes first and commutes with doubling; both see the border of the layer.
        let border = self.geometry.border();
        let hidden = multiply(x, down, Windows::inside(x, border), Epilogue::default())?;
        let how = Prologue { border, ..Prologue::default() };
        let operand = Operand::new(&[hidden], how, mid.operands())?;
        self.product(mid, &operand, doubling, Epilogue::default())
    }

    fn product(
        &self,
        kernel: &Kernel,
        x: &Operand,
        doubling: bool,
        finish: Epilogue<'_>,
    ) -> Result<FeatureMap> {
        let stride = self.geometry.stride;
        match kernel {
            Kernel::Once(packed) | Kernel::Fast(packed) => {
                multiply(x, packed, Windows::sliding(x, packed.kernel(), stride), finish)
            }
            Kernel::Upsampled(doubled) if doubling => doubled.multiply(x, finish),
            Kernel::Upsampled(doubled) => {
                multiply(x, doubled.ordinary()?, Windows::sliding(x, 3, stride), finish)
            }
        }
    }
}

impl PackedBranch {
    /// The branches beside the parameter `weight` of `scope`: those without a core as one, so that neither
    /// the input is read nor the output written for each of them.
    fn all(
        scope: &Scope<'_>,
        shape: &[usize],
        arrangement: Arrangement,
        doubled: bool,
        precision: Precision,
    ) -> Result<Vec<Self>> {
        let branches = scope.branches("weight");
        let (cored, thin): (Vec<_>, Vec<_>) =
            branches.iter().partition(|b| b.factors.shape(FactorKind::Mid).is_some());
        let mut groups: Vec<Vec<&Branch>> = cored.into_iter().map(|branch| vec![branch]).collect();
        if !thin.is_empty() {
            groups.push(thin);
        }
        let new =
            |group: &Vec<&Branch>| Self::new(scope, shape, group, arrangement, doubled, precision);
        groups.iter().map(new).collect()
    }

    /// Packs the factors of `group` beside each other, unless another network has them packed.
    ///
    /// `shape`: of the layer's weight. `arrangement`: of its outputs.
    fn new(
        scope: &Scope<'_>,
        shape: &[usize],
        group: &[&Branch],
        arrangement: Arrangement,
        doubled: bool,
        precision: Precision,
    ) -> Result<Self> {
        let identity: Vec<&str> = group.iter().map(|branch| branch.factors.identity()).collect();
        let identity = identity.join("\n");
        let cored = group[0].factors.shape(FactorKind::Mid).is_some();
        // A factor's numbers behind the first dimension: kernels of 1×1 are spelled in several ways.
        let behind = |kind: FactorKind, rank: usize| match kind {
            FactorKind::Up => vec![rank],
            FactorKind::Down if cored => vec![shape[1]],
            FactorKind::Down => shape[1..].to_vec(),
            FactorKind::Mid => [&[rank], &shape[2..]].concat(),
        };
        let read = |branch: &&Branch, kind: FactorKind| -> Result<Tensor> {
            let factor = branch.factors.read(kind)?;
            let dims = [&[factor.dim(0)?][..], &behind(kind, branch.rank())].concat();
            Ok(factor.reshape(dims)?)
        };
        let pack = |kind: FactorKind, arrangement| {
            let make = || -> Result<Packed> {
                let factors: Vec<Tensor> =
                    group.iter().map(|branch| read(branch, kind)).collect::<Result<_>>()?;
                let joined = match factors.as_slice() {
                    [one] => one.clone(),
                    several => Tensor::cat(several, usize::from(kind == FactorKind::Up))?,
                };
                Packed::from_tensor(&joined, joined.dims(), arrangement, precision)
            };
            scope.shared("weight", &format!("{identity} {kind:?}"), arrangement, precision, &make)
        };
        let spatial = |kind: FactorKind| -> Result<Kernel> {
            Ok(if doubled {
                Kernel::Upsampled(Upsampled::new(|y, x| pack(kind, Arrangement::Upsampled(y, x)))?)
            } else {
                Kernel::Once(pack(kind, Arrangement::Plain)?)
            })
        };
        let (down, mid) = if cored {
            let down = Kernel::Once(pack(FactorKind::Down, Arrangement::Plain)?);
            (down, Some(spatial(FactorKind::Mid)?))
        } else {
            (spatial(FactorKind::Down)?, None)
        };
        let scales = group.iter().flat_map(|b| std::iter::repeat_n(b.scale, b.rank()));
        Ok(Self { down, mid, scales: scales.collect(), up: pack(FactorKind::Up, arrangement)? })
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
