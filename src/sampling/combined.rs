//! Names that hold a sampler and a schedule: `DPM++ 2M Karras`, `dpmpp_2m_karras`, `k_dpmpp_2m_ka`, `euler_k`.

use super::names::key;
use super::samplers::Sampler;
use super::schedule::Schedule;
use crate::error::{Error, Result};

/// A sampler, and the schedule where the name holds one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedSampler {
    /// The sampler.
    pub sampler: Sampler,
    /// The schedule that the name ends with.
    pub schedule: Option<Schedule>,
}

/// Ends of names that stand for a schedule where an underscore comes before them: InvokeAI's and A1111's old ones.
const SHORT: [(&str, Schedule); 3] =
    [("_ka", Schedule::Karras), ("_k", Schedule::Karras), ("_exp", Schedule::Exponential)];

/// What some programs write before the names of k-diffusion.
const PREFIXES: [&str; 2] = ["k_", "sample_"];

impl std::str::FromStr for NamedSampler {
    type Err = Error;

    /// A sampler's name, or one that ends with a schedule, in any spelling.
    fn from_str(text: &str) -> Result<Self> {
        let plain = text.trim();
        let alone = |name: &str| name.parse::<Sampler>().ok();
        if let Some(sampler) = alone(plain) {
            return Ok(Self { sampler, schedule: None });
        }
        let bare = PREFIXES.iter().find_map(|prefix| {
            let begins = plain.get(..prefix.len())?.eq_ignore_ascii_case(prefix);
            begins.then(|| &plain[prefix.len()..])
        });
        let names = || std::iter::once(plain).chain(bare);
        if let Some(sampler) = names().find_map(alone) {
            return Ok(Self { sampler, schedule: None });
        }
        for name in names() {
            for (end, schedule) in SHORT {
                if let Some(sampler) = name.strip_suffix(end).and_then(alone) {
                    return Ok(Self { sampler, schedule: Some(schedule) });
                }
            }
            if let Some(found) = joined(name) {
                return Ok(found);
            }
        }
        // The error of a sampler's name lists what there is.
        text.parse::<Sampler>().map(|sampler| Self { sampler, schedule: None })
    }
}

/// The sampler and the schedule whose names make `name` together; the longest schedule counts.
fn joined(name: &str) -> Option<NamedSampler> {
    let whole = key(name);
    let mut ends: Vec<(String, Schedule)> = Schedule::ALL
        .into_iter()
        .flat_map(|schedule| schedule.every_name().map(move |name| (key(name), schedule)))
        .collect();
    ends.sort_by_key(|(end, _)| std::cmp::Reverse(end.len()));
    ends.into_iter().find_map(|(end, schedule)| {
        let sampler = whole.strip_suffix(&end)?.parse().ok()?;
        Some(NamedSampler { sampler, schedule: Some(schedule) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_tool_are_read() {
        let karras = Some(Schedule::Karras);
        for (name, sampler, schedule) in [
            ("DPM++ 2M Karras", Sampler::DpmPp2m, karras),
            ("dpmpp_2m_karras", Sampler::DpmPp2m, karras),
            ("k_dpmpp_2m_ka", Sampler::DpmPp2m, karras),
            ("dpmpp_2m_k", Sampler::DpmPp2m, karras),
            ("DPM++ 2M SDE Exponential", Sampler::DpmPp2mSde, Some(Schedule::Exponential)),
            ("DPM++ 2M SDE Heun Karras", Sampler::DpmPp2mSdeHeun, karras),
            ("Euler a SGM Uniform", Sampler::EulerA, Some(Schedule::SgmUniform)),
            ("euler_ancestral_sgm_uniform", Sampler::EulerA, Some(Schedule::SgmUniform)),
            ("k_euler_ancestral", Sampler::EulerA, None),
            ("k_dpm_2_a_ka", Sampler::Dpm2A, karras),
            ("kdpm_2_a_k", Sampler::Dpm2A, karras),
            ("heun_k", Sampler::Heun, karras),
            ("Euler A AYS", Sampler::EulerA, Some(Schedule::AlignYourSteps)),
            ("DPM++ 2M Trailing", Sampler::DpmPp2m, Some(Schedule::Turbo)),
            ("DPMSolverMultistep", Sampler::DpmPp2m, None),
            ("DDIM CFG++", Sampler::DdimCfgPp, None),
            ("uni_pc_bh2", Sampler::UniPcBh2, None),
            ("DDIM", Sampler::Ddim, None),
            ("dpm++ 2m karras", Sampler::DpmPp2m, karras),
            ("K_EULER_A", Sampler::EulerA, None),
            ("dpmpp_2m_sde_gpu", Sampler::DpmPp2mSde, None),
            ("dpm++2m karras", Sampler::DpmPp2m, karras),
            ("euler_a Uniform", Sampler::EulerA, Some(Schedule::Normal)),
            ("k_lms", Sampler::Lms, None),
            ("DPM2 a", Sampler::Dpm2A, None),
            ("Euler a", Sampler::EulerA, None),
            ("Restart", Sampler::Restart, None),
            ("UniPC", Sampler::UniPc, None),
            ("PLMS", Sampler::Plms, None),
            ("Euler A Karras", Sampler::EulerA, karras),
        ] {
            let found: NamedSampler = name.parse().unwrap();
            assert_eq!((found.sampler, found.schedule), (sampler, schedule), "{name}");
        }
        let nothing =
            ["", " ", "karras", "k_", "nothing", "Euler a nothing", "DPM++", "DPM++ 2N Karras"];
        for wrong in nothing {
            assert!(wrong.parse::<NamedSampler>().is_err(), "{wrong}");
        }
    }

    /// Every sampler with every schedule, as A1111 and ComfyUI write them.
    #[test]
    fn every_pair_leads_back() {
        for sampler in Sampler::ALL {
            for schedule in Schedule::ALL {
                let label = format!("{} {}", sampler.spec().label, schedule.spec().label);
                let ours = format!("{sampler}-{schedule}");
                for name in [label, ours].into_iter().filter(|_| schedule != Schedule::Discrete) {
                    let found: NamedSampler = name.parse().unwrap();
                    assert_eq!(
                        (found.sampler, found.schedule),
                        (sampler, Some(schedule)),
                        "{name}"
                    );
                }
            }
        }
    }
}
