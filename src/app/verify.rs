//! Whether a picture can be drawn again: its record makes a job, and the new picture is compared with it.

use super::checked::CheckedRecord;
use super::event::Event;
use super::job::Job;
use super::open::Pool;
use super::run::prepare;
use super::save::SaveOptions;
use super::settings::Layers;
use crate::error::{Error, Result};
use crate::picture::{Format, Picture, Texts};
use crate::pipeline::Cancel;
use serde::Serialize;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

/// How a picture differs from the one that was drawn again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The largest difference of a channel, of 255.
    pub largest: u8,
    /// The mean difference of a channel, of 255.
    pub mean: f64,
    /// The part of the pixels that differ.
    pub part: f64,
    /// Column and row of the first pixel with the largest difference.
    pub at: Option<[usize; 2]>,
}

/// What came of drawing a picture again.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// Every pixel is the same.
    Equal,
    /// The pictures differ.
    Differs(Difference),
    /// The sizes differ: width and height of the file, and of what was drawn.
    Sizes {
        /// The file's.
        stored: [usize; 2],
        /// The drawn one's.
        drawn: [usize; 2],
    },
}

impl Verdict {
    /// Compares a stored picture with one that was drawn again.
    pub fn of(stored: &Picture, drawn: &Picture) -> Self {
        let size = |picture: &Picture| [picture.width(), picture.height()];
        if size(stored) != size(drawn) {
            return Self::Sizes { stored: size(stored), drawn: size(drawn) };
        }
        let pairs = stored.bytes().iter().zip(drawn.bytes());
        let differences: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
        let largest = differences.iter().copied().max().unwrap_or(0);
        if largest == 0 {
            return Self::Equal;
        }
        let sum: u64 = differences.iter().map(|d| u64::from(*d)).sum();
        let other = differences.chunks(3).filter(|pixel| pixel.iter().any(|d| *d > 0)).count();
        let first = differences.iter().position(|d| *d == largest).map(|at| at / 3);
        Self::Differs(Difference {
            largest,
            mean: sum as f64 / differences.len() as f64,
            part: other as f64 / (differences.len() / 3) as f64,
            at: first.map(|at| [at % stored.width(), at / stored.width()]),
        })
    }

    /// Whether no channel differs by more than `tolerance`.
    pub fn is_within(&self, tolerance: u8) -> bool {
        match self {
            Self::Equal => true,
            Self::Differs(difference) => difference.largest <= tolerance,
            Self::Sizes { .. } => false,
        }
    }
}

/// The job of a record; nothing but the picture decides.
///
/// # Errors
/// As [`Layers::job`].
pub fn job_of(checked: &CheckedRecord, path: &Path) -> Result<Job> {
    let mut layers = Layers::default();
    layers.picture(checked, path)?;
    let mut job = layers.job()?;
    job.request.preview = 0;
    job.request.count = 1;
    Ok(job)
}

/// Draws a job again and compares the picture with the file `path`. A picture of a JPEG file is compared as that format
/// holds it. Returns the device that it was drawn on, too.
///
/// # Errors
/// What opening the model and drawing give; [`Error::Cancelled`].
pub fn verify(
    pool: &Pool,
    job: &Job,
    path: &Path,
    observer: &dyn super::Observer,
    cancel: &Cancel,
) -> Result<(Verdict, String)> {
    let stored = Picture::open(path)?;
    let save = SaveOptions { hand_over: true, metadata: false, ..SaveOptions::default() };
    let drawn = RefCell::new(None);
    let watch = |event: &Event<'_>| match event {
        Event::Saved(saved) => {
            *drawn.borrow_mut() = Some(saved.image.picture.clone());
            ControlFlow::Continue(())
        }
        other => observer.event(other),
    };
    let prepared = prepare(pool, job, &save, &watch, cancel)?;
    let device = prepared.pipeline.device_name();
    prepared.run(&watch, cancel)?;
    let drawn = drawn.into_inner().ok_or_else(|| Error::Internal("no picture was drawn".into()))?;
    let drawn = match crate::picture::format_of(path)? {
        Some(Format::Jpeg) => Picture::decode(Format::Jpeg.encode(&drawn, &Texts::default())?)?,
        _ => drawn,
    };
    Ok((Verdict::of(&stored, &drawn), device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_measured() {
        let grey = Picture::new(4, 2, vec![100; 24]).unwrap();
        let mut bytes = vec![100; 24];
        assert_eq!(Verdict::of(&grey, &grey), Verdict::Equal);
        bytes[17] = 103;
        bytes[1] = 99;
        let verdict = Verdict::of(&grey, &Picture::new(4, 2, bytes).unwrap());
        let Verdict::Differs(difference) = &verdict else { panic!("{verdict:?}") };
        assert_eq!((difference.largest, difference.at), (3, Some([1, 1])));
        assert!(
            (difference.part - 0.25).abs() < 1e-9 && (difference.mean - 4.0 / 24.0).abs() < 1e-9
        );
        assert!(verdict.is_within(3) && !verdict.is_within(2));
        let wide = Picture::new(5, 2, vec![100; 30]).unwrap();
        let sizes = Verdict::Sizes { stored: [4, 2], drawn: [5, 2] };
        assert_eq!(Verdict::of(&grey, &wide), sizes);
    }
}
