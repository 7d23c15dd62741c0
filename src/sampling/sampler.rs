//! [`Sampler`] by name: everything here comes from the SPECs.

use super::config::SchedulerConfig;
use super::integrator::Integrator;
use super::names::{Named, by_name, find};
use super::options::SamplerOptions;
use super::samplers::Sampler;
use crate::error::{Error, Result};

impl Sampler {
    /// The name in requests, flags and files.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// A fresh integrator for a model trained as `config` says.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for options that the sampler does not have, [`Error::Unsupported`] for what the config
    /// asks of the sampler and is not built.
    pub fn begin(
        self,
        options: &SamplerOptions,
        config: &SchedulerConfig,
    ) -> Result<Box<dyn Integrator>> {
        self.spec().check(options)?;
        (self.spec().begin)(options, config)
    }

    /// The sampler that A1111 calls `label`.
    pub fn from_label(label: &str) -> Option<Self> {
        Sampler::ALL.into_iter().find(|sampler| sampler.spec().label == label)
    }

    /// The sampler that ComfyUI calls `name`.
    pub fn from_comfyui(name: &str) -> Option<Self> {
        let is_it = |sampler: &Sampler| {
            let names = sampler.spec().names;
            names.comfyui == Some(name) || names.also.contains(&name)
        };
        Sampler::ALL.into_iter().find(is_it)
    }
}

by_name!(Sampler);

impl std::str::FromStr for Sampler {
    type Err = Error;

    /// Our own name or another program's, in any spelling: `dpmpp-2m`, `DPM++ 2M`, `dpmpp_2m`,
    /// `DPMSolverMultistepScheduler`.
    fn from_str(name: &str) -> Result<Self> {
        let named = |item: Sampler| {
            let spec = item.spec();
            Named { item, name: spec.name, others: spec.other_names().collect() }
        };
        find("sampler", name, &Sampler::ALL.map(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::names::key;

    #[test]
    fn names_round_trip() {
        for sampler in Sampler::ALL {
            assert_eq!(sampler.name().parse::<Sampler>().unwrap(), sampler);
            assert_eq!(serde_json::to_value(sampler).unwrap(), sampler.name());
            assert_eq!(serde_json::from_value::<Sampler>(sampler.name().into()).unwrap(), sampler);
            assert_eq!(Sampler::from_label(sampler.spec().label), Some(sampler));
            for name in sampler.spec().other_names() {
                assert_eq!(name.parse::<Sampler>().unwrap(), sampler, "{name}");
            }
        }
        for name in ["DPM++ 2M", "dpm++2m", "dpmpp_2m", "DPMSolverMultistep", "sample_dpmpp_2m"] {
            assert_eq!(name.parse::<Sampler>().unwrap(), Sampler::DpmPp2m, "{name}");
        }
        let error = "eulr".parse::<Sampler>().unwrap_err().to_string();
        assert!(error.contains("did you mean `euler`"), "{error}");
    }

    /// A name must lead to one sampler.
    #[test]
    fn no_two_samplers_share_a_name() {
        for (i, one) in Sampler::ALL.iter().enumerate() {
            let keys = |sampler: &Sampler| -> Vec<String> {
                let spec = sampler.spec();
                spec.other_names().chain([spec.name]).map(key).collect()
            };
            for other in &Sampler::ALL[i + 1..] {
                let shared: Vec<_> =
                    keys(one).into_iter().filter(|k| keys(other).contains(k)).collect();
                assert!(shared.is_empty(), "{one} and {other}: {shared:?}");
            }
        }
    }

    #[test]
    fn specs_are_whole() {
        for sampler in Sampler::ALL {
            let spec = sampler.spec();
            assert!(spec.order >= 1 && spec.evaluations >= 1, "{sampler}");
            assert!(
                spec.source.contains("diffusers") || spec.names.diffusers.is_none(),
                "{sampler}"
            );
            for option in spec.options {
                let set = SamplerOptions::default().with(option.name, option.default);
                assert!(spec.check(&set).is_ok(), "{sampler}: {}", option.name);
            }
            sampler.begin(&SamplerOptions::default(), &SchedulerConfig::default()).unwrap();
        }
    }
}
