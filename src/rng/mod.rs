//! Gaussian noise that a seed reproduces, here and in the reference implementation.
//!
//! A stream of noise does not depend on pictures, tensors or samplers: it counts values. The
//! caller decides what they mean and in which order they are drawn.
//!
//! Floor 1.

mod brownian;
mod mt19937;
mod philox;
mod python;
mod seed_sequence;
mod source;

pub use brownian::BrownianPath;
pub use mt19937::TorchCpu;
pub use philox::{CudaLayout, Philox};
pub use python::PythonRandom;
pub use source::Rng;

/// A stream of standard normal values (mean 0, variance 1).
///
/// A stream is a value with a position: two streams that start from one seed and get the same
/// calls give the same numbers, and a later call continues where the earlier one stopped. How the
/// calls are cut may matter (see [`TorchCpu`]), so a caller that wants to reproduce a picture makes
/// the same calls in the same order.
///
/// # Examples
/// ```
/// use colora::rng::{Noise, TorchCpu};
///
/// let latents = TorchCpu::new(42).normal(4 * 64 * 64);
/// assert_eq!(latents.len(), 4 * 64 * 64);
/// assert_eq!(latents, TorchCpu::new(42).normal(4 * 64 * 64));
/// ```
pub trait Noise {
    /// The next `count` values of the stream.
    ///
    /// Returns them in the order in which a contiguous (row-major) tensor holds its elements.
    fn normal(&mut self, count: usize) -> Vec<f32>;
}
