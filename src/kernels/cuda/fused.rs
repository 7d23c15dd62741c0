//! Norms, activations and sums, one pass over memory each.

use super::Argument::{Address, Count, Float, Number};
use super::{Input, Kernel, Output, convolved, device, name_of, ptx};
use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::{D, DType, Error, Result, Shape, Tensor};

/// Threads of a block, as the kernels have them.
const THREADS: usize = 256;
/// Blocks that pass over a tensor together: a few for every multiprocessor.
const BLOCKS: usize = 1024;
/// Most parts of an image that are summed apart.
const CHUNKS: usize = 128;
/// Most groups of a norm, and images of a batch.
const GROUPS: usize = 64;
const IMAGES: usize = 256;

/// A kernel of `fused.cu` for tensors of this type whose rows have `width` numbers, and how many numbers it
/// takes at once.
fn kernel_of(name: &str, x: &Tensor, width: usize) -> Result<(Kernel, usize)> {
    let wide = 16 / x.dtype().size_in_bytes();
    let (form, vector) = if width.is_multiple_of(wide) { ("wide", wide) } else { ("single", 1) };
    let name = format!("{name}_{}_{form}", name_of(x.dtype())?);
    Ok((Kernel::new(x, &name, ("colora_fused", ptx::FUSED))?, vector))
}

fn blocks(grid: (usize, usize)) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid.0 as u32, grid.1 as u32, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}

/// For a kernel that passes over `count` numbers, `vector` at once.
fn passes(count: usize, vector: usize) -> LaunchConfig {
    blocks((count.div_ceil(vector * THREADS).clamp(1, BLOCKS), 1))
}

/// Batch, pixels and channels of `[B, .., C]`.
fn sides(x: &Tensor) -> Result<(usize, usize, usize)> {
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    Ok((batch, x.elem_count() / (batch * channels).max(1), channels))
}

fn expect(x: &Tensor, width: usize, dtype: DType) -> Result<()> {
    if x.elem_count() == width && x.dtype() == dtype {
        return Ok(());
    }
    Err(Error::Msg(format!("{:?} of {:?} where {width} of {dtype:?} belong", x.shape(), x.dtype())))
}

/// Group norm of `[B, .., C]`, followed by SiLU if `silu` is set.
pub(crate) fn group_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    groups: usize,
    eps: f64,
    silu: bool,
) -> Result<Tensor> {
    let (batch, pixels, channels) = sides(x)?;
    if groups == 0 || groups > GROUPS || batch > IMAGES || !channels.is_multiple_of(groups) {
        let what = format!("a group norm of {batch} times {channels} channels in {groups} groups");
        return Err(Error::Msg(what));
    }
    expect(weight, channels, x.dtype())?;
    expect(bias, channels, x.dtype())?;
    let (device, shape) = (device(x)?, x.shape().clone());
    let chunks = pixels.div_ceil(4).clamp(1, CHUNKS);
    let sums = Output::new(&device, &Shape::from((batch, chunks, groups, 2)), DType::F32)?;
    let found = Output::new(&device, &Shape::from((batch, groups, 2)), DType::F32)?;
    let y = Output::new(&device, &shape, x.dtype())?;
    let (first, _) = kernel_of("group_sums", x, channels)?;
    let (second, _) = kernel_of("group_norm", x, channels)?;
    let (from, weight, bias) = (Input::new(x)?, Input::new(weight)?, Input::new(bias)?);
    let sizes = [pixels, channels, groups].map(|n| Number(n as i32));
    let parts = pixels.div_ceil(4).clamp(1, BLOCKS / batch.max(1));
    let of_first = [Address(from.address), Address(sums.address), Address(found.address)];
    let of_second = [from.address, found.address, weight.address, bias.address, y.address];
    // SAFETY: the arguments are the kernels', of the sizes that were just checked.
    unsafe {
        let arguments = [&of_first[..], &sizes, &[Float(eps as f32)]].concat();
        first.launch(blocks((chunks, batch)), &arguments)?;
        let silu = Number(i32::from(silu));
        let arguments = [&of_second.map(Address)[..], &sizes, &[silu]].concat();
        second.launch(blocks((parts, batch)), &arguments)?;
    }
    Ok(y.tensor(shape))
}

/// Layer norm over the last dimension.
pub(crate) fn layer_norm(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    expect(weight, width, x.dtype())?;
    expect(bias, width, x.dtype())?;
    let (rows, shape) = (x.elem_count() / width.max(1), x.shape().clone());
    let y = Output::new(&device(x)?, &shape, x.dtype())?;
    let (function, _) = kernel_of("layer_norm", x, width)?;
    let (from, weight, bias) = (Input::new(x)?, Input::new(weight)?, Input::new(bias)?);
    let arguments = [
        Address(from.address),
        Address(weight.address),
        Address(bias.address),
        Address(y.address),
        Count(rows as i64),
        Number(width as i32),
        Float(eps as f32),
    ];
    let config = blocks((rows.div_ceil(THREADS / 32).max(1), 1));
    // SAFETY: the arguments are the kernel's, of the sizes that were just checked.
    unsafe { function.launch(config, &arguments)? };
    Ok(y.tensor(shape))
}

