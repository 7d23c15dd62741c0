//! Parts of a network that stay in memory, or are built anew for every use.

use crate::error::Result;
use crate::weights::{Scope, WeightSource};
use rayon::prelude::*;
use std::sync::Arc;

/// Where a network's weights come from, and whether they stay.
#[derive(Debug, Clone)]
pub(super) struct Origin<'a> {
    scope: Scope<'a>,
    /// Set when parts are built anew for every use.
    source: Option<Arc<dyn WeightSource>>,
}

impl<'a> Origin<'a> {
    /// Parts stay once they are built.
    pub(super) fn staying(scope: Scope<'a>) -> Self {
        Self { scope, source: None }
    }

    /// Parts of `root`, a component or a path in one, are built when they are used, and go again.
    pub(super) fn streamed(source: &'a Arc<dyn WeightSource>, root: impl AsRef<str>) -> Self {
        Self { scope: Scope::new(&**source, root), source: Some(source.clone()) }
    }

    pub(super) fn scope(&self) -> &Scope<'a> {
        &self.scope
    }

    /// The origin one name further down.
    pub(super) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { scope: self.scope.at(name), source: self.source.clone() }
    }

    /// The part that `build` makes of this origin.
    ///
    /// # Errors
    /// Errors of `build`; of a part that is built anew for every use, when it is used.
    pub(super) fn part<T, F>(&self, build: F) -> Result<Part<T>>
    where
        F: Fn(&Origin<'_>) -> Result<T> + Send + Sync + 'static,
    {
        let Some(source) = &self.source else {
            return Ok(Part(Form::Staying(Arc::new(build(self)?))));
        };
        let (source, prefix) = (source.clone(), self.scope.prefix().to_owned());
        let build = move || build(&Origin::streamed(&source, &prefix));
        Ok(Part(Form::Streamed(Arc::new(build))))
    }
}

/// A part of a network. Cloning shares.
#[derive(Clone)]
pub(super) struct Part<T>(Form<T>);

#[derive(Clone)]
enum Form<T> {
    Staying(Arc<T>),
    Streamed(Arc<dyn Fn() -> Result<T> + Send + Sync>),
}

impl<T> Part<T> {
    /// Returns the result of `work` on the part.
    ///
    /// # Errors
    /// Errors of `work` and of building the part.
    pub(super) fn using<R>(&self, work: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        match &self.0 {
            Form::Staying(part) => work(part),
            Form::Streamed(build) => work(&build()?),
        }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Part<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Form::Staying(part) => part.fmt(f),
            Form::Streamed(_) => f.write_str("(built when it is used)"),
        }
    }
}

/// Parts of a network that are built at the same time: reading and packing one weight does not keep all
/// cores busy to the end. Of several errors the first part's is given.
pub(super) fn built<T: Send>(
    count: usize,
    part: impl Fn(usize) -> Result<T> + Send + Sync,
) -> Result<Vec<T>> {
    let parts: Vec<Result<T>> = (0..count).into_par_iter().map(part).collect();
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{MemorySource, Placement};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn parts_are_built_once_or_for_every_use() {
        let source: Arc<dyn WeightSource> = Arc::new(MemorySource::new(Placement::default()));
        for (origin, expected) in [
            (Origin::staying(Scope::new(&*source, "unet")), 1),
            (Origin::streamed(&source, "unet"), 3),
        ] {
            let count = Arc::new(AtomicUsize::new(0));
            let counter = count.clone();
            let part = origin.at("mid").part(move |origin| {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(origin.scope().prefix().to_owned())
            });
            let part = part.unwrap();
            for _ in 0..3 {
                assert_eq!(part.using(|name| Ok(name.clone())).unwrap(), "unet.mid");
            }
            assert_eq!(count.load(Ordering::Relaxed), expected);
        }
    }
}
