//! Models that were made to draw in few steps, and how they are recognised.

use super::Defaults;
use crate::lora::Distilled;
use crate::models::UNetConfig;
use crate::sampling::{Sampler, Schedule, SchedulerConfig, Spacing};

/// How the model wants to be used, if it was distilled for few steps.
///
/// `names`: what it is called: its file or folder, where it was made from, its card's title.
pub(super) fn of(
    unet: &UNetConfig,
    scheduler: &SchedulerConfig,
    names: &[String],
) -> Option<Distilled> {
    if unet.time_cond_proj_dim.is_some() {
        return Some(Distilled::GUIDED_LCM);
    }
    let class = scheduler.class_name.as_deref();
    let by_class = match class {
        Some("LCMScheduler") => Some(Distilled::LCM),
        Some("TCDScheduler") => Some(Distilled::TCD),
        _ => None,
    };
    let trailing = scheduler.timestep_spacing == Some(Spacing::Trailing);
    // A name with a number of steps is most precise.
    names
        .iter()
        .find_map(|name| Distilled::by_name(name))
        .or(by_class)
        .or_else(|| names.iter().find_map(|name| Distilled::by_model(name, trailing)))
}

/// Defaults that fit, beside those of the family: what the author of the distillation draws with.
///
/// `scheduler`: the noise of the model that is drawn with.
pub(crate) fn defaults(
    distilled: Distilled,
    scheduler: &SchedulerConfig,
    basic: Defaults,
) -> Defaults {
    let (steps, guidance_scale) = distilled.usual();
    let (sampler, schedule) = sampling(distilled, scheduler);
    Defaults { steps, guidance_scale, sampler, schedule, ..basic }
}

/// The sampler and the schedule of a distillation. LCM and TCD have their own timesteps; the others start at the last
/// one, which spacings of ordinary models leave out.
pub(crate) fn sampling(distilled: Distilled, scheduler: &SchedulerConfig) -> (Sampler, Schedule) {
    let lcm = Sampler::Lcm.spec().names.diffusers;
    let sampler = match distilled.method {
        _ if scheduler.class_name.is_some() && scheduler.class_name.as_deref() == lcm => {
            Sampler::Lcm
        }
        "LCM" | "DMD2" => Sampler::Lcm,
        "TCD" => Sampler::Tcd,
        "Hyper-SD" => Sampler::Ddim,
        "Turbo" => Sampler::EulerA,
        _ => Sampler::Euler,
    };
    let own = matches!(distilled.method, "LCM" | "TCD");
    let trailing = scheduler.timestep_spacing == Some(Spacing::Trailing);
    (sampler, if own || trailing { Schedule::Discrete } else { Schedule::Turbo })
}

/// Classes of samplers that are not built, and that no other one replaces.
const NOT_BUILT: [&str; 2] = ["CMStochasticIterativeScheduler", "SASolverScheduler"];

/// The model's own sampler, where it is none of those that are built and cannot be replaced by one without
/// another picture.
pub(super) fn own_sampler(scheduler: &SchedulerConfig) -> Option<&str> {
    let class = scheduler.class_name.as_deref()?;
    NOT_BUILT.contains(&class).then_some(class)
}