/// (x + bias + shift + added) · scale, where `bias [C]`, `shift [B, C]` and `added`, shaped as `x [B, .., C]`,
/// may each be absent.
pub(crate) fn finish<'a>(
    x: &Tensor,
    bias: Option<&'a Tensor>,
    shift: Option<&'a Tensor>,
    added: Option<&'a Tensor>,
    scale: f64,
) -> Result<Tensor> {
    let (batch, pixels, channels) = sides(x)?;
    for (part, size) in [(bias, channels), (shift, batch * channels), (added, x.elem_count())] {
        part.map_or(Ok(()), |part| expect(part, size, x.dtype()))?;
    }
    let shape = x.shape().clone();
    let y = Output::new(&device(x)?, &shape, x.dtype())?;
    let (function, vector) = kernel_of("finish", x, channels)?;
    let locked = |part: Option<&'_ Tensor>| part.cloned();
    let (bias, shift, added) = (locked(bias), locked(shift), locked(added));
    let from = Input::new(x)?;
    let [bias, shift, added] =
        [&bias, &shift, &added].map(|part| part.as_ref().map(Input::new).transpose());
    let (bias, shift, added) = (bias?, shift?, added?);
    let arguments = [
        Address(from.address),
        Address(Input::address_of(bias.as_ref())),
        Address(Input::address_of(shift.as_ref())),
        Address(Input::address_of(added.as_ref())),
        Address(y.address),
        Count(shape.elem_count() as i64),
        Number(channels as i32),
        Count((pixels * channels) as i64),
        Float(scale as f32),
    ];
    // SAFETY: the arguments are the kernel's, of the sizes that were just checked.
    unsafe { function.launch(passes(shape.elem_count(), vector), &arguments)? };
    Ok(y.tensor(shape))
}

/// value · GELU(gate) of x + bias, value and gate being the halves of the last dimension.
pub(crate) fn gated(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)? / 2;
    expect(bias, 2 * width, x.dtype())?;
    let mut sides = x.dims().to_vec();
    if let Some(last) = sides.last_mut() {
        *last = width;
    }
    let shape = Shape::from(sides);
    let y = Output::new(&device(x)?, &shape, x.dtype())?;
    let (function, vector) = kernel_of("gated", x, width)?;
    let (from, bias) = (Input::new(x)?, Input::new(bias)?);
    let arguments = [
        Address(from.address),
        Address(bias.address),
        Address(y.address),
        Count(shape.elem_count() as i64),
        Number(width as i32),
    ];
    // SAFETY: the arguments are the kernel's, of the sizes that were just checked.
    unsafe { function.launch(passes(shape.elem_count(), vector), &arguments)? };
    Ok(y.tensor(shape))
}

/// Images `[B, H, W, C]` grown to other sides by nearest neighbours.
pub(crate) fn upsample_to(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (batch, rows, columns, channels) = x.dims4()?;
    let shape = Shape::from((batch, height, width, channels));
    let y = Output::new(&device(x)?, &shape, x.dtype())?;
    let (function, vector) = kernel_of("grow", x, channels)?;
    let from = Input::new(x)?;
    let number = |n: usize| Number(n as i32);
    let arguments = [
        Address(from.address),
        Address(y.address),
        Count(shape.elem_count() as i64),
        number(channels),
        number(rows),
        number(columns),
        number(height),
        number(width),
    ];
    // SAFETY: the arguments are the kernel's, of these sizes.
    unsafe { function.launch(passes(shape.elem_count(), vector), &arguments)? };
    Ok(y.tensor(shape))
}

/// Bytes of unfolded pixels at once.
const UNFOLDED: usize = 256 << 20;

/// Convolution of `[B, H, W, C]` with `weight [outputs, k, k, C]`, zeros around it, as a product of matrices: in f32
/// that is faster than the library's convolutions that do not round.
pub(crate) fn convolve_unfolded(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (_, height, width, channels) = x.dims4()?;
    let [batch, rows, columns, outputs] = convolved(x, weight, stride, padding)?;
    let kernel = weight.dim(1)?;
    let columns_of_pixel = kernel * kernel * channels;
    let weight = weight.reshape((outputs, columns_of_pixel))?.t()?;
    let pixels = batch * rows * columns;
    let most = (UNFOLDED / (columns_of_pixel * x.dtype().size_in_bytes())).max(1);
    let (function, vector) = kernel_of("unfold", x, channels)?;
    let mut parts = Vec::with_capacity(pixels.div_ceil(most));
    for first in (0..pixels).step_by(most) {
        let shape = Shape::from((most.min(pixels - first), columns_of_pixel));
        let y = Output::new(&device(x)?, &shape, x.dtype())?;
        let from = Input::new(x)?;
        let sizes = [channels, height, width, rows, columns, kernel, stride, padding];
        let memory = [Address(from.address), Address(y.address)];
        let counts = [Count(shape.elem_count() as i64), Count(first as i64)];
        let arguments = [&memory[..], &counts, &sizes.map(|n| Number(n as i32))].concat();
        // SAFETY: the arguments are the kernel's, of these sizes.
        unsafe { function.launch(passes(shape.elem_count(), vector), &arguments)? };
        parts.push(y.tensor(shape).matmul(&weight)?);
    }
    Tensor::cat(&parts, 0)?.reshape((batch, rows, columns, outputs))
}
