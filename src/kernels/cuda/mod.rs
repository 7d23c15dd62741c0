//! Operators of NVIDIA GPUs on channels-last tensors: what candle does in many launches in one, attention
//! without a matrix of scores, and cuDNN's convolutions in this layout.
//!
//! The kernels are compiled to PTX with the crate (`build.rs`) and to the card's own code by its driver.
//! `nn::plain` says of every operator what it computes, by plain tensors, and is the tests' oracle.
#![allow(unsafe_code)]

mod attention;
#[cfg(feature = "cudnn")]
mod conv;
mod fused;
mod recording;

pub(crate) use attention::attention;
#[cfg(feature = "cudnn")]
pub(crate) use conv::convolve;
pub(crate) use fused::{convolve_unfolded, finish, gated, group_norm, layer_norm, upsample_to};
pub(crate) use recording::{Mark, Recording, Session, working};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, sys,
};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Layout, Result, Shape, Storage};
use candle_core::{StorageRef, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

mod ptx {
    #![allow(missing_docs, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// The GPU of this number, opened once.
///
/// All threads share one stream, so that what one of them uploads is there for the others; and freed memory
/// stays with the process, because asking for it anew costs milliseconds.
///
/// # Errors
/// What the driver says.
pub(crate) fn open(index: usize) -> Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&index) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(index)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: events only matter between several streams; this device has one.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(&cuda.cuda_stream());
    open.insert(index, device.clone());
    Ok(device)
}

/// Drivers without pools of memory refuse; then nothing is kept.
fn keep_freed_memory(stream: &CudaStream) {
    let (mut everything, mut pool) = (u64::MAX, std::ptr::null_mut());
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the context of the stream is alive, and both calls write only to what they are given.
    unsafe {
        let found = sys::cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device());
        if found.result().is_ok() {
            let _ = sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut everything).cast());
        }
    }
}

/// A contiguous tensor on a GPU, locked, and where it is.
struct Input<'a> {
    address: u64,
    _storage: StorageRef<'a>,
}

impl<'a> Input<'a> {
    fn new(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let first = start(layout)?;
        let address = match &*storage {
            Storage::Cuda(storage) => address(storage)?,
            _ => return Err(Error::Msg("a tensor on a GPU was expected".into())),
        };
        let size = tensor.dtype().size_in_bytes();
        Ok(Self { address: address + (first * size) as u64, _storage: storage })
    }

    /// Of a tensor that may be absent: then at 0.
    fn address_of(input: Option<&Self>) -> u64 {
        input.map_or(0, |input| input.address)
    }
}

fn start(layout: &Layout) -> Result<usize> {
    let offsets = layout.contiguous_offsets();
    let (first, _) =
        offsets.ok_or_else(|| Error::Msg("a contiguous tensor was expected".into()))?;
    Ok(first)
}

fn address(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    Ok(match &storage.slice {
        CudaStorageSlice::F32(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::F16(x) => x.device_ptr(&stream).0,
        CudaStorageSlice::BF16(x) => x.device_ptr(&stream).0,
        _ => return Err(unsupported(storage.dtype())),
    })
}

fn unsupported(dtype: DType) -> Error {
    Error::Msg(format!("{dtype:?} on a GPU; f32, f16 and bf16 are built"))
}

/// Memory that a kernel fills.
struct Output {
    storage: CudaStorage,
    address: u64,
}

impl Output {
    fn new(device: &CudaDevice, shape: &Shape, dtype: DType) -> Result<Self> {
        // SAFETY: every kernel here writes all of its output.
        let storage = unsafe { device.alloc_uninit(shape, dtype)? };
        let address = address(&storage)?;
        Ok(Self { storage, address })
    }

    fn tensor(self, shape: Shape) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), shape, BackpropOp::none(), false)
    }
}

/// The tensor's GPU.
fn device(tensor: &Tensor) -> Result<CudaDevice> {
    Ok(tensor.device().as_cuda_device()?.clone())
}

/// The shape of a convolution of `x [B, H, W, C]` with `weight [outputs, k, k, C]`, zeros around it:
/// `[B, H', W', outputs]`.
fn convolved(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<[usize; 4]> {
    let (batch, height, width, channels) = x.dims4()?;
    let (outputs, kernel, _, _) = weight.dims4()?;
    if weight.dims() != [outputs, kernel, kernel, channels] || weight.dtype() != x.dtype() {
        return Err(Error::Msg(format!("a kernel {:?} over {:?}", weight.shape(), x.shape())));
    }
    let side = |side: usize| match (side + 2 * padding).checked_sub(kernel) {
        Some(room) => Ok(room / stride.max(1) + 1),
        None => Err(Error::Msg(format!("a kernel of {kernel} over {side} pixels"))),
    };
    Ok([batch, side(height)?, side(width)?, outputs])
}

/// How kernels call a float type.
fn name_of(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => Err(unsupported(other)),
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
enum Argument {
    Address(u64),
    Count(i64),
    Number(i32),
    Float(f32),
}

/// A compiled function and where it runs.
struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// The function `name` of a module of PTX, on the tensor's GPU.
    fn new(tensor: &Tensor, name: &str, (module, ptx): (&str, &str)) -> Result<Self> {
        let device = tensor.device().as_cuda_device()?;
        let function = device.get_or_load_custom_func(name, module, ptx)?.into_cuda_function();
        Ok(Self { function, stream: device.cuda_stream() })
    }

    /// Starts it.
    ///
    /// # Safety
    /// The arguments must be those of the function, with memory of the sizes that it assumes.
    unsafe fn launch(&self, config: LaunchConfig, arguments: &[Argument]) -> Result<()> {
        let mut builder = self.stream.launch_builder(&self.function);
        for argument in arguments {
            match argument {
                Argument::Address(x) => builder.arg(x),
                Argument::Count(x) => builder.arg(x),
                Argument::Number(x) => builder.arg(x),
                Argument::Float(x) => builder.arg(x),
            };
        }
        // SAFETY: the caller's promise.
        unsafe { builder.launch(config) }.map_err(Error::wrap)?;
        Ok(())
    }
}