/// The title of a model's card: the lines up to the first heading.
pub(super) fn title(card: &str) -> String {
    let heading = |line: &&str| line.starts_with("# ");
    let lines: Vec<&str> = card.lines().take(200).collect();
    let end = lines.iter().position(heading).map_or(0, |at| at + 1);
    lines[..end].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(unet: &UNetConfig, scheduler: &SchedulerConfig, name: &str) -> Option<&'static str> {
        of(unet, scheduler, &[name.to_owned()]).map(|distilled| distilled.method)
    }

    /// They were drawn like any other, in 25 steps at guidance 7.5, without a word.
    #[test]
    fn distilled_models_say_so_in_four_ways() {
        let (plain, ours) = (UNetConfig::default(), SchedulerConfig::default());
        assert_eq!(found(&plain, &ours, "dreamshaper turbo"), None);
        assert_eq!(found(&plain, &ours, "sd_xl_turbo_1.0_fp16"), Some("Turbo"));
        assert_eq!(found(&plain, &ours, "sdxl_lightning_4step"), Some("Lightning"));
        let lcm = UNetConfig { time_cond_proj_dim: Some(256), ..UNetConfig::default() };
        assert_eq!(found(&lcm, &ours, "any"), Some("LCM"));
        let class = |name: &str| SchedulerConfig { class_name: Some(name.into()), ..ours.clone() };
        assert_eq!(found(&plain, &class("LCMScheduler"), "any"), Some("LCM"));
        assert_eq!(found(&plain, &class("TCDScheduler"), "any"), Some("TCD"));
        assert_eq!(found(&plain, &class("DDIMScheduler"), "any"), None);
        let spacing = Some(Spacing::Trailing);
        let trailing = SchedulerConfig { timestep_spacing: spacing, ..ours.clone() };
        assert_eq!(found(&plain, &trailing, "DreamShaperXL_Turbo"), Some("Turbo"));
        assert_eq!(found(&plain, &trailing, "juggernautXL-Lightning"), Some("Lightning"));
        assert_eq!(found(&plain, &trailing, "Hyper-SDXL"), Some("Hyper-SD"));
        assert_eq!(found(&plain, &trailing, "hyperrealism"), None);
    }

    #[test]
    fn their_defaults_fit() {
        let scheduler = SchedulerConfig::default();
        for distilled in [Distilled::GUIDED_LCM, Distilled::LCM, Distilled::TCD] {
            let basic = Defaults::default();
            let Defaults { steps, guidance_scale, sampler, schedule, size, .. } =
                defaults(distilled, &scheduler, basic);
            assert!((4..=8).contains(&steps), "{steps}");
            assert_eq!(distilled.advice(steps, guidance_scale), None);
            let own = if distilled == Distilled::TCD { Sampler::Tcd } else { Sampler::Lcm };
            assert_eq!((sampler, schedule), (own, Schedule::Discrete));
            assert_eq!(size, basic.size);
        }
    }

    /// What the authors of the distillations draw with.
    #[test]
    fn every_distillation_has_its_sampler() {
        let leading = SchedulerConfig::default();
        let trailing =
            SchedulerConfig { timestep_spacing: Some(Spacing::Trailing), ..leading.clone() };
        for (name, sampler, schedule) in [
            ("sdxl_lightning_4step_lora", Sampler::Euler, Schedule::Turbo),
            ("Hyper-SDXL-8steps-lora", Sampler::Ddim, Schedule::Turbo),
            ("dmd2_sdxl_4step_lora", Sampler::Lcm, Schedule::Turbo),
            ("sd_xl_turbo_lora_v1", Sampler::EulerA, Schedule::Turbo),
            ("lcm-lora-sdxl", Sampler::Lcm, Schedule::Discrete),
            ("TCD-SDXL-LoRA", Sampler::Tcd, Schedule::Discrete),
        ] {
            let distilled = Distilled::by_name(name).unwrap();
            assert_eq!(sampling(distilled, &leading), (sampler, schedule), "{name}");
            assert_eq!(sampling(distilled, &trailing), (sampler, Schedule::Discrete), "{name}");
        }
    }

    #[test]
    fn models_with_the_scheduler_of_lcm_use_its_sampler() {
        let class_name = Some("LCMScheduler".to_owned());
        let scheduler =
            SchedulerConfig { class_name, use_karras_sigmas: Some(true), ..Default::default() };
        let found = defaults(Distilled::LCM, &scheduler, Defaults::default());
        assert_eq!((found.sampler, found.schedule), (Sampler::Lcm, Schedule::Discrete));
        assert_eq!(own_sampler(&scheduler), None);
    }

    #[test]
    fn cards_are_read_to_their_title() {
        let card = "---\ntags:\n- lightning\n---\n\n# A model\n\nBetter than Turbo.";
        assert_eq!(title(card), "--- tags: - lightning ---  # A model");
        assert_eq!(title("Better than Turbo."), "");
    }
}
