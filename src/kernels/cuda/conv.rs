//! cuDNN's convolutions, channels last, on matrix units: factors of f32 are rounded to TF32.

use super::{Input, Output, convolved, device};
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtrMut};
use candle_core::{CudaDevice, DType, Error, Result, Shape, Tensor};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;

/// Convolution of `[B, H, W, C]` with `weight [outputs, k, k, C]` (contiguous both), zeros around it.
pub(crate) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    let [_, rows, columns, outputs] = convolved(x, weight, stride, padding)?;
    let problem = Problem {
        x: [batch, channels, height, width].map(|n| n as c_int),
        y: [batch, outputs, rows, columns].map(|n| n as c_int),
        kernel: weight.dim(1)? as c_int,
        stride: stride as c_int,
        padding: padding as c_int,
        dtype: x.dtype(),
    };
    let device = device(x)?;
    let shape = Shape::from((batch, rows, columns, outputs));
    let y = Output::new(&device, &shape, x.dtype())?;
    let (from, by) = (Input::new(x)?, Input::new(weight)?);
    PLANNER.with_borrow_mut(|planners| {
        let planner = match planners.get_mut(&device.id()) {
            Some(planner) => planner,
            None => planners.entry(device.id()).or_insert(Planner::new(&device.cuda_stream())?),
        };
        planner.run(&device, problem, [from.address, by.address, y.address])
    })?;
    Ok(y.tensor(shape))
}

thread_local! {
    // A handle of cuDNN belongs to a thread.
    static PLANNER: RefCell<HashMap<DeviceId, Planner>> = RefCell::default();
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    /// Batch, channels, height, width.
    x: [c_int; 4],
    y: [c_int; 4],
    kernel: c_int,
    stride: c_int,
    padding: c_int,
    dtype: DType,
}

/// One thread's handle and how it solves what it met.
struct Planner {
    handle: sys::cudnnHandle_t,
    plans: HashMap<Problem, Plan>,
}

impl Planner {
    fn new(stream: &CudaStream) -> Result<Self> {
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let handle = result::create_handle().map_err(failed)?;
        let planner = Self { handle, plans: HashMap::new() };
        // SAFETY: both are alive; the stream lives as long as its device, which outlives every call.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(failed)?;
        Ok(planner)
    }

    fn run(&mut self, device: &CudaDevice, problem: Problem, addresses: [u64; 3]) -> Result<()> {
        let handle = self.handle;
        let plan = if let Some(plan) = self.plans.get(&problem) {
            plan
        } else {
            let plan = Plan::new(handle, problem).map_err(failed)?;
            tracing::debug!(?problem.x, ?problem.y, algorithm = ?plan.algorithm, plan.memory, "convolution");
            self.plans.entry(problem).or_insert(plan)
        };
        let stream = device.cuda_stream();
        // SAFETY: it is written before it is read, by the library.
        let mut memory = unsafe { device.alloc::<u8>(plan.memory.max(1))? };
        let (memory, _used) = memory.device_ptr_mut(&stream);
        let [x, w, y] = addresses;
        let (one, zero) = (1f32, 0f32);
        // SAFETY: handle and descriptors are alive; the addresses are those of tensors of the plan's sizes.
        unsafe {
            result::convolution_forward(
                handle,
                (&raw const one).cast(),
                plan.x,
                x as *const _,
                plan.w,
                w as *const _,
                plan.how,
                plan.algorithm,
                memory as *mut _,
                plan.memory,
                (&raw const zero).cast(),
                plan.y,
                y as *mut _,
            )
        }
        .map_err(failed)
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: nothing uses it any more. At the end of a process the library may be gone already; then it
        // says so, and nobody cares.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Descriptors and algorithm of a problem.
struct Plan {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    how: sys::cudnnConvolutionDescriptor_t,
    algorithm: sys::cudnnConvolutionFwdAlgo_t,
    /// Bytes that the algorithm works in.
    memory: usize,
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, problem: Problem) -> std::result::Result<Self, CudnnError> {
        use sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC as LAST;
        let Problem { x, y, kernel, stride, padding, dtype } = problem;
        let number = match dtype {
            DType::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            DType::BF16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let mut plan = Self {
            x: result::create_tensor_descriptor()?,
            w: result::create_filter_descriptor()?,
            y: result::create_tensor_descriptor()?,
            how: result::create_convolution_descriptor()?,
            algorithm: sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
            memory: 0,
        };
        // SAFETY: the descriptors were just made, and all pointers are to what is alive here.
        unsafe {
            result::set_tensor4d_descriptor(plan.x, LAST, number, x)?;
            result::set_tensor4d_descriptor(plan.y, LAST, number, y)?;
            result::set_filter4d_descriptor(plan.w, number, LAST, [y[1], x[1], kernel, kernel])?;
            result::set_convolution2d_descriptor(
                plan.how,
                padding,
                padding,
                stride,
                stride,
                1,
                1,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT, // sums
            )?;
            result::set_convolution_math_type(
                plan.how,
                sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            )?;
            plan.choose(handle)?;
        }
        Ok(plan)
    }

    /// The first algorithm that can run, in the library's order of speed.
    ///
    /// # Safety
    /// The handle must be alive, and the descriptors filled.
    unsafe fn choose(&mut self, handle: sys::cudnnHandle_t) -> std::result::Result<(), CudnnError> {
        const MOST: usize = 8;
        let mut count = 0;
        // SAFETY: numbers all, for which 0 is a value.
        let mut found: [sys::cudnnConvolutionFwdAlgoPerf_t; MOST] = unsafe { std::mem::zeroed() };
        // SAFETY: the caller's promise; the array has room for as many.
        unsafe {
            result::get_convolution_forward_algorithm(
                handle,
                self.x,
                self.w,
                self.how,
                self.y,
                MOST as c_int,
                &raw mut count,
                found.as_mut_ptr(),
            )?;
        }
        for candidate in &found[..(count.max(0) as usize).min(MOST)] {
            if candidate.status.result().is_err() {
                continue;
            }
            // SAFETY: the caller's promise.
            let memory = unsafe {
                result::get_convolution_forward_workspace_size(
                    handle,
                    self.x,
                    self.w,
                    self.how,
                    self.y,
                    candidate.algo,
                )
            };
            if let Ok(memory) = memory {
                (self.algorithm, self.memory) = (candidate.algo, memory);
                // The mode in which this algorithm is as fast as they say.
                // SAFETY: the descriptor is alive.
                unsafe { result::set_convolution_math_type(self.how, candidate.mathType)? };
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: they were made with the plan, and nothing else knows them.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.x);
            let _ = result::destroy_filter_descriptor(self.w);
            let _ = result::destroy_tensor_descriptor(self.y);
            let _ = result::destroy_convolution_descriptor(self.how);
        }
    }
}

fn failed(error: CudnnError) -> Error {
    Error::Msg(format!("cuDNN: {error}"))
}
