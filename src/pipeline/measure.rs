//! One picture, measured: what each part took, how much was multiplied, how much memory it needed.

use super::event::{Once, Watch};
use super::run::Run;
use super::{Cancel, Observer, Pipeline, Plan, Timings};
use crate::error::Result;
use crate::input;
use crate::kernels::{self, Work};
use crate::weights::Precision;
use std::path::Path;
use std::time::{Duration, Instant};

/// What one picture took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Every part; its `sample` is the sum of the steps.
    pub timings: Timings,
    /// Each step.
    pub steps: Vec<Duration>,
    /// What the operators of the last step did; nothing where they do not count, on GPUs.
    pub step_work: Option<Work>,
    /// The same of the decoding.
    pub decode_work: Option<Work>,
}

impl Pipeline {
    /// How the UNet multiplies on a CPU; nothing elsewhere.
    pub fn precision(&self) -> Option<Precision> {
        self.model.precision()
    }

    /// Makes the first image of `plan`, or as many as are evaluated at once
    /// ([`Options::batch`](super::Options::batch)), and says what they took.
    ///
    /// Work is that of the whole process: nothing else may be generated meanwhile.
    ///
    /// # Errors
    /// As [`Pipeline::generate`].
    pub fn measure(
        &self,
        plan: &Plan,
        observer: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<Measured> {
        let counted = |before: &Work| {
            Some(kernels::work_done().since(before)).filter(|work| work.operations() > 0)
        };
        let watch = Watch { observer: &Once::new(observer), cancel };
        let images: Vec<usize> = (0..plan.count.min(self.model.batch)).collect();
        let run = Run::prepare(&self.model, plan, images.len() == plan.count, watch)?;
        let mut running = run.steps_watched(run.images(images.iter().copied()), None, watch)?;
        let (mut steps, mut step_work) = (Vec::with_capacity(plan.steps), None);
        loop {
            let (before, begin) = (kernels::work_done(), Instant::now());
            let Some(view) = running.next() else { break };
            view?;
            // A GPU is given its work long before it is done.
            self.device().synchronize()?;
            steps.push(begin.elapsed());
            step_work = counted(&before);
        }
        let before = kernels::work_done();
        let mut timings = Timings::default();
        running.finish_each_watched(watch, &mut |image| {
            timings.load += image.timings.load;
            timings.compose += image.timings.compose;
            timings.encode += image.timings.encode;
            timings.decode += image.timings.decode;
            Ok(())
        })?;
        timings.sample = steps.iter().sum();
        Ok(Measured { timings, steps, step_work, decode_work: counted(&before) })
    }
}

/// Forgets the peak of the memory in use, so that [`peak_memory`] counts from here; Linux only.
pub fn reset_peak_memory() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most bytes that the process had in memory at once, pages of mapped files included; Linux only.
pub fn peak_memory() -> Option<u64> {
    let status = input::text(Path::new("/proc/self/status"), 1 << 20, "a status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KernelKind;
    use crate::pipeline::{Request, Silent};

    #[test]
    fn the_parts_of_a_picture() {
        let pipeline = Pipeline::options().device("cpu".parse().unwrap()).open_starter().unwrap();
        let request = Request {
            prompt: "a fox".into(),
            steps: Some(2),
            width: Some(64),
            height: Some(64),
            ..Request::default()
        };
        let plan = pipeline.plan(&request, 0).unwrap();
        let found = pipeline.measure(&plan, &Silent, &Cancel::new()).unwrap();
        assert_eq!((found.steps.len(), pipeline.precision()), (2, Some(Precision::F32)));
        assert!(found.steps.iter().all(|step| *step <= found.timings.sample));
        let work = found.step_work.unwrap();
        assert!(work.operations() > 1_000_000, "{found:?}");
        let parts: Duration = KernelKind::ALL.iter().map(|kind| work.of(*kind).1).sum();
        assert!(parts > Duration::ZERO, "{found:?}");
        let cancel = Cancel::new();
        cancel.cancel();
        assert!(pipeline.measure(&plan, &Silent, &cancel).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_of_memory() {
        assert!(peak_memory() > Some(1 << 20));
        assert!(reset_peak_memory());
    }
}
