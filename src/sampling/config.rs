//! `scheduler_config.json`: the noise that a model was trained with, and how its author draws.
//!
//! Every key of diffusers' three schedulers is followed or refused by name. A key acts on the samplers whose
//! scheduler in diffusers has it, whatever class the file names: so does `Scheduler.from_config`. The test
//! `every_key_of_diffusers_is_followed_or_refused` lists them all.

use super::bounds::Bounds;
use crate::error::{Error, Result};
use crate::hint::Hint;
use serde::{Deserialize, Deserializer, Serialize};

/// What a network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum PredictionKind {
    /// The noise ε: SD 1.x, SD 2.x base, SDXL.
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// v = α·ε − σ·x₀, Salimans and Ho (2022): SD 2.x 768 and some SDXL fine-tunes.
    #[serde(rename = "v_prediction", alias = "v")]
    V,
    /// The clean sample itself.
    #[serde(rename = "sample")]
    Sample,
    /// The way from the clean sample to the noise: rectified flow.
    #[serde(rename = "flow_prediction", alias = "flow")]
    Flow,
}

/// Where the discrete schedule puts its timesteps: Lin et al. (2023), Table 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// Evenly from the first to the last training timestep.
    Linspace,
    /// Multiples of T/N from below.
    Leading,
    /// Multiples of T/N from above.
    Trailing,
}

/// `scheduler/scheduler_config.json`: the noise that a model was trained with.
///
/// [`default`](Self::default) is SD 1.x; what a file leaves out is what diffusers' classes have then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default = "SchedulerConfig::absent")]
pub struct SchedulerConfig {
    /// T, the number of training timesteps.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// `scaled_linear` (linear in √β), `linear` or `squaredcos_cap_v2`.
    pub beta_schedule: String,
    /// Explicit β, if any.
    pub trained_betas: Option<Vec<f64>>,
    /// What the network predicts.
    pub prediction_type: PredictionKind,
    /// Spacing; each sampler has its own default when absent.
    pub timestep_spacing: Option<Spacing>,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// Whether DDIM ends at σ = 0 instead of the first training σ; absent is true.
    #[serde(deserialize_with = "some_truth", skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
    /// Rescale β to zero terminal signal-to-noise ratio: Lin et al. (2023), Algorithm 1.
    #[serde(deserialize_with = "truth")]
    pub rescale_betas_zero_snr: bool,
    /// `zero` or `sigma_min`: where Euler and DPM++ end.
    pub final_sigmas_type: Option<String>,
    /// Karras by default.
    pub use_karras_sigmas: Option<bool>,
    /// Exponential by default.
    pub use_exponential_sigmas: Option<bool>,
    /// Lowest level that a formula gives (Karras, exponential); absent is the table's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// Highest level that a formula gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// Whether DDIM clips its estimates of x₀; absent is true.
    #[serde(deserialize_with = "some_truth", skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<bool>,
    /// To what it clips them.
    pub clip_sample_range: f64,
    /// Dynamic thresholding of x₀ by DDIM and DPM++.
    #[serde(deserialize_with = "truth")]
    pub thresholding: bool,
    /// Which quantile of x₀ thresholding looks at.
    pub dynamic_thresholding_ratio: f64,
    /// Largest divisor of thresholding.
    pub sample_max_value: f64,
    /// Order of DPM++: 1 or 2.
    pub solver_order: usize,
    /// `dpmsolver++` (and `deis`, which diffusers reads as that); DPM++ refuses others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm_type: Option<String>,
    /// `midpoint` (and the names of UniPC and DEIS, which diffusers reads as that) or `heun`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver_type: Option<String>,
    /// Whether DPM++ ends runs under 15 steps with a step of first order; absent is true.
    #[serde(deserialize_with = "some_truth", skip_serializing_if = "Option::is_none")]
    pub lower_order_final: Option<bool>,
    /// Whether DPM++ ends every run so.
    #[serde(deserialize_with = "truth")]
    pub euler_at_final: bool,
    /// Least half log-SNR that DPM++ starts at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_min_clipped: Option<f64>,
    /// Into how many steps the distillation of an LCM cut the process; absent is 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_inference_steps: Option<usize>,
    /// Factor of the timestep in the boundary condition of an LCM; absent is 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_scaling: Option<f64>,
    /// Class of the reference's scheduler; any of the discrete ones, whose settings mean the same.
    #[serde(rename = "_class_name", skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// Spread of the data that EDM noise assumes; refused elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
    /// How EDM spaces noise levels: `karras` or `exponential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_schedule: Option<String>,
    /// How far timesteps of a flow are moved to the noisy end; absent is 1, not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// `discrete`; others are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_type: Option<String>,
    /// `linear`; others are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation_type: Option<String>,
    /// `learned` variances, which the network predicts beside the noise: refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variance_type: Option<String>,
    /// Spacing by a beta distribution: refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_beta_sigmas: Option<bool>,
    /// Spacing evenly in log-SNR with rounded timesteps: refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_lu_lambdas: Option<bool>,
    /// Noise of flow matching: refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_flow_sigmas: Option<bool>,
}

