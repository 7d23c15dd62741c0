//! Work that is recorded once and then starts as a whole: a CUDA graph.

use super::Input;
use crate::error::{Error, Result};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaGraph, CudaStream, result, sys};
use candle_core::{Device, Error as TensorError, Tensor};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::thread::ThreadId;

/// Readers launch GPU work; the writer records a graph. All threads share one stream, so work that is launched
/// during a recording would be recorded instead of run.
static WORK: RwLock<()> = RwLock::new(());

/// Images that are being made.
static SESSIONS: AtomicUsize = AtomicUsize::new(0);

/// Lives as long as an image is being made: memory that is freed while another thread records would be freed by the
/// recording.
#[derive(Debug)]
pub(crate) struct Session(());

impl Session {
    pub(crate) fn new() -> Self {
        SESSIONS.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        SESSIONS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// To be held while GPU work is launched. The writer only uses `try_write`, so recursive read locks cannot
/// deadlock.
pub(crate) fn working() -> RwLockReadGuard<'static, ()> {
    WORK.read().unwrap_or_else(PoisonError::into_inner)
}

/// A function of tensors, recorded for tensors of the same shapes.
pub(crate) struct Recording {
    /// Always there until the end.
    graph: Option<CudaGraph>,
    /// What it reads and writes.
    inputs: Vec<Tensor>,
    output: Tensor,
    /// Small constants that it reads belong to the thread that recorded it.
    thread: ThreadId,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

// SAFETY: a graph may be started and destroyed by any thread, one at a time; there is no way to it by shared
// reference but `replay`, which is started under a lock by its owner.
unsafe impl Send for Recording {}

impl Recording {
    /// Runs `work` so that it can be recorded afterwards: constants that it uploads are kept for the recording.
    pub(crate) fn rehearse<T>(on: &Tensor, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let device = on.device().as_cuda_device()?;
        let _kept = device.enable_cuda_graph_htod_cache();
        work()
    }

    /// Records `work` on tensors like `inputs`, with a result like `output`, after it was rehearsed with them on
    /// this thread. Nothing when other images are being made.
    ///
    /// # Errors
    /// When `work` does something that cannot be recorded, or what it gives.
    pub(crate) fn new(
        inputs: &[Tensor],
        output: &Tensor,
        work: impl FnOnce(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Option<Self>> {
        let _alone = match WORK.try_write() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        // Whoever begins now waits at `working`.
        if SESSIONS.load(Ordering::SeqCst) > 1 {
            return Ok(None);
        }
        let device = output.device().as_cuda_device()?;
        let stream = device.cuda_stream();
        if !stream.context().has_async_alloc() {
            return Err(Error::Internal("the driver has no pools of memory".into()));
        }
        let copies =
            inputs.iter().map(Tensor::force_contiguous).collect::<candle_core::Result<_>>();
        let (inputs, output): (Vec<Tensor>, Tensor) = (copies?, output.force_contiguous()?);
        let _kept = device.enable_cuda_graph_htod_cache();
        stream.synchronize().map_err(TensorError::wrap)?;
        let capture = Capture::begin(&stream)?;
        // What `work` made is freed before the end: it lives in the recording alone.
        let done = work(&inputs).and_then(|y| Ok(copy(&y, &output, &stream)?));
        let graph = capture.end();
        done?;
        let graph = graph?.ok_or_else(|| Error::Internal("an empty recording".into()))?;
        let thread = std::thread::current().id();
        Ok(Some(Self { graph: Some(graph), inputs, output, thread }))
    }

    /// Whether this thread recorded it, and may replay it.
    pub(crate) fn is_mine(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    /// What the work gives for other tensors of the same shapes, on the thread that recorded it.
    pub(crate) fn replay(&self, inputs: &[Tensor]) -> Result<Tensor> {
        if !self.is_mine() {
            return Err(Error::Internal("a recording of another thread".into()));
        }
        let stream = self.output.device().as_cuda_device()?.cuda_stream();
        for (from, to) in inputs.iter().zip(&self.inputs) {
            copy(&from.contiguous()?, to, &stream)?;
        }
        if let Some(graph) = &self.graph {
            graph.launch().map_err(TensorError::wrap)?;
        }
        Ok(self.output.force_contiguous()?)
    }
}

impl Drop for Recording {
    /// The driver keeps the memory of recordings apart from all other, and gives it back when it is told and
    /// no replay is under way.
    fn drop(&mut self) {
        self.graph = None;
        if let Ok(device) = self.output.device().as_cuda_device() {
            let stream = device.cuda_stream();
            let _ = stream.synchronize();
            // SAFETY: the device's context is alive; memory that is in use stays.
            let _ = unsafe { sys::cuDeviceGraphMemTrim(stream.context().cu_device()) };
        }
    }
}

/// A stream that records. It stops recording when this ends, whatever happens: nothing else could use it.
struct Capture<'a>(&'a Arc<CudaStream>);

impl<'a> Capture<'a> {
    fn begin(stream: &'a Arc<CudaStream>) -> Result<Self> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(TensorError::wrap)?;
        Ok(Self(stream))
    }

    /// What was recorded.
    fn end(self) -> Result<Option<CudaGraph>> {
        // Memory that could not be freed spoils the recording, but is no error of what comes next.
        let spoilt = self.0.context().check_err();
        let once = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.0.end_capture(once).map_err(TensorError::wrap)?;
        spoilt.map_err(TensorError::wrap)?;
        Ok(graph)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let _ = self.0.context().check_err();
        let nothing = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        if self.0.capture_status().is_ok_and(|status| status != nothing) {
            // SAFETY: the stream is alive and records.
            let graph = unsafe { result::stream::end_capture(self.0.cu_stream()) };
            if let Some(graph) = graph.ok().filter(|graph| !graph.is_null()) {
                // SAFETY: the graph was just made, and nobody else knows it.
                let _ = unsafe { result::graph::destroy(graph) };
            }
            let _ = self.0.context().check_err();
        }
    }
}

/// A point in the work of a GPU.
#[derive(Debug)]
pub(crate) struct Mark(Option<CudaEvent>);

impl Mark {
    /// Behind everything that `device` was told so far; nothing on others.
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let Ok(device) = device.as_cuda_device() else { return Ok(Self(None)) };
        let event = device.cuda_stream().record_event(None).map_err(TensorError::wrap)?;
        Ok(Self(Some(event)))
    }

    /// Waits until it is reached.
    pub(crate) fn wait(&self) -> Result<()> {
        match &self.0 {
            Some(event) => Ok(event.synchronize().map_err(TensorError::wrap)?),
            None => Ok(()),
        }
    }
}

/// Copies numbers over those of another tensor.
fn copy(from: &Tensor, to: &Tensor, stream: &CudaStream) -> candle_core::Result<()> {
    if from.shape() != to.shape() || from.dtype() != to.dtype() {
        let (from, to) = (from.shape(), to.shape());
        return Err(TensorError::Msg(format!("{from:?} where {to:?} was recorded")));
    }
    let bytes = from.elem_count() * from.dtype().size_in_bytes();
    let (from, to) = (Input::new(from)?, Input::new(to)?);
    // SAFETY: both are of this size, on this stream's GPU; the target is the recording's own, which nobody else
    // reads but by its copies.
    unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, stream.cu_stream()) }
        .map_err(TensorError::wrap)
}
