//! How long pictures take: measured, or by the logs of earlier ones.

use super::manifest::entries;
use super::ready::Ready;
use crate::app::{self, Pool, SaveOptions};
use crate::error::Result;
use crate::pipeline::{Cancel, Timings};
use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;

/// Steps of a picture that is measured.
const FEW: usize = 2;

/// What pictures of a folder took, for an estimate of others.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// How many pictures were looked at.
    pub pictures: usize,
    /// Seconds of sampling for each pixel of each step.
    sampling: f64,
    /// Seconds of everything else for each picture.
    rest: f64,
}

impl Pace {
    /// The pace of the pictures that the logs in `folder` tell of; `None` without any.
    ///
    /// # Errors
    /// What reading gives.
    pub fn of(folder: &Path) -> Result<Option<Self>> {
        let (mut pictures, mut sampled, mut work, mut all) = (0_usize, 0.0, 0.0, 0.0);
        entries(folder, &mut |entry| {
            let pixels = entry.width as f64 * entry.height as f64 * entry.steps as f64;
            if let (Some(seconds), Some(took)) = (entry.seconds, entry.took())
                && pixels > 0.0
            {
                pictures += 1;
                sampled += seconds.sample;
                all += took;
                work += pixels;
            }
        })?;
        let sampling = sampled / work;
        let rest = (all - sampled) / pictures as f64;
        Ok((pictures > 0).then_some(Self { pictures, sampling, rest }))
    }

    /// The pace of `job`, whose picture is made with few steps and thrown away. What is read and built once for many
    /// pictures does not count.
    ///
    /// # Errors
    /// What making it gives.
    pub fn measured(job: &Ready, pool: &Pool, cancel: &Cancel) -> Result<Self> {
        let save = SaveOptions { hand_over: true, metadata: false, ..SaveOptions::default() };
        let steps = job.steps.min(FEW);
        let mut short = job.job()?;
        short.request.steps = Some(steps);
        let seconds = Cell::new((0.0, 0.0));
        let observer = |event: &app::Event<'_>| {
            if let app::Event::Saved(saved) = event {
                let Timings { encode, sample, decode, .. } = saved.image.timings;
                seconds.set((sample.as_secs_f64(), (encode + decode).as_secs_f64()));
            }
            ControlFlow::Continue(())
        };
        let observer: &dyn app::Observer = &observer;
        app::prepare(pool, &short, &save, observer, cancel)?.run(observer, cancel)?;
        let (sample, rest) = seconds.get();
        let sampling = sample / (job.width * job.height * steps).max(1) as f64;
        Ok(Self { pictures: 1, sampling, rest })
    }

    /// Seconds that `job` takes at this pace.
    pub fn seconds(&self, job: &Ready) -> f64 {
        job.width as f64 * job.height as f64 * job.steps as f64 * self.sampling + self.rest
    }
}
