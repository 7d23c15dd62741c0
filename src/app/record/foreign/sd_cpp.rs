//! stable-diffusion.cpp: A1111's lines, the schedule behind the sampler's name, and everything again as JSON.

use super::told::Told;

/// Names of samplers that are a sampler and a schedule.
const NAMES: [(&str, &str); 1] = [("ddim_trailing", "DDIM simple")];
/// Its name for even timesteps, which is another schedule here.
const DISCRETE: &str = "discrete";

/// Puts its own words into A1111's.
pub(super) fn read(told: &mut Told) {
    for (name, value) in &mut told.parameters.fields {
        if name != "Sampler" {
            continue;
        }
        let (method, schedule) = value.split_once(' ').unwrap_or((value, DISCRETE));
        let known = NAMES.iter().find(|(name, _)| *name == method);
        *value = match (known, schedule) {
            (Some((_, known)), _) => (*known).to_owned(),
            (None, DISCRETE) => format!("{method} Uniform"),
            (None, schedule) => format!("{method} {schedule}"),
        };
    }
}
