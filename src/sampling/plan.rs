//! A sampler and its grid, ready to run.

use super::config::SchedulerConfig;
use super::convention::Convention;
use super::grid::{Grid, GridRules, Wanted};
use super::integrator::{Denoiser, Integrator};
use super::noise::NoiseSource;
use super::options::SamplerOptions;
use super::process::NoiseProcess;
use super::samplers::Sampler;
use super::schedule::Schedule;
use super::tools;
use crate::error::Result;
use candle_core::Tensor;

/// What a request says about sampling.
#[derive(Debug, Clone)]
pub struct SamplingRequest {
    /// The sampler.
    pub sampler: Sampler,
    /// The spread of noise levels.
    pub schedule: Schedule,
    /// How many steps.
    pub steps: usize,
    /// What the sampler is tuned with.
    pub options: SamplerOptions,
    /// Whose way to choose noise levels is followed.
    pub convention: Convention,
    /// The rules of diffusers for them.
    pub rules: GridRules,
}

impl SamplingRequest {
    /// So many steps of a sampler with its defaults.
    pub fn new(sampler: Sampler, schedule: Schedule, steps: usize) -> Self {
        let (options, convention) = (SamplerOptions::default(), Convention::default());
        let rules = sampler.spec().grids.diffusers;
        Self { sampler, schedule, steps, options, convention, rules }
    }
}

impl SamplingRequest {
    /// The noise levels, on a model trained as `config` says.
    ///
    /// # Errors
    /// As [`Grid::plan`].
    pub fn grid(&self, config: &SchedulerConfig, process: &NoiseProcess) -> Result<Grid> {
        let wanted = Wanted::new(self.schedule, self.steps, &self.options);
        // Networks of other processes have lists of their own.
        let listed = matches!(process, NoiseProcess::VariancePreserving(_));
        match self.convention {
            Convention::Diffusers => Grid::plan(&self.rules, &wanted, config, process),
            _ if !listed => Grid::plan(&self.rules, &wanted, config, process),
            tool => tools::plan(tool, self.sampler, &wanted, config),
        }
    }
}

/// An integrator and the noise levels that it visits. A program may put its own here.
#[derive(Debug)]
pub struct Sampling {
    /// Takes the steps.
    pub integrator: Box<dyn Integrator>,
    /// The levels.
    pub grid: Grid,
}

impl Sampling {
    /// What `request` asks for, on a model trained as `config` says.
    ///
    /// # Errors
    /// As [`Sampler::begin`] and [`Grid::plan`].
    pub fn new(
        request: &SamplingRequest,
        config: &SchedulerConfig,
        process: &NoiseProcess,
    ) -> Result<Self> {
        let integrator = request.sampler.begin(&request.options, config)?;
        Ok(Self { integrator, grid: request.grid(config, process)? })
    }