/// A flag that may be null, which Python takes for false.
fn truth<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(value)?.unwrap_or(false))
}

/// The same where an absent flag is another thing than a false one.
fn some_truth<'de, D: Deserializer<'de>>(value: D) -> Result<Option<bool>, D::Error> {
    truth(value).map(Some)
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        // SD 1.x: v1-inference.yaml of the original repository.
        Self {
            beta_start: 0.000_85,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".into(),
            clip_sample: Some(false),
            ..Self::absent()
        }
    }
}

impl SchedulerConfig {
    /// What diffusers 0.42 takes for keys that a file leaves out.
    fn absent() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: "linear".into(),
            trained_betas: None,
            prediction_type: PredictionKind::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: None,
            rescale_betas_zero_snr: false,
            final_sigmas_type: None,
            use_karras_sigmas: None,
            use_exponential_sigmas: None,
            sigma_min: None,
            sigma_max: None,
            clip_sample: None,
            clip_sample_range: 1.0,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            solver_order: 2,
            algorithm_type: None,
            solver_type: None,
            lower_order_final: None,
            euler_at_final: false,
            lambda_min_clipped: None,
            original_inference_steps: None,
            timestep_scaling: None,
            class_name: None,
            sigma_data: None,
            sigma_schedule: None,
            shift: None,
            timestep_type: None,
            interpolation_type: None,
            variance_type: None,
            use_beta_sigmas: None,
            use_lu_lambdas: None,
            use_flow_sigmas: None,
        }
    }

    /// Refuses noise that is not built: other noise levels, or another scale of what the network sees; and
    /// numbers that bound nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the config field.
    pub fn validate(&self) -> Result<()> {
        let class = self.class_name.as_deref();
        let built = [
            "EDMEulerScheduler",
            "EDMDPMSolverMultistepScheduler",
            "FlowMatchEulerDiscreteScheduler",
        ];
        let class = class
            .filter(|class| ["EDM", "FlowMatch"].iter().any(|s| class.starts_with(s)))
            .filter(|class| !built.contains(class));
        let spread = self.sigma_data.filter(|_| !self.is_edm());
        let flow = self.prediction_type == PredictionKind::Flow && !self.is_flow();
        let odd =
            |number: Option<f64>| number.filter(|n| !is_level(*n)).map(|number| number.to_string());
        let variance = self.variance_type.clone().filter(|kind| kind.starts_with("learned"));
        let both = [self.use_karras_sigmas, self.use_exponential_sigmas] == [Some(true); 2];
        refuse_first(&[
            ("_class_name", class.map(str::to_owned)),
            ("sigma_data", spread.map(|number| number.to_string())),
            ("sigma_data", odd(self.sigma_data)),
            ("sigma_schedule", other(self.sigma_schedule.as_deref(), &["karras", "exponential"])),
            ("shift", odd(self.shift)),
            ("prediction_type", flow.then(|| "flow_prediction".into())),
            ("timestep_type", other(self.timestep_type.as_deref(), &["discrete"])),
            ("interpolation_type", other(self.interpolation_type.as_deref(), &["linear"])),
            ("variance_type", variance),
            ("use_beta_sigmas", on(self.use_beta_sigmas)),
            ("use_lu_lambdas", on(self.use_lu_lambdas)),
            ("use_flow_sigmas", on(self.use_flow_sigmas)),
            ("use_karras_sigmas and use_exponential_sigmas", on(Some(both))),
            ("final_sigmas_type", other(self.final_sigmas_type.as_deref(), &["zero", "sigma_min"])),
        ])?;
        self.validate_numbers()
    }

    /// Whether the noise is that of Karras et al. (2022): Playground 2.5 and CosXL.
    pub fn is_edm(&self) -> bool {
        self.class_name.as_deref().is_some_and(|class| class.starts_with("EDM"))
    }

    /// Whether the noise is that of a rectified flow.
    pub fn is_flow(&self) -> bool {
        self.class_name.as_deref().is_some_and(|class| class.starts_with("FlowMatch"))
    }

    fn validate_numbers(&self) -> Result<()> {
        let bound = |number: f64| (!is_level(number)).then(|| number.to_string());
        let crossed = self.sigma_min.zip(self.sigma_max).filter(|(low, high)| low >= high);
        let (ratio, train) = (self.dynamic_thresholding_ratio, self.num_train_timesteps);
        let betas = self.trained_betas.as_ref().map_or(train, Vec::len);
        refuse_first(&[
            ("sigma_min", self.sigma_min.and_then(bound)),
            ("sigma_max", self.sigma_max.and_then(bound)),
            (
                "sigma_min and sigma_max",
                crossed.map(|(low, high)| format!("{low} and {high}, which do not rise")),
            ),
            ("clip_sample_range", bound(self.clip_sample_range)),
            ("sample_max_value", bound(self.sample_max_value)),
            (
                "dynamic_thresholding_ratio",
                (!(0.0..=1.0).contains(&ratio)).then(|| ratio.to_string()),
            ),
            (
                "trained_betas",
                (betas != train).then(|| format!("{betas} numbers for {train} timesteps")),
            ),
        ])
    }

    /// Refuses the first field of which something was found that `sampler` does not build, though its scheduler in
    /// diffusers follows it. `how`: what a user can do.
    pub(super) fn refuse_for(
        sampler: &str,
        how: Hint,
        found: &[(&str, Option<String>)],
    ) -> Result<()> {
        match found.iter().find_map(|(field, found)| Some((field, found.as_ref()?))) {
            None => Ok(()),
            Some((field, found)) => Err(Error::unsupported(
                format!("{sampler} with a scheduler config of {field} = {}", found.escape_debug()),
                how,
            )),
        }
    }

    /// Refuses runs that would rise at their end, to the lowest level of the table.
    pub(super) fn validate_end(&self, lowest: f64) -> Result<()> {
        let above = self.final_sigmas_type.as_deref() == Some("sigma_min");
        let low = self.sigma_min.filter(|low| above && *low < lowest);
        refuse_first(&[(
            "sigma_min",
            low.map(|low| format!("{low}, below the {lowest:.4} of final_sigmas_type")),
        )])
    }

    /// The bounds of estimates that `thresholding` asks for.
    pub(super) fn threshold(&self) -> Bounds {
        let (ratio, most) = (self.dynamic_thresholding_ratio, self.sample_max_value);
        if self.thresholding { Bounds::Threshold { ratio, most } } else { Bounds::Free }
    }

    /// The bounds of schedulers that clip estimates unless the config says otherwise.
    pub(super) fn clipped(&self) -> Bounds {
        match self.threshold() {
            Bounds::Free if self.clip_sample.unwrap_or(true) => {
                Bounds::Clip(self.clip_sample_range)
            }
            bounds => bounds,
        }
    }
}

/// What is found where only `built` is.
pub(super) fn other(found: Option<&str>, built: &[&str]) -> Option<String> {
    found.filter(|found| !found.is_empty() && !built.contains(found)).map(str::to_owned)
}

/// A flag that is set.
fn on(flag: Option<bool>) -> Option<String> {
    flag.filter(|flag| *flag).map(|flag| flag.to_string())
}

/// Whether a number can bound something.
fn is_level(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

/// Refuses the first field of which something was found.
fn refuse_first(found: &[(&str, Option<String>)]) -> Result<()> {
    match found.iter().find_map(|(field, found)| Some((field, found.as_ref()?))) {
        None => Ok(()),
        Some((field, found)) => Err(Error::unsupported(
            format!("a scheduler config with {field} = {}", found.escape_debug()),
            "models with discrete noise, EDM's and rectified flows are drawn",
        )),
    }
}
