//! What records a device's work, in builds without a device that can: nothing is recorded, and every request for it
//! is answered by doing the work. It has the shape of `cuda::recording`, so that no caller needs to know the build.

use crate::error::Result;
use candle_core::{Device, Tensor};

/// Lives as long as an image is being made.
#[derive(Debug)]
pub(crate) struct Session(());

impl Session {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

/// Must be held while the device is given work.
pub(crate) fn working() -> Session {
    Session::new()
}

/// A point in the work of a device that does it later than it is asked to.
#[derive(Debug)]
pub(crate) struct Mark(());

impl Mark {
    /// Behind everything that `device` was given so far.
    #[allow(clippy::unnecessary_wraps)] // as of devices that can fail
    pub(crate) fn new(_: &Device) -> Result<Self> {
        Ok(Self(()))
    }

    /// Waits until it is reached.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // as of devices that can fail
    pub(crate) fn wait(&self) -> Result<()> {
        Ok(())
    }
}

/// Recorded work; there is none.
#[derive(Debug)]
pub(crate) enum Recording {}

impl Recording {
    /// Does `work`.
    pub(crate) fn rehearse<T>(_: &Tensor, work: impl FnOnce() -> Result<T>) -> Result<T> {
        work()
    }

    /// Records nothing.
    #[allow(clippy::unnecessary_wraps)] // as of devices that can fail
    pub(crate) fn new(
        _: &[Tensor],
        _: &Tensor,
        _: impl FnOnce(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Whether this thread recorded it.
    pub(crate) fn is_mine(&self) -> bool {
        match *self {}
    }

    /// What the recorded work gives for other tensors.
    pub(crate) fn replay(&self, _: &[Tensor]) -> Result<Tensor> {
        match *self {}
    }
}
