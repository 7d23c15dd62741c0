//! Several adapters on one weight: the sum, the sequence, and the operators of task arithmetic.

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::kernels::{LowRankProduct, add_product, largest, zeros};
use crate::lora::apply::method::Method;
use crate::lora::apply::spectrum::{LowRankFactors, Spectrum};
use crate::lora::delta::{Amount, Matrices, add_difference};
use crate::lora::factor::broken;
use crate::lora::read::module::{Module, WeightChange};
use crate::room;
use crate::weights::{Site, WeightSource};
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// One adapter's change of one module, with its final multiplier.
#[derive(Debug, Clone, Copy)]
pub(in crate::lora) struct Active<'a> {
    pub(in crate::lora) module: &'a Module,
    /// Strength of the component times the block's weight.
    pub(in crate::lora) m: f32,
    /// Which adapter of the stack, counted in an order that does not depend on the user's unless the method
    /// does: random choices follow it.
    pub(in crate::lora) adapter: usize,
}

/// W' from W.
///
/// `base`: the pristine weight, of `shape`. `active`: in the order in which they act; for the sum an
/// order that does not depend on the user's, so that sums are equal to the bit.
pub(in crate::lora) fn weight(
    site: &str,
    base: Vec<f32>,
    shape: &[usize],
    active: &[Active<'_>],
    method: &Method,
) -> Result<Vec<f32>> {
    let changes: Vec<(Active<'_>, &WeightChange)> =
        active.iter().filter_map(|a| Some((*a, a.module.weight.as_ref()?))).collect();
    let merged = match method {
        Method::Sequential => sequential(base, shape, &changes),
        Method::Ties { .. } | Method::Dare { .. } | Method::DareTies { .. } => {
            combined(site, base, shape, &changes, method)
        }
        Method::Svd { rank } if shape.len() > 1 => truncated(base, shape, &changes, *rank),
        _ => sum(base, shape, &changes),
    }?;
    finite(site, active, &merged)?;
    Ok(merged)
}

/// Low-rank changes of one weight, the common case, as one product that is added where the weight is read.
#[derive(Debug, Clone)]
pub(in crate::lora) struct Summed {
    product: LowRankProduct,
    /// Whether sums cannot overflow. Scanning every weight would cost a tenth of the work; a bound on the
    /// factors nearly always does.
    pub(in crate::lora) safe: bool,
}

impl Summed {
    /// `None` when some change is of another kind.
    pub(in crate::lora) fn new(shape: &[usize], active: &[Active<'_>]) -> Result<Option<Self>> {
        let Some(stacked) = Stacked::of(active)? else { return Ok(None) };
        let product = stacked.product(shape.iter().skip(1).product())?;
        let safe = product.bound() < f32::MAX / 2.0;
        Ok(Some(Self { product, safe }))
    }

    /// Fills `out` with the numbers of the changed weight from number `first` on.
    pub(in crate::lora) fn read(
        &self,
        site: &Site,
        base: &dyn WeightSource,
        first: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let columns = self.product.columns().max(1);
        let (before, last) = (first % columns, (first + out.len()).next_multiple_of(columns));
        if before > 0 || last > first + out.len() {
            // Products are of whole rows.
            let mut rows = room::zeros(last - (first - before), "the weights of adapters")?;
            self.read(site, base, first - before, &mut rows)?;
            out.copy_from_slice(&rows[before..before + out.len()]);
            return Ok(());
        }
        base.read_f32(site, first, out)?;
        self.product.add_to(first / columns, out);
        Ok(())
    }

    /// The whole changed weight: read, changed and checked in blocks that stay in the cache.
    pub(in crate::lora) fn whole(
        &self,
        site: &Site,
        base: &dyn WeightSource,
        active: &[Active<'_>],
    ) -> Result<Vec<f32>> {
        let mut out = zeros(self.product.len(), "the weights of adapters")?;
        let columns = self.product.columns().max(1);
        let block = (BLOCK / columns).max(1) * columns;
        out.par_chunks_mut(block).enumerate().try_for_each(|(i, out)| {
            self.read(site, base, i * block, out)?;
            if self.safe { Ok(()) } else { finite(site.as_str(), active, out) }
        })?;
        Ok(out)
    }
}

/// W + Σ up · down on the device where W is, in f32 until the last cast; nothing when some change is of another
/// kind, or might overflow.
pub(in crate::lora) fn sum_there(weight: &Tensor, active: &[Active<'_>]) -> Result<Option<Tensor>> {
    let Some(stacked) = Stacked::of(active)? else { return Ok(None) };
    let (up, down, rank) = stacked.joined();
    let bound = largest(&up) * largest(&down) * rank as f32;
    if rank == 0 || !bound.is_finite() {
        return Ok(None);
    }
    let (device, rows) = (weight.device(), up.len() / rank);
    let columns = down.len() / rank;
    let up = Tensor::from_vec(up, (rows, rank), device)?;
    let down = Tensor::from_vec(down, (rank, columns), device)?;
    let change = up.matmul(&down)?.reshape(weight.shape())?;
    Ok(Some((weight.to_dtype(DType::F32)? + change)?.to_dtype(weight.dtype())?))
}

/// Elements of a block: half of a second-level cache.
const BLOCK: usize = 128 << 10;

fn finite(site: &str, active: &[Active<'_>], values: &[f32]) -> Result<()> {
    let Some(why) = broken(values) else { return Ok(()) };
    let guilty: Vec<&Active<'_>> = active.iter().filter(|a| overflows(a)).collect();
    let guilty = if guilty.is_empty() { active.iter().collect() } else { guilty };
    let mut files: Vec<(PathBuf, Vec<String>)> = Vec::new();
    for module in guilty.iter().map(|a| a.module) {
        let Some(path) = module.factors().first().map(|factor| factor.path().to_path_buf()) else {
            continue;
        };
        let stem = format!("`{}`", module.stem);
        match files.iter_mut().find(|(known, _)| *known == path) {
            Some((_, stems)) => stems.push(stem),
            None => files.push((path, vec![stem])),
        }
    }
    let mut files = files.into_iter();
    let corrupt = |path: &Path, why| Err(Error::corrupt(path, why).with_hint(Hint::AllowNan));
    let Some((path, stems)) = files.next() else { return corrupt(Path::new(site), why) };
    let also = |(path, stems): (PathBuf, Vec<String>)| {
        format!(", with that of {} of {}", stems.join(", "), path.display())
    };
    let also: String = files.map(also).collect();
    corrupt(&path, format!("the product of {}{also} {why}", stems.join(", ")))
}

/// Whether the product of an adapter's factors may be too large for a number by itself.
fn overflows(active: &Active<'_>) -> bool {
    let Some(change) = &active.module.weight else { return false };
    let Ok(Some(Matrices { up, down, rank })) = low_rank(change) else { return false };
    let scale = (active.m * change.scale).abs();
    let bound = f64::from(largest(&up)) * f64::from(largest(&down)) * rank as f64;
    let bound = bound * f64::from(scale);
    bound.is_nan() || bound >= f64::from(f32::MAX)
}

/// W + Σ (fᵢ(W, mᵢ) − W): every adapter sees the pristine weight.
fn sum(
    base: Vec<f32>,
    shape: &[usize],
    changes: &[(Active<'_>, &WeightChange)],
) -> Result<Vec<f32>> {
    let columns: usize = shape.iter().skip(1).product();
    let pristine = changes.iter().any(|(_, c)| !is_plain(c)).then(|| base.clone());
    let mut out = base;
    let mut stacked = Stacked::default();
    let mut others = Vec::new();
    for (active, change) in changes {
        match low_rank(change)? {
            Some(matrices) => stacked.push(matrices, active.m * change.scale),
            None => others.push((active, change)),
        }
    }
    stacked.add_to(&mut out, columns)?;
    for (active, change) in others {
        match &pristine {
            Some(pristine) => one(pristine, shape, change, active.m, &mut out)?,
            None => change.delta.add_to(&mut out, shape, active.m * change.scale)?,
        }
    }
    Ok(out)
}

/// W + the best approximation of rank `rank` of the sum of all changes.
fn truncated(
    base: Vec<f32>,
    shape: &[usize],
    changes: &[(Active<'_>, &WeightChange)],
    rank: usize,
) -> Result<Vec<f32>> {
    let mut stacked = Stacked::default();
    let mut dense = room::zeros(base.len(), "the weights of adapters")?;
    let mut whole = false;
    for (active, change) in changes {
        if let Some(matrices) = low_rank(change)? {
            stacked.push(matrices, active.m * change.scale);
        } else {
            whole = true;
            one(&base, shape, change, active.m, &mut dense)?;
        }
    }
    let columns: usize = shape.iter().skip(1).product();
    let spectrum = if whole {
        stacked.add_to(&mut dense, columns)?;
        Spectrum::of_matrix(&dense, shape.first().copied().unwrap_or(1), rank)?
    } else {
        let (up, down, all) = stacked.joined();
        Spectrum::of_product(&up, &down, all)?
    };
    let LowRankFactors { up, down, .. } = spectrum.factors(rank, None);
    let mut out = base;
    add_product(&mut out, columns, &up, &down, 1.0);
    Ok(out)
}

/// Whether a change does not depend on the weight.
fn is_plain(change: &WeightChange) -> bool {
    change.dora.is_none() && change.delta.is_additive()
}

fn low_rank(change: &WeightChange) -> Result<Option<Matrices>> {
    match &change.delta {
        crate::lora::delta::Delta::LowRank(low) if change.dora.is_none() => low.matrices(),
        _ => Ok(None),
    }
}

/// fₙ(… f₁(W)): every adapter sees what the ones before it made, as in ComfyUI and A1111.
fn sequential(
    base: Vec<f32>,
    shape: &[usize],
    changes: &[(Active<'_>, &WeightChange)],
) -> Result<Vec<f32>> {
    let mut weight = base;
    for (active, change) in changes {
        let before = weight.clone();
        one(&before, shape, change, active.m, &mut weight)?;
    }
    Ok(weight)
}

/// target ← target + f(base, m) − base.
pub(in crate::lora) fn one(
    base: &[f32],
    shape: &[usize],
    change: &WeightChange,
    m: f32,
    target: &mut [f32],
) -> Result<()> {
    let Some(dora) = &change.dora else {
        return change.delta.change(base, shape, Amount { scale: change.scale, m }, target);
    };
    let mut direction = base.to_vec();
    // The magnitude belongs to the change at full strength; the multiplier comes afterwards.
    let amount = Amount { scale: change.scale, m: 1.0 };
    change.delta.change(base, shape, amount, &mut direction)?;
    dora.normalise(&mut direction, base, shape)?;
    add_difference(target, &direction, base, m);
    Ok(())
}

/// W + the operator's mix of what every adapter changes at full strength.
fn combined(
    site: &str,
    base: Vec<f32>,
    shape: &[usize],
    changes: &[(Active<'_>, &WeightChange)],
    method: &Method,
) -> Result<Vec<f32>> {
    let mixed = mixed(site, &base, shape, changes, method)?;
    let mut out = base;
    crate::lora::delta::add(&mut out, &mixed, 1.0);
    Ok(out)
}

/// The operator's mix of what every adapter changes at full strength.
pub(in crate::lora) fn mixed(
    site: &str,
    base: &[f32],
    shape: &[usize],
    changes: &[(Active<'_>, &WeightChange)],
    method: &Method,
) -> Result<Vec<f32>> {
    let mut tasks: Vec<(usize, f32, Vec<f32>)> = Vec::new();
    for (active, change) in changes {
        // Several changes of one module by one adapter are one task.
        if tasks.last().is_none_or(|(adapter, ..)| *adapter != active.adapter) {
            let task = room::zeros(base.len(), "the weights of adapters")?;
            tasks.push((active.adapter, active.m, task));
        }
        if let Some((_, _, task)) = tasks.last_mut() {
            one(base, shape, change, 1.0, task)?;
        }
    }
    Ok(method.mix(site, tasks))
}

/// Low-rank changes side by side: one product whatever their number.
#[derive(Debug, Default)]
struct Stacked {
    parts: Vec<Matrices>,
    rank: usize,
}

impl Stacked {
    /// All changes of a weight; `None` when some change is of another kind.
    fn of(active: &[Active<'_>]) -> Result<Option<Self>> {
        let mut stacked = Self::default();
        for a in active {
            let Some(change) = &a.module.weight else { return Ok(None) };
            match low_rank(change)? {
                Some(matrices) => stacked.push(matrices, a.m * change.scale),
                None => return Ok(None),
            }
        }
        Ok(Some(stacked))
    }

    /// Adds `amount` · up · down.
    fn push(&mut self, mut matrices: Matrices, amount: f32) {
        // The smaller factor takes the scale.
        matrices.down.iter_mut().for_each(|v| *v *= amount);
        self.rank += matrices.rank;
        self.parts.push(matrices);
    }

    /// The factors of the sum: `up [rows, rank]`, `down [rank, columns]` and the rank.
    fn joined(mut self) -> (Vec<f32>, Vec<f32>, usize) {
        if self.parts.len() == 1
            && let Some(Matrices { up, down, rank }) = self.parts.pop()
        {
            return (up, down, rank);
        }
        let first = self.parts.first();
        let rows = first.map_or(0, |part| part.up.len().checked_div(part.rank).unwrap_or(0));
        let mut up = Vec::with_capacity(rows * self.rank);
        for row in 0..rows {
            for part in &self.parts {
                up.extend_from_slice(&part.up[row * part.rank..(row + 1) * part.rank]);
            }
        }
        let down = self.parts.iter().flat_map(|part| part.down.iter().copied()).collect();
        (up, down, self.rank)
    }

    fn product(self, columns: usize) -> Result<LowRankProduct> {
        let (up, down, rank) = self.joined();
        LowRankProduct::new(up, &down, rank, columns)
    }

    fn add_to(self, target: &mut [f32], columns: usize) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        // As sums that are added while weights are packed, to the bit.
        self.product(columns)?.add_to(0, target);
        Ok(())
    }
}

/// b' from b; `base` is zeros where the module has no bias.
pub(in crate::lora) fn bias(site: &str, base: &[f32], active: &[Active<'_>]) -> Result<Vec<f32>> {
    let mut out = base.to_vec();
    for a in active {
        if let Some(bias) = &a.module.bias {
            bias.add_to(base, a.m, &mut out)?;
        }
    }
    finite(site, active, &out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::{AdapterFile, Dictionary, Lora, ReadOptions};
    use crate::weights::names::Part;
    use crate::weights::{Checkpoint, CheckpointFile, Placement};
    use candle_core::Device;
    use std::path::Path;

    /// A source of weights of the shapes that the adapter needs, and the adapter.
    fn world() -> (Checkpoint, Lora) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let unet = root.join("goldens/sd15/unet/diffusion_pytorch_model.safetensors");
        let file = CheckpointFile::open(unet).unwrap();
        let mut source = Checkpoint::new("sd15", Placement::default());
        for name in file.names() {
            source.insert(Site::new(format!("unet.{name}")), &file, name, Part::Whole).unwrap();
        }
        let dictionary = Dictionary::new(&source, "SD 1.x");
        let file = AdapterFile::open(root.join("zoo/good/sd15-kohya-full.safetensors")).unwrap();
        let lora = Lora::resolve(file, &dictionary, ReadOptions::default()).unwrap();
        (source, lora)
    }

    #[test]
    fn sums_on_a_device_are_those_of_the_cpu() {
        let (source, lora) = world();
        let mut compared = 0;
        for (name, changes) in &lora.modules {
            let site = Site::new(format!("{name}.weight"));
            let Some(shape) = source.shape(&site) else { continue };
            let active: Vec<Active<'_>> =
                changes.iter().map(|module| Active { module, m: 0.7, adapter: 0 }).collect();
            let base = source.get_f32(&site, &shape).unwrap();
            let expected =
                weight(site.as_str(), base.clone(), &shape, &active, &Method::Sum).unwrap();
            let tensor = Tensor::from_vec(base, &shape[..], &Device::Cpu).unwrap();
            let Some(sum) = sum_there(&tensor, &active).unwrap() else { continue };
            assert_eq!(sum.dims(), shape);
            let sum = sum.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let size = expected.iter().fold(0f32, |max, v| max.max(v.abs()));
            let worst = sum.iter().zip(&expected).fold(0f32, |w, (a, b)| w.max((a - b).abs()));
            assert!(worst <= 1e-6 * size, "{site}: {worst:e} of {size:e}");
            compared += 1;
        }
        assert!(compared > 50, "{compared}");
    }
}
