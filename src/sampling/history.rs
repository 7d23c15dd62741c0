//! What multistep samplers remember.

use candle_core::Tensor;

/// The estimates or slopes of the last steps with their noise levels, newest first.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) tensors: Vec<Tensor>,
    pub(super) sigmas: Vec<f64>,
}

impl History {
    /// Notes what step gave at level `sigma`; no more than `most` are kept.
    pub(super) fn push(&mut self, tensor: Tensor, sigma: f64, most: usize) {
        self.tensors.insert(0, tensor);
        self.sigmas.insert(0, sigma);
        self.tensors.truncate(most.max(1));
        self.sigmas.truncate(most.max(1));
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }
}