    /// Runs every step from `x`, latents of the first level; the simple loop that tests and small programs need.
    ///
    /// Returns latents in the scale that the autoencoder expects.
    ///
    /// # Errors
    /// What the model or the noise gives.
    pub fn run(
        mut self,
        model: &dyn Denoiser,
        x: &Tensor,
        noise: &mut dyn NoiseSource,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for i in 0..self.grid.steps() {
            x = self.integrator.step(model, &x, &self.grid, i, noise)?.x;
        }
        self.grid.finish(&x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{End, NoNoise, NoiseTable, NoiseUse, SeededNoise};
    use candle_core::Device;

    fn sd(config: &SchedulerConfig) -> NoiseProcess {
        NoiseProcess::VariancePreserving(NoiseTable::new(config).unwrap())
    }

    /// The exact denoiser of data distributed as N(0, s²).
    struct Gaussian(f64);

    impl Denoiser for Gaussian {
        fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            let variance = self.0 * self.0;
            Ok((x * (variance / (variance + sigma * sigma)))?)
        }
    }

    /// Error against the exact solution x(σ) = x(σ₀)·√((s²+σ²)/(s²+σ₀²)).
    fn error(sampler: Sampler, steps: usize) -> f64 {
        let (top, s) = (10.0f64, 0.5f64);
        let mut sigmas: Vec<f64> =
            (0..steps).map(|i| top * (0.01f64 / top).powf(i as f64 / steps as f64)).collect();
        sigmas.push(0.01);
        let config = SchedulerConfig::default();
        let grid = Grid::from_sigmas(sd(&config), &sigmas).unwrap();
        let mut integrator = sampler.begin(&SamplerOptions::default(), &config).unwrap();
        let mut x = Tensor::new(&[3.0f64], &Device::Cpu).unwrap();
        for i in 0..steps {
            x = integrator.step(&Gaussian(s), &x, &grid, i, &mut NoNoise).unwrap().x;
        }
        let exact = 3.0 * ((s * s + 1e-4) / (s * s + top * top)).sqrt();
        (x.to_vec1::<f64>().unwrap()[0] - exact).abs()
    }

    /// Samplers of the ODE; the others follow no path that could be compared.
    #[test]
    fn samplers_converge_with_their_order() {
        let ode = |sampler: &Sampler| {
            let noise = sampler.spec().noise;
            // Its steps are as long as its tolerance allows, whatever the run's.
            let adaptive = *sampler == Sampler::DpmAdaptive;
            !adaptive && !matches!(noise, NoiseUse::EveryStep | NoiseUse::EveryEvaluation)
        };
        let mut wrong = Vec::new();
        for sampler in Sampler::ALL.into_iter().filter(ode) {
            let order = (error(sampler, 80) / error(sampler, 160)).log2();
            let expected = f64::from(sampler.spec().order);
            println!("{sampler}: order {order:.3} of {expected}");
            // Multistep methods of high order begin with steps of low order, and come near their own.
            // DPM fast's step lengths jump with the number of steps.
            let most = if sampler == Sampler::DpmFast { 5.0 } else { expected + 0.5 };
            let near = (expected - 0.3..most).contains(&order);
            wrong.extend((!near).then(|| format!("{sampler}: {order}")));
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    /// Samplers with noise keep the distribution of the data: mean 0 and deviation s at the end.
    #[test]
    fn samplers_with_noise_keep_mean_and_deviation() {
        let (top, s, steps) = (10.0f64, 0.5f64, 60);
        let at = |i: usize| top * (0.02f64 / top).powf(i as f64 / steps as f64);
        let sigmas: Vec<f64> = (0..=steps).map(at).collect();
        let config = SchedulerConfig { clip_sample: Some(false), ..Default::default() };
        let grid = Grid::from_sigmas(sd(&config), &sigmas).unwrap();
        for sampler in Sampler::ALL {
            // Distilled models' samplers jump to the estimate, which has less spread here.
            // So has ComfyUI's 2S a CFG++, which mixes the estimates of two levels.
            let jumps = matches!(sampler, Sampler::Lcm | Sampler::Tcd | Sampler::DpmPp2sACfgPp);
            let drawn = [NoiseUse::EveryStep, NoiseUse::EveryEvaluation];
            if jumps || !drawn.contains(&sampler.spec().noise) {
                continue;
            }
            let mut noise = SeededNoise::torch(&[5]);
            let start = noise.start((4, 64, 64), &Device::Cpu).unwrap();
            let mut x = (start * top.hypot(s)).unwrap();
            let mut integrator = sampler.begin(&SamplerOptions::default(), &config).unwrap();
            for i in 0..steps {
                x = integrator.step(&Gaussian(s), &x, &grid, i, &mut noise).unwrap().x;
            }
            let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
            let n = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
            let deviation = square.sqrt();
            println!("{sampler}: mean {mean:.4}, deviation {deviation:.4}");
            assert!(
                mean.abs() < 0.02 && (deviation - s).abs() < 0.05,
                "{sampler}: {mean} {deviation}"
            );
        }
    }

    #[test]
    fn ddim_equals_euler_without_noise() {
        // Without stochasticity both solve the same ODE by the same rule.
        assert!((error(Sampler::Euler, 40) - error(Sampler::Ddim, 40)).abs() < 1e-12);
    }

    fn plan(
        sampler: Sampler,
        schedule: Schedule,
        steps: usize,
        config: &SchedulerConfig,
    ) -> Result<Grid> {
        let request = SamplingRequest::new(sampler, schedule, steps);
        Ok(Sampling::new(&request, config, &sd(config))?.grid)
    }

    fn falls(grid: &Grid) -> bool {
        let levels = &grid.levels;
        levels.iter().all(|level| level.next < level.sigma)
            && levels.windows(2).all(|pair| pair[0].next == pair[1].sigma)
    }

    #[test]
    fn grids_fall_to_zero() {
        let config = SchedulerConfig::default();
        for sampler in Sampler::ALL {
            for schedule in Schedule::ALL {
                for steps in [1, 2, 5, 20, 30, 50] {
                    let grid = plan(sampler, schedule, steps, &config).unwrap();
                    assert_eq!(grid.steps(), steps, "{sampler} {schedule}");
                    let rules = sampler.spec().grids.diffusers;
                    assert!(
                        grid.end() == 0.0 || rules.end == End::Lowest || rules.pairs.is_some(),
                        "{sampler} {schedule}"
                    );
                    let whole = rules.pairs.is_some() || falls(&grid);
                    assert!(whole, "{sampler} {schedule} {steps}");
                }
            }
        }
    }

    #[test]
    fn grids_fall_to_the_lowest_level_of_the_table() {
        let config = SchedulerConfig {
            final_sigmas_type: Some("sigma_min".into()),
            set_alpha_to_one: Some(false),
            ..Default::default()
        };
        let lowest = NoiseTable::new(&config).unwrap().sigma(0.0);
        for sampler in [Sampler::Euler, Sampler::Ddim, Sampler::DpmPp2m] {
            for schedule in Schedule::ALL {
                for steps in [1, 2, 3, 15, 20, 25, 100, 333, 500] {
                    let grid = plan(sampler, schedule, steps, &config);
                    let grid = grid.unwrap_or_else(|e| panic!("{sampler} {schedule} {steps}: {e}"));
                    let end = grid.end();
                    // Tables of levels end at their own, which are a little below.
                    assert!(end > 0.0 && end < lowest + 1e-12, "{sampler} {schedule} {end}");
                }
            }
        }
    }

    #[test]
    fn impossible_step_counts_are_refused() {
        let config = SchedulerConfig::default();
        for steps in [0, 1000, usize::MAX] {
            let error = plan(Sampler::Euler, Schedule::Discrete, steps, &config);
            assert!(matches!(error, Err(crate::Error::BadRequest { field: "steps", .. })));
        }
    }

    /// A run may go up in between: what Restart needs.
    #[test]
    fn a_grid_may_rise() {
        let process = sd(&SchedulerConfig::default());
        assert!(Grid::from_sigmas(process.clone(), &[3.0, 1.0, 2.0, 0.0]).is_ok());
        for bad in [&[3.0][..], &[0.0, 1.0], &[f64::NAN, 0.0], &[2.0, f64::INFINITY]] {
            assert!(Grid::from_sigmas(process.clone(), bad).is_err(), "{bad:?}");
        }
    }
}
