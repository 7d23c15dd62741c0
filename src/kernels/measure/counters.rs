//! What the operators did and how long it took, for measurements.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelKind {
    /// 3×3 convolutions by Winograd's algorithm, with the norms and activations before them.
    Winograd,
    /// All others but those of single pixels.
    Convolution,
    /// Linear layers and convolutions of single pixels.
    Linear,
    /// Scores, softmax and averages.
    Attention,
    /// Sums of norms, and layer norms.
    Norm,
    /// Activations on their way into products: scaled, activated, padded, rounded.
    Prologue,
}

impl KernelKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Winograd,
        Self::Convolution,
        Self::Linear,
        Self::Attention,
        Self::Norm,
        Self::Prologue,
    ];

    /// A name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Winograd => "convolution, Winograd",
            Self::Convolution => "convolution, direct",
            Self::Linear => "linear",
            Self::Attention => "attention",
            Self::Norm => "norms",
            Self::Prologue => "preparation",
        }
    }
}

/// What operators of each kind did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work([(u64, Duration); KernelKind::ALL.len()]);

impl Work {
    /// Operations of products by the plain algorithms (a multiplication and an addition are 2), and the time.
    pub fn of(&self, kind: KernelKind) -> (u64, Duration) {
        self.0[kind as usize]
    }

    /// Operations of all kinds.
    pub fn operations(&self) -> u64 {
        self.0.iter().map(|(operations, _)| operations).sum()
    }

    /// What was done since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut work = *self;
        for ((operations, time), before) in work.0.iter_mut().zip(before.0) {
            *operations = operations.saturating_sub(before.0);
            *time = time.saturating_sub(before.1);
        }
        work
    }
}

struct Entry {
    operations: AtomicU64,
    nanoseconds: AtomicU64,
}

/// Since the program began.
static DONE: [Entry; KernelKind::ALL.len()] =
    [const { Entry { operations: AtomicU64::new(0), nanoseconds: AtomicU64::new(0) } };
        KernelKind::ALL.len()];

/// Counts the time of an operator until it is dropped.
#[must_use]
pub(in crate::kernels) struct Clock {
    kind: KernelKind,
    begin: Instant,
}

/// Begins an operator with so many multiplications and additions; once a layer, so that it costs nothing.
/// `sizes`: factors of their number, as the plain algorithm has them; empty for none.
pub(in crate::kernels) fn begin(kind: KernelKind, sizes: &[usize]) -> Clock {
    if !sizes.is_empty() {
        let operations =
            sizes.iter().fold(2u64, |product, size| product.saturating_mul(*size as u64));
        DONE[kind as usize].operations.fetch_add(operations, Ordering::Relaxed);
    }
    Clock { kind, begin: Instant::now() }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let nanoseconds = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        DONE[self.kind as usize].nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// Everything until now, of the whole process.
pub(crate) fn done() -> Work {
    let mut work = Work::default();
    for (work, entry) in work.0.iter_mut().zip(&DONE) {
        let nanoseconds = entry.nanoseconds.load(Ordering::Relaxed);
        *work = (entry.operations.load(Ordering::Relaxed), Duration::from_nanos(nanoseconds));
    }
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_counted_by_kind() {
        let before = done();
        drop(begin(KernelKind::Attention, &[3, 5]));
        drop(begin(KernelKind::Norm, &[]));
        let work = done().since(&before);
        // Other tests run meanwhile.
        assert!(work.of(KernelKind::Attention).0 >= 30 && work.operations() >= 30);
        for (i, kind) in KernelKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
        }
    }
}
