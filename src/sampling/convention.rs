//! Whose conventions a run follows.

/// Whose way to choose noise levels is followed, and whose formulas where programs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Convention {
    /// The scheduler of diffusers 0.42 that goes with the sampler.
    #[default]
    Diffusers,
    /// A1111 1.10 with its k-diffusion.
    A1111,
    /// ComfyUI 0.3.64.
    Comfyui,
}
