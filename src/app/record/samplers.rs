//! Samplers by the names of every program, with the schedule that may stand behind them.

use crate::sampling::{Sampler, Schedule};

/// What stands between the words of names.
const BETWEEN: [char; 3] = [' ', '_', '-'];
/// Schedules as the short names of samplers end in them.
const SHORT: [(&str, Schedule); 2] = [("ka", Schedule::Karras), ("exp", Schedule::Exponential)];

/// The sampler called `name`, and the schedule that it ends in: `DPM++ 2M Karras`, `k_dpmpp_2m_ka`.
pub(super) fn resolved(name: &str) -> Option<(Sampler, Option<Schedule>)> {
    let name = name.trim();
    // k-diffusion's, as older programs and NovelAI have them.
    let plain = name.strip_prefix("k_").or_else(|| name.strip_prefix("K_"));
    whole_or_two(name).or_else(|| whole_or_two(plain?))
}

fn whole_or_two(name: &str) -> Option<(Sampler, Option<Schedule>)> {
    if let Ok(sampler) = name.parse() {
        return Some((sampler, None));
    }
    let places = name.match_indices(BETWEEN);
    places.into_iter().find_map(|(at, _)| {
        let sampler = name[..at].parse().ok()?;
        Some((sampler, Some(schedule(&name[at + 1..])?)))
    })
}

fn schedule(name: &str) -> Option<Schedule> {
    let short = SHORT.iter().find(|(short, _)| name.eq_ignore_ascii_case(short));
    short.map(|(_, schedule)| *schedule).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_program() {
        use Sampler as S;
        let karras = Some(Schedule::Karras);
        for (name, sampler, schedule) in [
            ("DPM++ 2M Karras", S::DpmPp2m, karras),
            ("dpm++ 2m karras", S::DpmPp2m, karras),
            ("k_dpmpp_2m_ka", S::DpmPp2m, karras),
            ("K_EULER_A", S::EulerA, None),
            ("k_euler_ancestral", S::EulerA, None),
            ("DPM++ 2M SDE Exponential", S::DpmPp2mSde, Some(Schedule::Exponential)),
            ("DPM++ 2M SDE Heun Karras", S::DpmPp2mSdeHeun, karras),
            ("dpmpp_2m_sde_gpu", S::DpmPp2mSde, None),
            ("dpm++2m karras", S::DpmPp2m, karras),
            ("euler_a Uniform", S::EulerA, Some(Schedule::Normal)),
            ("k_lms", S::Lms, None),
            ("DPM2 a", S::Dpm2A, None),
            ("Euler a", S::EulerA, None),
            ("Restart", S::Restart, None),
            ("UniPC", S::UniPc, None),
            ("PLMS", S::Plms, None),
            ("Euler A Karras", S::EulerA, karras),
        ] {
            assert_eq!(resolved(name), Some((sampler, schedule)), "{name}");
        }
        for name in ["", "k_", "nothing", "Euler a nothing", "DPM++", " "] {
            assert_eq!(resolved(name), None, "{name}");
        }
    }
}
