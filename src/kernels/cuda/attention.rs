//! Attention with 16-bit floats whose scores never leave the registers.

use super::Argument::{Address, Float, Number};
use super::{Input, Kernel, Output, device, name_of, ptx};
use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum as FunctionAttribute;
use candle_core::{DType, Error, Result, Tensor};

/// A compiled kernel: heads up to `width`, with blocks of so many warps, each of which takes 16 queries, and so
/// many keys in shared memory at once, twice.
struct Built {
    width: usize,
    warps: usize,
    keys: usize,
}

const BUILT: [Built; 7] = [
    Built { width: 16, warps: 8, keys: 64 },
    Built { width: 32, warps: 8, keys: 64 },
    Built { width: 48, warps: 8, keys: 64 },
    Built { width: 64, warps: 8, keys: 64 },
    Built { width: 80, warps: 8, keys: 64 },
    Built { width: 128, warps: 4, keys: 64 },
    Built { width: 160, warps: 4, keys: 32 },
];

/// softmax(q·kᵀ/√K)·v over heads of `q [B, N, heads·K]`, `k` and `v [B, T, heads·K]`; nothing where this is not
/// built: f32, heads that are too wide or no multiples of 8, cards before Ampere.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
) -> Result<Option<Tensor>> {
    let (batch, queries, inner) = q.dims3()?;
    let keys = k.dim(1)?;
    let width = inner / heads.max(1);
    let Some(built) = BUILT.iter().find(|built| width <= built.width) else { return Ok(None) };
    let rows = 16 * built.warps;
    let device = device(q)?;
    let (major, _) = device.cuda_stream().context().compute_capability().map_err(Error::wrap)?;
    if q.dtype() == DType::F32 || !width.is_multiple_of(8) || major < 8 || keys == 0 {
        return Ok(None);
    }
    for other in [k, v] {
        if other.dims() != [batch, keys, inner] || other.dtype() != q.dtype() {
            return Err(Error::Msg(format!(
                "{:?} among the keys of {:?}",
                other.shape(),
                q.shape()
            )));
        }
    }
    let shape = q.shape().clone();
    let name = format!("attention_{}_{}", name_of(q.dtype())?, built.width);
    // Compiled for a card before Ampere, the module lacks instructions and is not loaded on any.
    let Ok(kernel) = Kernel::new(q, &name, ("colora_attention", ptx::ATTENTION)) else {
        return Ok(None);
    };
    let shared = (rows + 4 * built.keys) * (built.width + 8) * q.dtype().size_in_bytes();
    let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.function.set_attribute(attribute, shared as i32).map_err(Error::wrap)?;
    let y = Output::new(&device, &shape, q.dtype())?;
    let (q, k, v) = (Input::new(q)?, Input::new(k)?, Input::new(v)?);
    let number = |n: usize| Number(n as i32);
    let arguments = [
        Address(q.address),
        Address(k.address),
        Address(v.address),
        Address(y.address),
        number(queries),
        number(keys),
        number(heads),
        number(width),
        Float(std::f32::consts::LOG2_E / (width as f32).sqrt()),
    ];
    let config = LaunchConfig {
        grid_dim: (queries.div_ceil(rows) as u32, heads as u32, batch as u32),
        block_dim: (32 * built.warps as u32, 1, 1),
        shared_mem_bytes: shared as u32,
    };
    // SAFETY: the arguments are the kernel's, of the sizes that were just checked.
    unsafe { kernel.launch(config, &arguments)? };
    Ok(Some(y.tensor(shape)))
}
