//! The cells of a sweep: every combination of the values of its axes, each one job.

use super::axis::{Axis, of_axis};
use super::edit;
use crate::app::Job;
use crate::batch::Listed;
use crate::error::{Error, Result};
use crate::family::Defaults;
use crate::lora::{Apply, Method};
use crate::store::Store;
use std::collections::BTreeMap;

/// Most cells of a sweep.
const MOST: usize = 10_000;
/// Most axes: columns, rows, pages.
pub const MOST_AXES: usize = 3;
/// The names of the axes in legends and files.
pub const LETTERS: [&str; MOST_AXES] = ["x", "y", "z"];

/// A sweep: a job, and the axes along which it varies.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Columns, rows and pages, in this order; at least one.
    pub axes: Vec<Axis>,
    /// What all cells have in common; its seed is decided.
    pub base: Job,
}

/// Where a cell stands: for each axis the place of its value.
pub type Place = Vec<usize>;

/// The jobs of a sweep.
#[derive(Debug, Default)]
pub struct Cells {
    /// A job for each cell that can be one; its line is the number of the cell, from 1.
    pub listed: Vec<Listed>,
    /// Cells that cannot be made, by number from 1, and why.
    pub impossible: BTreeMap<usize, Error>,
}

impl Sweep {
    /// A sweep of `base` along `axes`; `seed` is the seed of cells that have none.
    ///
    /// LoRAs are kept beside the weights where an axis changes them, unless the request says how they are applied:
    /// then another strength costs nothing.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for more axes than three, two that are the same, or several pictures a cell;
    /// [`Error::Limit`] for too many cells.
    pub fn new(axes: Vec<Axis>, mut base: Job, seed: u64) -> Result<Self> {
        if axes.is_empty() || axes.len() > MOST_AXES {
            return Err(Error::bad_request("axis", axes.len(), "expected one, two or three axes"));
        }
        for (at, axis) in axes.iter().enumerate() {
            let twice = axes[..at].iter().any(|other| other.kind == axis.kind);
            if twice && axis.title != "Nothing" {
                let why = "another axis varies the same";
                return Err(Error::bad_request("axis", &axis.name, why));
            }
        }
        if base.request.count != 1 {
            let why = "a cell is one picture; several seeds are an axis: seed=1..4";
            return Err(Error::bad_request("count", base.request.count, why));
        }
        let cells =
            axes.iter().fold(1_u64, |all, axis| all.saturating_mul(axis.values.len() as u64));
        if cells > MOST as u64 {
            return Err(Error::Limit {
                what: "cells of a sweep",
                allowed: MOST as u64,
                asked: cells,
            });
        }
        let request = &mut base.request;
        request.seed.get_or_insert(seed);
        request.preview = 0;
        let open = request.apply == Apply::Auto && request.lora_method == Method::Sum;
        if open && axes.iter().any(|axis| axis.kind.is_of_loras()) {
            request.apply = Apply::Bypass;
        }
        Ok(Self { axes, base })
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.axes.iter().map(|axis| axis.values.len()).product()
    }

    /// Whether there is no cell, which a sweep always has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many values an axis has; 1 where there is no such axis.
    pub fn side(&self, axis: usize) -> usize {
        self.axes.get(axis).map_or(1, |axis| axis.values.len())
    }

    /// The place of the cell `number`, from 0: columns change first.
    pub fn place(&self, number: usize) -> Place {
        let mut rest = number;
        let place = self.axes.iter().map(|axis| {
            let count = axis.values.len().max(1);
            let at = rest % count;
            rest /= count;
            at
        });
        place.collect()
    }

    /// The labels of the values of a cell.
    pub fn labels(&self, number: usize) -> Vec<&str> {
        let values = self.axes.iter().zip(self.place(number));
        values.filter_map(|(axis, at)| Some(axis.values.get(at)?.label.as_str())).collect()
    }

    /// The jobs of all cells. A value that fits no cell at all is an error; a combination that does not fit is a cell
    /// that cannot be made.
    ///
    /// # Errors
    /// [`Error::BadRequest`] naming axis and value.
    pub fn cells(&self, store: &Store) -> Result<Cells> {
        self.values(store)?;
        let mut cells = Cells::default();
        for number in 0..self.len() {
            match self.cell(number, store) {
                Ok(job) => cells.listed.push(Listed {
                    line: number + 1,
                    job,
                    labels: self.names(number),
                    ..Listed::default()
                }),
                Err(error) => drop(cells.impossible.insert(number + 1, error)),
            }
        }
        match cells.impossible.pop_first() {
            Some((_, error)) if cells.listed.is_empty() => Err(error),
            Some((number, error)) => {
                cells.impossible.insert(number, error);
                Ok(cells)
            }
            None => Ok(cells),
        }
    }

