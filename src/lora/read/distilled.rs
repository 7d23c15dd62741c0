//! Adapters that make a model draw in few steps, and models that were made so. Their files are like any
//! other; how they want to be used is mostly in their names.

use crate::lora::AdapterFile;
use serde::Serialize;

/// How a distilled adapter or model wants to be used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distilled {
    /// `LCM`, `TCD`, `Lightning`, `Turbo`, `Hyper-SD` or `DMD2`.
    pub method: &'static str,
    /// Fewest and most sampling steps.
    pub steps: (usize, usize),
    /// Least and largest guidance; 1 is none.
    pub guidance: (f64, f64),
}

impl AdapterFile {
    /// The distillation that the file's name or its title mentions; `None` for ordinary adapters.
    pub fn distilled(&self) -> Option<Distilled> {
        let titles = ["modelspec.title", "ss_output_name"];
        let titles = titles.iter().filter_map(|key| self.metadata().get(*key).cloned());
        // Downloaded files often have a standard name, in a folder with a more precise one.
        let folder = self.path().parent().and_then(|parent| parent.file_name());
        let folder = folder.map(|name| name.to_string_lossy().into_owned());
        [self.name()].into_iter().chain(folder).chain(titles).find_map(|name| by_name(&name))
    }
}

impl Distilled {
    /// Latent consistency without a number for the guidance: Luo et al. (2023), LCM-LoRA.
    pub(crate) const LCM: Self = Self { method: "LCM", steps: (4, 8), guidance: (1.0, 2.0) };
    /// Latent consistency with the guidance as a number: the range that diffusers' example trains.
    pub(crate) const GUIDED_LCM: Self =
        Self { method: "LCM", steps: (4, 8), guidance: (3.0, 13.0) };
    /// Adversarial distillation: Sauer et al. (2023).
    pub(crate) const TURBO: Self = Self { method: "Turbo", steps: (1, 4), guidance: (1.0, 2.0) };
    /// Trajectory consistency: Zheng et al. (2024).
    pub(crate) const TCD: Self = Self { method: "TCD", steps: (4, 8), guidance: (1.0, 1.0) };

    /// The distillation that the name of an adapter or a model mentions; `None` for ordinary names.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        by_name(name)
    }

    /// The distillation by the name of a model without a number of steps. `trailing`: its timesteps start at the last,
    /// which ordinary models seldom ask for; without it only the names of the first such models count.
    pub(crate) fn by_model(name: &str, trailing: bool) -> Option<Self> {
        let name = name.to_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let turbo = words.contains(&"turbo") && matches!(words.first(), Some(&"sd" | &"sdxl"));
        if turbo || (trailing && name.contains("turbo")) {
            return Some(Self::TURBO);
        }
        if trailing && name.contains("lightning") {
            return Some(Self { method: "Lightning", steps: (4, 8), guidance: (1.0, 2.0) });
        }
        let hyper = words.iter().any(|word| matches!(*word, "hyper" | "hypersd" | "hypersdxl"));
        let guidance = (1.0, 1.0);
        (trailing && hyper).then_some(Self { method: "Hyper-SD", steps: (4, 8), guidance })
    }

    /// Steps and guidance for requests that leave them open.
    pub(crate) fn usual(&self) -> (usize, f64) {
        let (least, most) = self.guidance;
        // The middle, which is near the 8.5 of diffusers' pipeline for networks that take it as a number.
        let guidance = if least > 1.0 { f64::midpoint(least, most) } else { least };
        (self.steps.1, guidance)
    }

    /// What is amiss with these settings; `None` when they are as the adapter wants them.
    pub fn advice(&self, steps: usize, guidance: f64) -> Option<String> {
        let Self { method, steps: (few, many), guidance: (least, most) } = *self;
        // More steps do hardly any harm; far more undo what was learnt.
        let fits = (few..=many * 2).contains(&steps) && (least..=most).contains(&guidance);
        (!fits).then(|| {
            format!(
                "made by {method} for {} steps and a guidance of {}, not {steps} and {guidance}",
                range(few, many),
                range(least, most)
            )
        })
    }
}

impl std::fmt::Display for Distilled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (steps, guidance) = (range(self.steps.0, self.steps.1), self.guidance);
        write!(f, "{steps} steps, guidance {} ({})", range(guidance.0, guidance.1), self.method)
    }
}

/// Two ends as people write them.
fn range<T: Copy + PartialEq + std::fmt::Display>(low: T, high: T) -> String {
    if low == high { low.to_string() } else { format!("{low} to {high}") }
}

fn by_name(name: &str) -> Option<Distilled> {
    let name = name.to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let has = |word: &str| words.contains(&word);
    let whole = |method, n| Some(Distilled { method, steps: (n, n), guidance: (1.0, 1.0) });
    match steps(&words) {
        // Ordinary names have such words too; with a number of steps they mean the method.
        Some(n) if has("lightning") => whole("Lightning", n),
        Some(n) if has("dmd2") => whole("DMD2", n),
        Some(n) if has("hyper") && has("cfg") => {
            Some(Distilled { method: "Hyper-SD", steps: (n, n), guidance: (5.0, 8.0) })
        }
        Some(n) if has("hyper") => whole("Hyper-SD", n),
        _ if has("lcm") && has("lora") => Some(Distilled::LCM),
        _ if has("tcd") && has("lora") => Some(Distilled::TCD),
        _ if has("turbo") && has("lora") => Some(Distilled::TURBO),
        _ => None,
    }
}

/// The number in `4step`, `8steps` or `4 steps`.
fn steps(words: &[&str]) -> Option<usize> {
    words.iter().enumerate().find_map(|(i, word)| {
        let number = word.strip_suffix("steps").or_else(|| word.strip_suffix("step"))?;
        let number = if number.is_empty() { words.get(i.checked_sub(1)?)? } else { number };
        number.parse().ok().filter(|n| (1..=64).contains(n))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_of_few_steps() {
        for (name, method, steps, guidance) in [
            ("sdxl_lightning_4step_lora", "Lightning", (4, 4), (1.0, 1.0)),
            ("Hyper-SD15-8steps-lora", "Hyper-SD", (8, 8), (1.0, 1.0)),
            ("Hyper-SDXL-8steps-CFG-lora", "Hyper-SD", (8, 8), (5.0, 8.0)),
            ("dmd2 sdxl 4 step lora fp16", "DMD2", (4, 4), (1.0, 1.0)),
            ("lcm-lora-sdv1-5", "LCM", (4, 8), (1.0, 2.0)),
            ("TCD-SDXL-LoRA", "TCD", (4, 8), (1.0, 1.0)),
            ("sd_xl_turbo_lora_v1", "Turbo", (1, 4), (1.0, 2.0)),
        ] {
            assert_eq!(by_name(name), Some(Distilled { method, steps, guidance }), "{name}");
        }
        for name in ["lightning_bolt_style", "hyperrealism", "lcm", "footsteps", "step", "0steps"] {
            assert_eq!(by_name(name), None, "{name}");
        }
    }

    #[test]
    fn other_settings_are_said() {
        let lightning = by_name("sdxl_lightning_4step_lora").unwrap();
        assert_eq!(lightning.advice(4, 1.0), None);
        let advice = lightning.advice(30, 7.5).unwrap();
        assert!(advice.contains("for 4 steps and a guidance of 1, not 30 and 7.5"), "{advice}");
        let lcm = by_name("lcm-lora-sdxl").unwrap();
        assert_eq!((lcm.advice(6, 1.5), lcm.advice(2, 1.5).is_some()), (None, true));
    }
}
