//! Whole runs of A1111 from its own entry points, by `--compat a1111`: noise, levels, the timesteps that the network is
//! told, and the end.

use super::shared::{Records, gap, list, number, numbers, records, text, toy, values};
use candle_core::{DType, Device, Tensor};
use colora::rng::Rng;
use colora::sampling::{
    Convention, Denoiser, Estimates, Grid, ImageSeeds, NoiseProcess, NoiseRules, NoiseTable,
    PathRules, PredictionKind, Sampler, SamplerOptions, SamplingRequest, Schedule, SchedulerConfig,
    SeededNoise,
};
use serde_json::Value;
use std::cell::RefCell;

/// A network behind the timesteps of a run, guided with 3; it notes what it is told.
struct Told<'a> {
    grid: &'a Grid,
    kind: PredictionKind,
    timesteps: RefCell<Vec<f64>>,
}

impl Told<'_> {
    fn estimate(&self, x: &Tensor, sigma: f64, t: f64, shift: f64) -> colora::Result<Tensor> {
        let process = &self.grid.process;
        let level = process.table().sigma_in_log(t);
        let seen = process.scale_input(x, sigma)?;
        let x_there = (&seen * level.hypot(1.0))?;
        let noise = ((&x_there - toy(&x_there, level, shift)?)? / level)?;
        let output = match self.kind {
            PredictionKind::V => {
                let x0 = (&x_there - (&noise * level)?)?;
                ((noise - (x0 * level)?)? / level.hypot(1.0))?
            }
            _ => noise,
        };
        process.x0(self.kind, x, &output, sigma)
    }
}

impl Denoiser for Told<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> colora::Result<Tensor> {
        Ok(self.estimates(x, sigma)?.guided)
    }

    fn estimates(&self, x: &Tensor, sigma: f64) -> colora::Result<Estimates> {
        let t = self.grid.process.timestep(sigma, self.grid.rule);
        self.timesteps.borrow_mut().push(t);
        let unguided = self.estimate(x, sigma, t, 0.0)?;
        let guided = (&unguided + ((self.estimate(x, sigma, t, 0.3)? - &unguided)? * 3.0)?)?;
        Ok(Estimates { guided, unguided })
    }
}

/// What of a record is built; images that are drawn over and some options are not.
fn followed(record: &Value) -> bool {
    let options = record["options"].as_object().unwrap();
    let known = ["v", "zero_snr", "eta_ddim"];
    record["strength"].is_null()
        && options.keys().all(|option| known.contains(&option.as_str()))
        && record["final"].is_array()
}

fn request(record: &Value) -> SamplingRequest {
    let sampler: Sampler = text(record, "sampler").parse().unwrap();
    let schedule = match text(record, "schedule") {
        "Automatic" => Schedule::Discrete,
        name => name.parse().unwrap(),
    };
    let steps = number(record, "steps") as usize;
    let mut request = SamplingRequest::new(sampler, schedule, steps);
    request.convention = Convention::A1111;
    request.options = match sampler {
        Sampler::DpmFast | Sampler::DpmAdaptive => SamplerOptions::default().with("eta", 1.0),
        Sampler::UniPc => SamplerOptions::default().with("order", 3.0),
        _ => match record["options"]["eta_ddim"].as_f64() {
            Some(eta) => SamplerOptions::default().with("eta", eta),
            None => SamplerOptions::default(),
        },
    };
    request
}

/// The largest differences of a run: levels, timesteps told, and the end.
fn run(record: &Value) -> [f64; 3] {
    let on = |key: &str| record["options"][key] == true;
    let kind = if on("v") { PredictionKind::V } else { PredictionKind::Epsilon };
    let config = SchedulerConfig {
        rescale_betas_zero_snr: on("zero_snr"),
        prediction_type: kind,
        ..SchedulerConfig::default()
    };
    let process = NoiseProcess::VariancePreserving(NoiseTable::new(&config).unwrap());
    let request = request(record);
    let mut grid = request.grid(&config, &process).unwrap();
    let own = [Sampler::DpmFast, Sampler::DpmAdaptive, Sampler::Restart].contains(&request.sampler);
    let theirs = numbers(&record["sigmas"]);
    let mut levels = 0.0f64;
    if !own && record["sigmas"].is_array() {
        let ours: Vec<f64> = grid.levels.iter().map(|l| l.sigma).chain([grid.end()]).collect();
        levels = gap(&ours, &theirs);
        // The last bits of f32 powers move the points of Brownian paths.
        if ours.len() == theirs.len() {
            for (i, level) in grid.levels.iter_mut().enumerate() {
                let f32_of = |sigma: f64| f64::from(sigma as f32);
                level.sigma = f32_of(theirs[i]);
                level.next = f32_of(theirs[i + 1]);
                level.target = level.next;
            }
            grid.start_scale = f64::from(theirs[0] as f32);
        }
    }
    let rng: Rng = text(record, "source").parse().unwrap();
    let images = [42, 43].map(|seed| ImageSeeds { seed, variation: 0 });
    let mut noise = SeededNoise::by_rules(NoiseRules { rng, ..NoiseRules::default() }, &images);
    let start = noise.start((4, 2, 2), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    if request.sampler.spec().brownian {
        let (low, high) = grid.span();
        let rules = PathRules { rng, low, high, through_logs: true };
        noise = noise.along_paths(rules, vec![42, 43]);
    }
    let mut integrator = request.sampler.begin(&request.options, &config).unwrap();
    let mut x = grid.start(&start).unwrap();
    let model = Told { grid: &grid, kind, timesteps: RefCell::default() };
    for i in 0..grid.steps() {
        x = integrator.step(&model, &x, &grid, i, &mut noise).unwrap().x;
    }
    let end = gap(&values(&grid.finish(&x).unwrap()), &numbers(&record["final"]));
    let calls = list(record, "timesteps_and_first_inputs");
    let theirs: Vec<f64> = calls.iter().map(|call| call[0].as_f64().unwrap()).collect();
    [levels, gap(&model.timesteps.into_inner(), &theirs), end]
}

#[test]
fn whole_runs_equal_a1111() {
    for Records { name, values } in records() {
        let (mut wrong, mut count) = (Vec::new(), 0);
        let mut most = [0.0f64; 3];
        for record in list(&values["whole_a1111"], "runs").iter().filter(|r| followed(r)) {
            let found = run(record);
            let adaptive = text(record, "sampler") == "DPM adaptive";
            // Lengths of its steps accumulate differences of the last bits.
            let (told, end) = if adaptive { (0.05, 1e-2) } else { (2e-3, 1e-3) };
            let fine = found[0] <= 4e-6 && found[1] <= told && found[2] <= end;
            if !fine {
                let what =
                    format!("{} {} {}", record["sampler"], record["schedule"], record["options"]);
                wrong.push(format!("{what} {}: {found:?}", record["source"]));
            }
            if !adaptive {
                (0..3).for_each(|i| most[i] = most[i].max(found[i]));
            }
            count += 1;
        }
        println!("{name}: {count} runs of A1111, levels, timesteps and ends within {most:?}");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(count >= 50, "{count}");
    }
}
