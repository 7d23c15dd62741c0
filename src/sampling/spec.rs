//! What there is to say about a sampler, in one value.

use super::config::SchedulerConfig;
use super::grid::Conventions;
use super::integrator::Integrator;
use super::options::{OptionSpec, SamplerOptions};
use super::schedule::Schedule;
use crate::error::Result;

/// Everything about a sampler but its formula. Its file begins with one; names, flags, labels and documents all
/// come from there.
#[derive(Debug)]
pub struct SamplerSpec {
    /// The name in requests, flags and files.
    pub name: &'static str,
    /// The name in A1111's menu and in the settings that it writes into pictures.
    pub label: &'static str,
    /// What other programs call it.
    pub names: OtherNames,
    /// Where its formula comes from: paper with equation or algorithm, and the reference implementation.
    pub source: &'static str,
    /// Order of convergence, for samplers that solve the ODE.
    pub order: u8,
    /// Evaluations of the network a step; the last step may need fewer.
    pub evaluations: u8,
    /// What noise it draws.
    pub noise: NoiseUse,
    /// Whether its noise follows a Brownian path over the levels: k-diffusion's and ComfyUI's SDE samplers.
    pub brownian: bool,
    /// Whether it steps along the unguided estimate, so that the negative prompt is evaluated at any guidance.
    pub unguided: bool,
    /// Whether images that are evaluated at once would change each other: steps of adapted length.
    pub alone: bool,
    /// The numbers that it can be tuned with.
    pub options: &'static [OptionSpec],
    /// The schedule of requests that leave it open, where the sampler is of no use with the model's own.
    pub schedule: Option<Schedule>,
    /// What A1111 means by the schedule "Automatic".
    pub automatic: Schedule,
    /// How its references choose noise levels.
    pub grids: Conventions,
    /// A fresh integrator. Options are checked before; the scheduler config may ask for what is not built.
    pub begin: fn(&SamplerOptions, &SchedulerConfig) -> Result<Box<dyn Integrator>>,
}

/// What other programs call a sampler; `None` where they lack it.
#[derive(Debug, Clone, Copy)]
pub struct OtherNames {
    /// The class of diffusers, which may serve several samplers: it is the name of the main one.
    pub diffusers: Option<&'static str>,
    /// The function of k-diffusion.
    pub k_diffusion: Option<&'static str>,
    /// The name in ComfyUI.
    pub comfyui: Option<&'static str>,
    /// Further names: of stable-diffusion.cpp, and of variants that differ only in where they run.
    pub also: &'static [&'static str],
}

/// What noise a sampler draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoiseUse {
    /// None.
    Never,
    /// One tensor a step but the last, from the stream that made the initial latents.
    EveryStep,
    /// One tensor or more for each evaluation but the last.
    EveryEvaluation,
    /// One tensor for each step that raises the noise level: with churn alone.
    Churn,
    /// One tensor for each restart.
    Restarts,
    /// One tensor for each step of the solver, with the option `eta` above 0 alone.
    Eta,
}

impl SamplerSpec {
    /// Refuses options that the sampler does not have, and values out of range.
    ///
    /// # Errors
    /// [`Error::BadRequest`](crate::Error::BadRequest) naming the option and what is accepted.
    pub fn check(&self, options: &SamplerOptions) -> Result<()> {
        options.check(self.name, self.options)
    }

    /// Every name that it goes by elsewhere.
    pub fn other_names(&self) -> impl Iterator<Item = &'static str> {
        let OtherNames { diffusers, k_diffusion, comfyui, also } = self.names;
        let one = [Some(self.label), diffusers, k_diffusion, comfyui].into_iter().flatten();
        one.chain(also.iter().copied())
    }
}

/// Declares the enum `Sampler` from a list of variants and their files, in the order of help texts. Its only match
/// on samplers is `spec()`.
macro_rules! samplers {
    ($($(#[$meta:meta])* $variant:ident = $file:ident,)*) => {
        /// The samplers that exist.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[non_exhaustive]
        pub enum Sampler {
            $($(#[$meta])* $variant,)*
        }

        impl Sampler {
            /// Every sampler, in the order of help texts.
            pub const ALL: [Sampler; [$(stringify!($file)),*].len()] = [$(Sampler::$variant),*];

            /// Everything about it.
            pub fn spec(self) -> &'static $crate::sampling::SamplerSpec {
                match self {
                    $(Sampler::$variant => &$file::SPEC,)*
                }
            }
        }
    };
}

pub(super) use samplers;