    /// Refuses a value that cannot be read, whatever the other axes say.
    fn values(&self, store: &Store) -> Result<()> {
        let text = |axis: &Axis| axis.kind.turn() == 0;
        // Pieces are looked for in the prompts that an axis may give.
        let whole = self.axes.iter().find(|axis| text(axis));
        for axis in self.axes.iter().filter(|axis| axis.kind.turn() > 2) {
            for value in &axis.values {
                let mut job = self.base.clone();
                let named = |error| of_axis(&axis.name, error);
                edit::apply(axis, value, &mut job, store).map_err(named)?;
            }
        }
        match whole {
            Some(_) => Ok(()),
            None => self.axes.iter().filter(|axis| axis.kind.turn() <= 2).try_for_each(|axis| {
                let first = axis.values.first();
                first.map_or(Ok(()), |value| {
                    let mut job = self.base.clone();
                    edit::apply(axis, value, &mut job, store)
                        .map_err(|error| of_axis(&axis.name, error))
                })
            }),
        }
    }

    /// The job of a cell.
    fn cell(&self, number: usize, store: &Store) -> Result<Job> {
        let mut job = self.base.clone();
        let mut edits: Vec<_> = self.axes.iter().zip(self.place(number)).collect();
        edits.sort_by_key(|(axis, _)| axis.kind.turn());
        for (axis, at) in edits {
            let Some(value) = axis.values.get(at) else { continue };
            edit::apply(axis, value, &mut job, store)
                .map_err(|error| of_axis(&axis.name, error))?;
        }
        // A random seed is one and the same for all cells.
        job.request.seed = job.request.seed.or(self.base.request.seed);
        job.request.plan(&Defaults::of_unknown_model(), 0)?;
        Ok(job)
    }

    /// What the log keeps beside a picture.
    fn names(&self, number: usize) -> BTreeMap<String, String> {
        let values = LETTERS.iter().zip(self.axes.iter().zip(self.place(number)));
        let named = values.filter_map(|(letter, (axis, at))| {
            let text = &axis.values.get(at)?.text;
            Some(((*letter).to_owned(), format!("{}={text}", axis.name)))
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn store() -> Store {
        Store::new(&[], Path::new("."), &|_| None)
    }

    fn sweep(json: &str, specs: &[&str]) -> Result<Sweep> {
        let axes = specs.iter().map(|spec| Axis::parse(spec, &store())).collect::<Result<_>>()?;
        Sweep::new(axes, Job::from_json(json).unwrap(), 77)
    }

    #[test]
    fn cells_are_every_combination_with_one_seed() {
        let sweep = sweep(r#"{"prompt":"a fox"}"#, &["steps=2,3,4", "lora.a=0,1"]).unwrap();
        let cells = sweep.cells(&store()).unwrap();
        assert_eq!((sweep.len(), cells.listed.len()), (6, 6));
        assert_eq!((sweep.side(0), sweep.side(1), sweep.side(2)), (3, 2, 1));
        let requests: Vec<_> = cells.listed.iter().map(|cell| &cell.job.request).collect();
        assert_eq!(requests[4].steps, Some(3), "columns change first");
        assert_eq!(requests[4].loras[0].to_string(), "a:1");
        assert!(requests.iter().all(|r| r.seed == Some(77) && r.apply == Apply::Bypass));
        assert_eq!(sweep.labels(4), ["Steps: 3", "a: 1"]);
        assert_eq!(cells.listed[4].labels["y"], "lora.a=1");
        assert_eq!(cells.listed[4].line, 5);
    }

    #[test]
    fn seeds_are_fixed_once_and_apply_stays_what_was_chosen() {
        let seeds = sweep(r#"{"prompt":"x"}"#, &["seed=-1,5"]).unwrap().cells(&store()).unwrap();
        let seeds: Vec<_> = seeds.listed.iter().map(|cell| cell.job.request.seed).collect();
        assert_eq!(seeds, [Some(77), Some(5)]);
        let merged = sweep(r#"{"prompt":"x","apply":"merge","seed":3}"#, &["lora.a=1"]).unwrap();
        let request = &merged.base.request;
        assert_eq!((request.apply, request.seed), (Apply::Merge, Some(3)));
        assert_eq!(sweep("{}", &["steps=1"]).unwrap().base.request.apply, Apply::Auto);
    }

    #[test]
    fn combinations_that_do_not_fit_are_cells_and_values_are_errors() {
        let odd = sweep(r#"{"prompt":"x"}"#, &["sampler=euler-a,dpmpp-2m", "eta=0.5,1"]).unwrap();
        let cells = odd.cells(&store()).unwrap();
        assert_eq!((cells.listed.len(), cells.impossible.len()), (2, 2));
        for (specs, part) in [
            (&["steps=2,many"][..], "steps=many"),
            (&["steps=2", "steps=3"], "varies the same"),
            (&["prompt:cat=dog"], "neither the prompt"),
            (&["steps=0"], "at least 1"),
            (&["seed=1..200", "steps=1..200"], "cells of a sweep"),
            (&["a=1"], "unknown"),
        ] {
            let made = sweep(r#"{"prompt":"x"}"#, specs);
            let error = made.and_then(|sweep| sweep.cells(&store()).map(drop)).unwrap_err();
            assert!(error.to_string().contains(part), "{specs:?}: {error}");
        }
        assert!(sweep(r#"{"prompt":"x","count":2}"#, &["steps=1"]).is_err());
    }
}
